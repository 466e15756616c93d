"""A small experiment, trained once; its models are exported and asked to write."""

from pathlib import Path

import pytest

from memlm.experiment.config import load_experiment
from memlm.experiment.run import run_experiment
from memlm.export.folder import export_run
from tests.conftest import experiment_yaml

BANK = "bank: {type: tokens, entry_length: 5}"
NARROW = "bank: {type: vectors, dtype: bfloat16}"
MORE = f"""\
  ngram: {{memory: {{type: ngram_hash, n_heads: 2, n_rows: 23, d_value: 12, {BANK}}}, fusion: {{type: weighted_sum}}}}
  narrow: {{memory: {{type: product_key, n_keys: 8, d_value: 16, top_k: 2, {NARROW}}}, fusion: {{type: weighted_sum}}}}
"""
VARIANTS = ("dense", "cross_attention", "gated_mlp", "ngram", "narrow")


@pytest.fixture(scope="session")
def runs(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    path = experiment_yaml.__wrapped__(corpus, folder)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("seeds: [0, 1]\n", MORE + "seeds: [0]\n"), encoding="utf-8")
    overrides = ["evaluate.samples=0"]
    return run_experiment(load_experiment(path, overrides), folder / "runs", progress=False)


@pytest.fixture(scope="session")
def exported(runs, tmp_path_factory) -> Path:
    """The folder that holds an export of each variant, and of one of them again."""
    folder = tmp_path_factory.mktemp("exported")
    for name in VARIANTS:
        export_run(runs / f"{name}-s0", folder / name)
    export_run(runs / "gated_mlp-s0", folder / "again")
    return folder
