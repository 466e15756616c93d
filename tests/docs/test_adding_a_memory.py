"""The memory in docs/adding_a_memory.md, dropped into the folder as the document says."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import memlm.memory
from memlm.cli.main import app
from memlm.experiment.config import load_experiment
from memlm.experiment.run import run_experiment
from memlm.registry import MEMORIES

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding_a_memory.md"


@pytest.fixture
def signs(tmp_path):
    """One file in a folder that the package looks into; no other edit."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.S)
    folder = tmp_path / "dropped"
    folder.mkdir()
    (folder / "signs.py").write_text(code, encoding="utf-8")
    memlm.memory.__path__.append(str(folder))
    yield
    memlm.memory.__path__.remove(str(folder))
    sys.modules.pop("memlm.memory.signs", None)
    MEMORIES._classes.pop("signs", None)


@pytest.mark.usefixtures("signs")
def test_a_dropped_file_is_all_it_takes(experiment_yaml, tmp_path):
    text = experiment_yaml.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    wiring = "variants:\n  signs: {memory: {type: signs, bits: 4}, fusion: {type: gated_mlp}, placement: parallel}\n"
    before, _, rest = text.partition("variants:")
    experiment_yaml.write_text(before + wiring + rest[rest.index("seeds:") : rest.index("hypotheses:")])

    listed = CliRunner().invoke(app, ["list", "memories"]).output
    assert "signs" in listed and "Signs that are looked at" in listed

    folder = run_experiment(load_experiment(experiment_yaml), tmp_path / "runs", progress=False)
    record = json.loads((folder / "signs-s0" / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["results"]["usage"]["0"]["n_slots"] == 16
    model = AutoModelForCausalLM.from_pretrained(folder / "signs-s0" / "checkpoint")
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, min_new_tokens=3).shape == (1, 5)
