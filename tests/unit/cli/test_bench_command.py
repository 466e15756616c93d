"""`memlm bench` as a person gives it."""

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from memlm.bench import ceilings, layers, peers, stages
from memlm.bench.setting import Setting
from memlm.bench.store import write
from memlm.cli.main import app
from memlm.errors import ConfigError, RunError
from tests.unit.bench.conftest import fabricated

DOCS = Path(__file__).parents[3] / "docs"


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False, env={"COLUMNS": "160"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Two stages on the CPU, whatever the machine has."""
    cpu = Setting(torch.device("cpu"), torch.float32)
    monkeypatch.setattr(Setting, "here", classmethod(lambda _: cpu))
    monkeypatch.setattr(ceilings, "measure", lambda _setting: {"bytes_per_s": 1e10, "flops_per_s": 1e11})
    kept = ("query projection", "lookup, forward")
    monkeypatch.setattr(stages, "STAGES", {name: stages.STAGES[name] for name in kept})


def test_without_a_gpu_small_sizes_are_measured_and_kept(tmp_path):
    done = bench("--only", "stages", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "no GPU that torch can use: small sizes" in done.output
    assert "[2/2] stages tiny: lookup, forward  time" in done.output
    assert "plain torch" not in done.output.lower() and "32 x 32 slots" in done.output
    assert re.search(r"query projection  time [\d.]+ ms \([\d.]+–[\d.]+\)", done.output), "with its extremes"
    assert re.search(r"│ query projection +│ [\d.]+ \([\d.]+–[\d.]+\) │", done.output)
    (path,) = tmp_path.glob("*/*.json")
    assert f"kept in {path}" in done.output
    assert set(json.loads(path.read_text())["groups"]["stages/tiny"]["rows"]) == set(stages.STAGES)


def test_packages_that_are_not_there_are_named_with_the_line_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "forms", lambda _shape, _setting: [layers.Form("PEER-pytorch", "eager")])
    monkeypatch.setattr(peers, "_package", lambda _name: None)
    done = bench("--only", "layers", "--out", str(tmp_path))
    assert done.exit_code == 0 and "layers tiny: PEER-pytorch, eager  not installed" in done.output
    assert "other packages to compare with: pip install 'memlm[bench]'" in done.output


def test_a_wrong_row_is_told_and_ends_the_command_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "weighted_lookup", lambda values, slots, weights: values[slots].sum(-2))
    with pytest.raises(RunError, match=r"1 of 2 rows are wrong or failed, and have no time; .*\.json says why"):
        bench("--only", "stages", "--config", "tiny", "--out", str(tmp_path))


def test_the_report_is_written_from_what_is_kept(tmp_path):
    write(tmp_path / "benchmarks", fabricated())
    page = tmp_path / "performance.md"
    page.write_text((DOCS / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    done = bench("--report", "--out", str(tmp_path / "benchmarks"), "--docs", str(tmp_path))
    assert done.output.splitlines()[0] == str(page)
    assert "NVIDIA H100 80GB HBM3" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--config", "M8K"), "unknown config 'M8K'. Did you mean 'M8k'?"),
        (("--only", "layer"), "unknown part 'layer'. Did you mean 'layers'?"),
        (("--config", "M8k", "--only", "steps"), "--config M8k has no steps; see docs/performance.md"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, text):
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        bench(*arguments)
