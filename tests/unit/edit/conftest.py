"""A small run on a generated world, trained once; the tests edit it."""

import shutil
from pathlib import Path

import pytest

from memlm.edit.finetune import Tuning
from memlm.experiment.config import load_experiment
from memlm.experiment.editing import Editing, open_editing
from memlm.experiment.run import run_experiment

EXPERIMENT = """\
data:
  corpus: facts
  facts: {wording: tuples, entities: 24, attributes: 2, values: 16, hops: 1, exposures: 300}
  vocab_size: 400
  seq_len: 32
model: {d_model: 32, n_layers: 2, n_heads: 2}
train: {epochs: 1, batch_size: 16, lr: 8.0e-3, value_lr: 3.0e-2}
evaluate: {tokens: 2k, train_tokens: 500, samples: 0, questions: 50}
variants:
  memory:
    memory: {type: product_key, n_keys: 48, n_heads: 2, d_key: 16, d_value: 32, top_k: 4}
    fusion: {type: weighted_sum}
    placement: replace
    layers: [1]
"""
QUICK = Tuning(steps=120, lr=1.0, calm=0.01, near=8, locality=3)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of the experiment; tests copy it."""
    folder = tmp_path_factory.mktemp("edit")
    (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return run_experiment(load_experiment(folder / "tiny.yaml", []), folder, progress=False)


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(trained / "memory-s0", tmp_path / "memory-s0"))


@pytest.fixture
def editing(run) -> Editing:
    return open_editing(run, QUICK)
