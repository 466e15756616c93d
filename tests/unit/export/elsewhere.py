"""Loads exported models where there is no memlm, and writes down what they compute; run by `test_export.py`."""

import json
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

folder, out, *names = sys.argv[1:]
torch.set_num_threads(1)
kept, told = {}, {}
models = {
    name: AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", trust_remote_code=True)
    for name in (*names, "again")  # all before any of them computes: none may disturb another
}
kept["again.logits"] = models.pop("again")(torch.arange(2, 22).view(2, 10)).logits.detach()
for name, model in models.items():
    config = AutoConfig.from_pretrained(f"{folder}/{name}", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/{name}", trust_remote_code=True)
    tokens = torch.arange(2, 22).view(2, 10)
    greedy = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0  # the first text is shorter, and padded on its left
    with torch.no_grad():
        kept[f"{name}.logits"] = model(tokens).logits
        for argument in ("cache", "past_key_values"):
            cache = DynamicCache(config=model.config)
            model(tokens[:, :6], **{argument: cache})
            kept[f"{name}.{argument}"] = model(tokens[:, 6:], **{argument: cache}).logits
        kept[f"{name}.with_cache"] = model.generate(tokens, attention_mask=mask, **greedy)
        kept[f"{name}.without_cache"] = model.generate(tokens, attention_mask=mask, use_cache=False, **greedy)
        kept[f"{name}.static"] = model.generate(
            tokens, attention_mask=mask, cache_implementation="static", disable_compile=True, **greedy
        )
        kept[f"{name}.alone"] = model.generate(tokens[:1, 4:], attention_mask=mask[:1, 4:], **greedy)
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    told[name] = {
        "module": type(model).__module__,
        "config": type(config).__name__,
        "text": tokenizer.decode(tokenizer("ka lo").input_ids),
        "chat": tokenizer.apply_chat_template([{"role": "user", "content": "ka"}], tokenize=False),
        "without_gradient": [key for key, parameter in model.named_parameters() if parameter.grad is None],
    }
save_file({key: tensor.contiguous() for key, tensor in kept.items()}, out)
print(json.dumps(told))
