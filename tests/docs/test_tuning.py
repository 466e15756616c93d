"""The commands in docs/tuning.md, on a small experiment in the place of configs/matched.yaml."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.config.train import BUDGETS, OWN
from memlm.experiment.config import load_experiment
from memlm.experiment.match import CLOSE, MULTIPLES, solve_widths
from memlm.experiment.tune import SPREAD

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"^    (memlm .*)$", DOCUMENT, flags=re.M)]
SMALL = """\
data: {{corpus: {corpus}, vocab_size: 320, seq_len: 16, validation_share: 0.1, judge_share: 0.1, tune_share: 0.1}}
model: {{d_model: 32, n_layers: 2, n_heads: 2}}
train: {{steps: 3, batch_size: 4}}
evaluate: {{tokens: 2k, train_tokens: 500, samples: 0}}
variants:
  memory:
    memory: {{type: product_key, n_keys: 8, d_key: 16, d_value: 16, top_k: 3}}
    fusion: {{type: weighted_sum}}
    placement: parallel
  dense_flops: {{match: {{to: memory, by: flops}}}}
  dense_time: {{match: {{to: memory, by: wall_clock}}}}
"""


def test_every_command_works(corpus, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "matched.yaml").write_text(SMALL.format(corpus=corpus), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert [command[1] for command in COMMANDS] == ["check", "tune", "run"]
    check, tune, run = (
        CliRunner().invoke(app, [*command[1:], *more], catch_exceptions=False, env={"COLUMNS": "160"})
        for command, more in zip(COMMANDS, ([], ["--trials", "2", "--steps", "2"], []), strict=True)
    )
    assert [done.exit_code for done in (check, tune, run)] == [0, 0, 0]
    for told in ("dense_flops │ memory │ flops", "d_ff = ", "steps = ", "measured now (step times varied by "):
        assert told in check.output
    assert "3 variants x 2 trials of 2 steps" in tune.output and "value_lr:" in tune.output
    assert "[6/6] dense_time" in tune.output
    told = " ".join(run.output.split())
    assert "dense_time has steps " in told and "solved for the wall clock of memory" in told
    assert "Not comparable" not in run.output


def test_the_numbers_are_those_of_the_code():
    text = " ".join(DOCUMENT.split())
    assert f"within {100 * CLOSE:g} %" in text and MULTIPLES == (8, 4, 2, 1)
    assert f"the next {['six'][SPREAD - 6]} are spread evenly" in text
    assert len(OWN) - len(BUDGETS) == 11, "the list of what a variant may set for itself has changed"


def test_the_shipped_config_is_solved_closely():
    config, solutions = solve_widths(load_experiment(ROOT / "configs" / "matched.yaml"))
    assert [solution.variant for solution in solutions] == ["dense_flops", "dense_parameters"]
    assert all(solution.off <= CLOSE for solution in solutions)
    assert config.variants["dense_flops"].d_ff == solutions[0].value
