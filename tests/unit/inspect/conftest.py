"""A small run with a memory, trained once; the tests look into it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from memlm.experiment.config import load_experiment
from memlm.experiment.inspecting import open_inspection
from memlm.experiment.run import run_experiment
from memlm.inspect.inspection import Inspection
from tests.conftest import experiment_yaml

TOKENS = 3000
MARKUP = "<img src=x onerror=alert(1)>"
WIRINGS = """\
  shared: {memory: MEMORY, fusion: {type: gated_mlp}}
  apart: {memory: MEMORY, fusion: {type: weighted_sum}, shared_bank: false, placement: parallel}
  readable: {memory: READABLE, fusion: {type: gated_mlp}}
"""
MEMORY = "{type: product_key, n_keys: 8, d_key: 16, d_value: 16, top_k: 3, n_heads: 2}"
READABLE = MEMORY.replace("}", ", bank: {type: tokens, entry_length: 5}}")


@dataclass(frozen=True)
class Runs:
    """The experiment's folder."""

    folder: Path

    def open(self, name: str, tokens: int = TOKENS) -> Inspection:
        return open_inspection(self.folder / f"{name}-s0", tokens, lambda _done, _total: None)


@pytest.fixture(scope="session")
def runs(corpus, tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("inspect")
    marked = folder / "marked.jsonl"
    shutil.copy(corpus, marked)
    with marked.open("a", encoding="utf-8") as file:
        for number in range(60):
            file.write(json.dumps({"text": f"{number} ka {MARKUP} lo " * 8}) + "\n")
    path = experiment_yaml.__wrapped__(corpus, folder)
    text = path.read_text(encoding="utf-8").replace(str(corpus), str(marked))
    wirings = WIRINGS.replace("MEMORY", MEMORY).replace("READABLE", READABLE)
    path.write_text(text[: text.index("  cross_attention:")] + wirings + "seeds: [0]\n", encoding="utf-8")
    overrides = ["train.record_writers=true", "train.accumulation=2", "evaluate.samples=0"]
    return Runs(run_experiment(load_experiment(path, overrides), folder, progress=False))


@pytest.fixture(scope="session")
def shared(runs) -> Inspection:
    """One bank for two layers."""
    return runs.open("shared")


@pytest.fixture(scope="session")
def apart(runs) -> Inspection:
    """A bank for each of two layers."""
    return runs.open("apart")
