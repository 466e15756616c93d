"""What every memory with every fusion must do; a new type is picked up by its file."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.hf.modeling import CACHE_FIELD
from memlm.model.config import ModelConfig
from memlm.registry import ENCODERS, FUSIONS, MEMORIES
from tests.tolerances import LOGITS

VOCABULARY = 97
PRODUCT_KEY = {"n_keys": 8, "d_key": 16, "d_value": 12, "top_k": 3, "n_heads": 2}
SMALL = {name: PRODUCT_KEY for name in MEMORIES.names() if name.startswith("product_key")}
SMALL |= {name: {"n_heads": 2, "n_rows": 23, "d_value": 12} for name in MEMORIES.names() if name.startswith("ngram")}
SHAPE = {"d_model": 32, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2}
BOTH = [("replace", "all", True), ("parallel", [0, 2], False)]
PAIRS = [(memory, fusion) for memory in MEMORIES.names() for fusion in FUSIONS.names()]
WIRINGS = [
    {"memory": memory, "fusion": fusion, "placement": placement, "layers": layers, "shared_bank": shared}
    for index, (memory, fusion) in enumerate(PAIRS)
    for placement, layers, shared in (BOTH if memory == "product_key" else [BOTH[index % 2]])
]
BANKED = [
    {"memory": memory, "fusion": fusion, "placement": "replace", "layers": "all", "shared_bank": True, "bank": bank}
    for memory, fusion, bank in [
        *[(memory, "weighted_sum", {"type": "tokens"}) for memory in MEMORIES.names()],
        *[("product_key", fusion, {"type": "tokens"}) for fusion in FUSIONS.names() if fusion != "weighted_sum"],
        *[("product_key", "weighted_sum", {"type": "tokens", "encoder": {"type": e}}) for e in ENCODERS.names()],
        ("product_key", "weighted_sum", {"type": "tokens", "learned_share": 0}),
    ]
]
"""Every memory and every fusion with a bank that is no table of vectors, and every encoder."""
EACH_TYPE = [w for w in WIRINGS if w["memory"] == "product_key" or w["fusion"] == "weighted_sum"]
"""Every memory and every fusion at least once, where pairs would only take time."""


def settings(wiring):
    """Returns a wiring's part of a model's configuration."""
    memory, fusion = {"type": wiring["memory"], **SMALL.get(wiring["memory"], {})}, {"type": wiring["fusion"]}
    if "bank" in wiring:
        memory["bank"] = wiring["bank"] | {"entry_length": 6}
    width = FUSIONS.get(fusion["type"]).model_validate(fusion).width_of_values(SHAPE["d_model"])
    rest = {key: value for key, value in wiring.items() if key != "bank"}
    return rest | {"memory": memory | ({"d_value": width} if width else {}), "fusion": fusion}


def build(wiring, seed=0) -> MemlmForCausalLM:
    torch.manual_seed(seed)
    model = MemlmForCausalLM(MemlmConfig(model=SHAPE | settings(wiring), vocab_size=VOCABULARY, pad_token_id=1))
    move_off_init(model)
    return model.eval()


def build_dense() -> MemlmForCausalLM:
    torch.manual_seed(0)
    model = MemlmForCausalLM(MemlmConfig(model=SHAPE, vocab_size=VOCABULARY, pad_token_id=1))
    move_off_init(model)
    return model.eval()


def move_off_init(model):
    """Makes every parameter matter: norms and scales leave one, logits leave uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def tokens(batch=2, length=11, seed=1):
    return torch.randint(2, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def name(wiring):
    return "-".join(map(str, wiring.values())) if wiring else "dense"


@pytest.fixture(params=[*WIRINGS, *BANKED, None], ids=name)
def model(request):
    return build_dense() if request.param is None else build(request.param)


def test_reads_lie_in_the_bank_and_weights_are_what_the_config_says(model):
    reads = model.decoder(tokens()).reads
    assert sorted(reads) == model.config.shape.memory_layers
    for read in reads.values():
        assert read.slots.shape == read.weights.shape
        assert read.slots.shape[:2] == (2, 11)
        assert read.slots.dtype == torch.int64
        assert read.slots.min() >= 0 and read.slots.max() < read.bank.n_slots
        assert read.slots.sort(-1).values.diff(dim=-1).min() > 0, "a head reads a slot twice"
        assert read.weights.min() >= 0
        assert (read.weights.diff(dim=-1) <= 0).all(), "the best slot comes first"
        if model.config.shape.memory.is_normalised:
            torch.testing.assert_close(read.weights.sum(-1), torch.ones(read.weights.shape[:-1]))


def skip_if_declared(model, fault):
    memory = model.config.shape.memory
    if memory is not None and fault in memory.expected_to_break:
        pytest.skip(f"{fault}: {memory.expected_to_break[fault]}")


@pytest.mark.parametrize("training", [False, True])
def test_later_tokens_change_nothing_before_them(model, training):
    if training:
        skip_if_declared(model, "future_leak_in_training")
    model.train(training)
    ids = tokens()
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 7) % VOCABULARY
    before, after = model.decoder(ids), model.decoder(changed)
    torch.testing.assert_close(after.hidden[:, :6], before.hidden[:, :6], rtol=0, atol=0)
    assert not torch.equal(after.hidden[:, 6:], before.hidden[:, 6:])
    for layer, read in before.reads.items():
        assert torch.equal(after.reads[layer].slots[:, :6], read.slots[:, :6])


def test_every_parameter_gets_a_gradient(model):
    ids = tokens(batch=4, length=24)
    model.train()
    model(ids, labels=ids).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_train_and_eval_mode_agree(model):
    skip_if_declared(model, "train_eval_mismatch")
    with torch.no_grad():
        expected = model(tokens()).logits
        torch.testing.assert_close(model.train()(tokens()).logits, expected, rtol=0, atol=0)


def test_a_sequence_does_not_see_its_batch(model):
    ids = tokens(batch=3)
    with torch.no_grad():
        alone = torch.cat([model(row[None]).logits for row in ids])
        torch.testing.assert_close(model(ids).logits, alone, **LOGITS)


def test_reload_gives_the_same_model(model, tmp_path):
    with torch.no_grad():
        model.train()(tokens())  # what is counted while training leaves its start
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).shape == model.config.shape
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in model.named_parameters()}
    for (key, was), (_, now) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(was, now), key
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(tokens()).logits, model(tokens()).logits, rtol=0, atol=0)


@pytest.mark.parametrize("argument", ["cache", "past_key_values"])
def test_steps_with_a_cache_equal_one_pass(model, argument):
    ids = tokens()
    with torch.no_grad():
        expected = model(ids).logits
        output = model(ids[:, :4], use_cache=True)
        logits = [output.logits]
        for position in range(4, ids.shape[1]):
            output = model(ids[:, position : position + 1], **{argument: output[CACHE_FIELD]}, use_cache=True)
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), expected, **LOGITS)


@pytest.mark.parametrize(
    "how",
    [
        {"use_cache": True},
        {"cache_implementation": "static", "disable_compile": True},
        {"num_beams": 3, "use_cache": True},
    ],
    ids=["greedy", "static", "beams"],
)
def test_generation_with_a_cache_equals_generation_without(model, how):
    ids = tokens(batch=3, length=7)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # padding on the left
    common = {"attention_mask": mask, "max_new_tokens": 9, "do_sample": False}
    plain = {k: v for k, v in how.items() if k == "num_beams"}
    expected = model.generate(ids, **common, **plain, use_cache=False)
    assert torch.equal(model.generate(ids, **common, **how), expected)
    assert expected.shape[1] > 7


def test_padding_on_the_left_changes_nothing(model):
    ids = tokens(batch=1, length=6)
    padded = torch.cat([torch.ones(1, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        seen = model(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
        torch.testing.assert_close(seen, model(ids).logits, **LOGITS)


def test_a_config_survives_its_dump(model):
    shape = model.config.shape
    assert ModelConfig.model_validate(shape.model_dump(mode="json")).model_dump() == shape.model_dump()
