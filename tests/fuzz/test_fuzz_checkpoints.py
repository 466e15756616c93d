"""Spoiled checkpoints. With its manifest one is what was written, or refused; without, it loads or is refused."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from memlm.config.train import TrainConfig
from memlm.errors import CheckpointError
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train.checkpoint import load_model, load_weights, save_model
from memlm.train.optimizer import build_optimizer
from memlm.train.state import TENSORS, History, TrainingState, capture
from tests.fuzz.damage import mutations
from tests.told import one_line

CPU = torch.device("cpu")
WIRING = {"memory": {"type": "product_key", "n_keys": 4, "d_value": 8, "top_k": 2}, "fusion": {"type": "gated_mlp"}}


@pytest.fixture
def sound(tmp_path):
    tokenizer = tmp_path / "tokenizer.json"
    Tokenizer(BPE(vocab={"<|end|>": 0, "<|pad|>": 1, "a": 2}, merges=[])).save(str(tokenizer))
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, **WIRING}
    model = MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=31, max_position_embeddings=8))
    optimizer = build_optimizer(model, TrainConfig(steps=1))
    model(torch.zeros(1, 8, dtype=torch.long), labels=torch.zeros(1, 8, dtype=torch.long)).loss.backward()
    optimizer.step()
    state = TrainingState(7, capture(model, optimizer), History([3.0], [0.1]))
    save_model(model, tokenizer, tmp_path / "sound", state, {"config_hash": "a", "data": "b"})
    return tmp_path / "sound"


def spoiled(sound, tmp_path, damage):
    disable_progress_bar()
    set_verbosity_error()
    folder = tmp_path / "spoiled"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    damage(folder)
    return folder


def refused(error, folder):
    one_line(error, folder)
    return "refused"


def test_model_folders_without_a_manifest(fuzz, sound, tmp_path):
    def check(damage):
        folder = spoiled(sound, tmp_path, damage)
        try:
            model = load_weights(folder, CPU)
        except CheckpointError as error:
            return refused(error, folder)
        assert isinstance(model, MemlmForCausalLM)
        return "loaded"

    fuzz("model folders", mutations(sound), check, compact=40, torture=2000)


def test_checkpoints_are_what_was_written_or_are_refused(fuzz, sound, tmp_path):
    expected, moments = load_file(sound / "model.safetensors"), load_file(sound / TENSORS)

    def check(damage):
        folder = spoiled(sound, tmp_path, damage)
        try:
            model = load_model(folder, CPU)
            state = TrainingState.read(folder)
        except CheckpointError as error:
            return refused(error, folder)
        assert all(torch.equal(parameter, expected[name]) for name, parameter in model.named_parameters())
        assert all(torch.equal(tensor, moments[name]) for name, tensor in state.tensors.items()) and state.step == 7
        return "loaded"

    fuzz("checkpoints", mutations(sound), check, compact=40, torture=2000)
