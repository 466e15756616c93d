"""A graft: it begins as the model that was there, only what was added learns, and it goes out again."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.data.tokenizer import train_tokenizer
from memlm.errors import CheckpointError, ConfigError, DataError, RunError
from memlm.hf import GraftedForCausalLM
from memlm.model.graft import GraftConfig

MEMORY = {"type": "product_key", "n_keys": 8, "d_key": 16, "d_value": 12, "top_k": 3, "n_heads": 2}
GRAFT = {"memory": MEMORY, "fusion": {"type": "weighted_sum"}, "layers": [0, 2], "corpus": "x"}
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES = SHAPE | {"vocab_size": 320, "num_key_value_heads": 2, "head_dim": 8, "eos_token_id": None, "pad_token_id": 1}
SIZES |= {"max_position_embeddings": 200_000}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3_tied": Qwen3Config(**SIZES, tie_word_embeddings=True),
}
TOKENS = torch.arange(2, 22).view(2, 10)


def dense(family="llama"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family]).eval()


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("shared", [True, False])
def test_it_begins_bit_for_bit_as_the_model_that_was_there(family, shared):
    logits = dense(family)(TOKENS).logits
    model = GraftedForCausalLM.onto(dense(family), GraftConfig.model_validate(GRAFT | {"shared_bank": shared}))
    assert torch.equal(model(TOKENS).logits, logits)
    assert len(model.banks) == (1 if shared else 2)
    with torch.no_grad():
        model.dense.model.layers[2].mlp.gate += 0.5
    assert not torch.equal(model(TOKENS).logits, logits), "the memory reaches nothing"


def test_it_is_saved_loaded_and_generates_with_its_cache(family, tmp_path):
    model = GraftedForCausalLM.onto(dense(family), GraftConfig.model_validate(GRAFT)).eval()
    with torch.no_grad():
        for parameter in model.added():
            parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
    mask = torch.ones_like(TOKENS)
    mask[0, :4] = 0
    greedy = {"max_new_tokens": 5, "do_sample": False}
    with_cache = loaded.generate(TOKENS, attention_mask=mask, **greedy)
    assert torch.equal(with_cache, loaded.generate(TOKENS, attention_mask=mask, use_cache=False, **greedy))
    assert torch.equal(with_cache[0, 4:], loaded.generate(TOKENS[:1, 4:], **greedy)[0])


def test_it_generates_as_the_model_that_was_there_was_set_to(tmp_path):
    base = dense()
    base.generation_config.update(eos_token_id=[5, 9, 11], do_sample=True, temperature=0.6)
    GraftedForCausalLM.onto(base, GraftConfig.model_validate(GRAFT)).save_pretrained(tmp_path)
    kept = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert (kept.eos_token_id, kept.do_sample, kept.temperature) == ([5, 9, 11], True, 0.6)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """A random dense model with a tokenizer."""
    folder = tmp_path_factory.mktemp("dense") / "small"
    texts = [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]
    tokenizer: Tokenizer = train_tokenizer(texts, 320)
    dense().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "graft.yaml"
    settings = GRAFT | {"corpus": str(corpus), "steps": 30, "batch_size": 4, "seq_len": 32, "lr": 3e-2}
    path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def grafted(folder, config):
    out = folder.parent / "grafted"
    done = CliRunner().invoke(app, ["graft", str(folder), str(out), "--config", str(config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert [line.split("  ")[0] for line in done.stderr.splitlines()] == [f"step {n}/30" for n in range(3, 31, 3)]
    assert "  loss " in done.stderr and "  ETA 0 s" in done.stderr
    return out, done.output


def test_the_command_trains_the_memory_alone(grafted, folder):
    out, told = grafted
    model, base = AutoModelForCausalLM.from_pretrained(out), AutoModelForCausalLM.from_pretrained(folder)
    left = {name.replace(".mlp.mlp.", ".mlp."): tensor for name, tensor in model.dense.state_dict().items()}
    assert all(torch.equal(left[name], tensor) for name, tensor in base.state_dict().items())
    assert all(gate.abs().min() > 0 for name, gate in left.items() if name.endswith(".gate"))
    before, after = (float(part) for part in told.split("held-out loss ")[1].split(" nats")[0].split(" -> "))
    assert after < before - 0.05
    assert f"| {after:.4f} |" in (out / "README.md").read_text(encoding="utf-8")


def test_it_loads_where_there_is_no_memlm(grafted, tmp_path):
    out, _ = grafted
    script = (
        "import sys; sys.modules['memlm'] = None\n"
        "import torch\nfrom safetensors.torch import save_file\nfrom transformers import AutoModelForCausalLM\n"
        "torch.set_num_threads(1)\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "save_file({'logits': model(torch.arange(2, 22).view(2, 10)).logits.detach().contiguous()}, sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(out), str(tmp_path / "out")],
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    logits = load_file(tmp_path / "out")["logits"]
    assert torch.equal(logits, AutoModelForCausalLM.from_pretrained(out)(TOKENS).logits)


@pytest.mark.parametrize(
    ("override", "error", "reason"),
    [
        ("memory={type: ngram_hash}", ConfigError, "reads by the ids of tokens"),
        ("memory.bank={type: tokens}", ConfigError, "must be vectors: a graft adds no tokens"),
        ("memory.bank={type: vectors, dtype: bfloat16}", ConfigError, "must be float32: a graft's training rounds"),
        ("memory.type=product_key_batch_norm", ConfigError, "acts otherwise in training, and a graft learns in eval"),
        ("layers=[]", ConfigError, "names no layer"),
        ("layers=[7]", RunError, r"layers: \[7\] lie outside 0\.\.2"),
        ("fusion={type: one_neuron_experts}", RunError, "needs values 64 wide here, not 12"),
        ("seq_len=100000", DataError, "are too few for sequences of seq_len = 100000"),
        ("seq_len=200001", RunError, "seq_len: 200001 is longer than the 200000 positions of .*; take 200000"),
        ("corpus=none.jsonl", DataError, r"none\.jsonl: no file matches; mend the path$"),
    ],
)
def test_a_mistake_is_one_clear_line(override, error, reason, folder, config, tmp_path):
    line = ["graft", str(folder), str(tmp_path / "out"), "--config", str(config), "-o", override]
    with pytest.raises(error, match=reason):
        CliRunner().invoke(app, line, catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_one_clear_line(folder, config, tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("memlm.graft.graft._nats", exhausted)
    line = ["graft", str(folder), str(tmp_path / "out"), "--config", str(config)]
    with pytest.raises(RunError, match=r"small: out of memory; lower batch_size, seq_len or memory\.n_keys"):
        CliRunner().invoke(app, line, catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_form_and_no_model_are_told(folder, config, tmp_path, monkeypatch):
    from transformers import GPT2Config

    other = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=320))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel has no model\.layers\[i\]\.mlp"):
        GraftedForCausalLM.onto(other, GraftConfig.model_validate(GRAFT | {"layers": "all"}))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "some.py").touch()
    for name, reason in (("none", "there is no such folder"), ("code", "there is no model in this folder")):
        line = ["graft", str(tmp_path / name), str(tmp_path / "out"), "--config", str(config)]
        with pytest.raises(CheckpointError, match=f"{name}: {reason}"):
            CliRunner().invoke(app, line, catch_exceptions=False)
