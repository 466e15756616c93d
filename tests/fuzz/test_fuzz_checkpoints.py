"""Spoiled checkpoints: a model or one line. Flipped weights load: only a manifest of hashes could tell."""

import shutil

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from memlm.errors import CheckpointError
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train.checkpoint import load_model, save_model
from memlm.train.loading import loading_errors
from tests.fuzz.damage import mutations
from tests.fuzz.test_fuzz_corpora import is_one_line

CPU = torch.device("cpu")
WIRING = {"memory": {"type": "product_key", "n_keys": 4, "d_value": 8, "top_k": 2}, "fusion": {"type": "gated_mlp"}}


@pytest.fixture
def sound(tmp_path):
    tokenizer = tmp_path / "tokenizer.json"
    Tokenizer(BPE(vocab={"<|end|>": 0, "<|pad|>": 1, "a": 2}, merges=[])).save(str(tokenizer))
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, **WIRING}
    model = MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=31, max_position_embeddings=8))
    save_model(model, tokenizer, tmp_path / "sound")
    return tmp_path / "sound"


def test_model_folders(fuzz, sound, tmp_path):
    disable_progress_bar()
    set_verbosity_error()

    def check(damage):
        folder = tmp_path / "spoiled"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound, folder)
        damage(folder)
        try:
            with loading_errors(folder):
                model = load_model(folder, CPU)
        except CheckpointError as error:
            assert is_one_line(error) and str(folder) in str(error), str(error)
            return "refused"
        assert isinstance(model, MemlmForCausalLM)
        return "loaded"

    fuzz("model folders", mutations(sound), check, compact=60, torture=2000)
