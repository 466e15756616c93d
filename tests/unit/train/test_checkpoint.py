"""Saving whole or not at all, and refusing what does not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, AutoTokenizer

from memlm.errors import CheckpointError
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train.checkpoint import load_model, load_weights, save_model

CPU = torch.device("cpu")


@pytest.fixture
def model():
    wiring = {"memory": {"type": "product_key", "n_keys": 4, "d_value": 8, "top_k": 2}, "fusion": {"type": "gated_mlp"}}
    return MemlmForCausalLM(MemlmConfig(model={"d_model": 16, "n_layers": 1, "n_heads": 2, **wiring}, vocab_size=31))


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    Tokenizer(BPE(vocab={"<|end|>": 0, "<|pad|>": 1, "a": 2}, merges=[])).save(str(path))
    return path


def test_what_is_saved_loads_by_the_auto_classes(model, tokenizer, tmp_path):
    save_model(model, tokenizer, tmp_path / "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(tmp_path / "checkpoint")("a").input_ids == [2]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_failed_save_leaves_the_old_checkpoint(model, tokenizer, tmp_path, monkeypatch):
    save_model(model, tokenizer, tmp_path / "checkpoint")
    before = load_file(tmp_path / "checkpoint" / "model.safetensors")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with torch.no_grad():
        model.decoder.norm.weight += 1
    with pytest.raises(CheckpointError, match=r"checkpoint: cannot be written \(No space left on device\)"):
        save_model(model, tokenizer, tmp_path / "checkpoint")
    after = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".checkpoint")]


def test_what_is_saved_is_read_back_first(model, tokenizer, tmp_path, monkeypatch):
    save_model(model, tokenizer, tmp_path / "checkpoint")
    sound = type(model).save_pretrained
    halved = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(
        type(model), "save_pretrained", lambda self, folder: sound(self, folder, state_dict=dict(halved))
    )
    with pytest.raises(CheckpointError, match=r"\S+ came back as other numbers \(torch.bfloat16\); what is saved"):
        save_model(model, tokenizer, tmp_path / "checkpoint")
    halved.popitem()
    with pytest.raises(CheckpointError, match=r"is not in the file|came back"):
        save_model(model, tokenizer, tmp_path / "checkpoint")
    load_model(tmp_path / "checkpoint", CPU)


def test_a_part_that_is_missing_is_named(model, tokenizer, tmp_path):
    save_model(model, tokenizer, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["decoder.banks.0.values"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing keys \['decoder\.banks\.0\.values'\]"):
        load_weights(tmp_path, CPU)


def test_a_folder_without_a_model_is_one_clear_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no checkpoint \(manifest.json is missing\)"):
        load_model(tmp_path, CPU)


def test_nothing_in_a_checkpoint_is_a_pickle(model, tokenizer, tmp_path):
    save_model(model, tokenizer, tmp_path / "checkpoint")
    names = {path.suffix for path in (tmp_path / "checkpoint").iterdir()}
    assert names <= {".json", ".safetensors", ".jinja"}
    assert json.loads((tmp_path / "checkpoint" / "config.json").read_text())["model_type"] == "memlm"
