"""A model folder from elsewhere brings data, and what else it brings is neither run nor unpickled."""

import json
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE

from memlm.errors import CheckpointError
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train.checkpoint import load_model, load_weights, save_model

CPU = torch.device("cpu")


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    Tokenizer(BPE(vocab={"<|end|>": 0, "<|pad|>": 1, "a": 2}, merges=[])).save(str(folder / "tokenizer.json"))
    model = MemlmForCausalLM(MemlmConfig(model={"d_model": 16, "n_layers": 1, "n_heads": 2}, vocab_size=31))
    save_model(model, folder / "tokenizer.json", folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "it_ran"


def plant_code(folder, marker, in_config=True, in_file=True):
    if in_file:
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    if in_config:
        for name in ("config.json", "tokenizer_config.json"):
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(content | {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}))


def plant_pickle(folder, marker, name="pytorch_model.bin", instead=False):
    (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    if instead:
        (folder / "model.safetensors").unlink()


def test_a_folder_of_data_is_accepted(folder):
    load_weights(folder, CPU)
    assert load_model(folder, CPU).config.vocab_size == 31


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"in_config": False}, r"checkpoint brings code of its own \(evil\.py\), which is never run; remove it"),
        ({"in_file": False}, r"config\.json names code of its own \(auto_map\), which is never run; remove that entry"),
        ({}, "code of its own"),
    ],
)
def test_code_in_a_folder_is_refused(folder, marker, parts, message):
    plant_code(folder, marker, **parts)
    with pytest.raises(CheckpointError, match=message):
        load_weights(folder, CPU)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "model.pth", "a.ckpt", "rng.pkl", "values.npy"])
@pytest.mark.parametrize("instead", [False, True])
def test_a_pickle_beside_or_instead_of_the_weights_is_refused(folder, marker, name, instead):
    plant_pickle(folder, marker, name, instead)
    with pytest.raises(CheckpointError, match=f"holds {name}, which may be a pickle.*keep weights as .safetensors"):
        load_weights(folder, CPU)
    assert not marker.exists()


def test_a_configuration_that_cannot_be_read_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: "):
        load_weights(folder, CPU)


@pytest.mark.parametrize("plant", [plant_code, plant_pickle])
def test_loading_runs_nothing_of_a_planted_folder(folder, marker, plant):
    plant(folder, marker)
    with suppress(CheckpointError):
        load_model(folder, CPU)
    assert not marker.exists()


def test_the_bomb_is_one(marker):
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()


def test_a_hub_name_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(CheckpointError, match="owner/name: holds no checkpoint"):
        load_model(Path("owner/name"), CPU)


def test_a_configuration_without_an_end_is_one_line(folder):
    (folder / "config.json").write_text('{"a": ' * 50_000)
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        load_weights(folder, CPU)
