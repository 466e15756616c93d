"""The commands, as a person runs them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import get_args

import pytest

from memlm.config.checks import Check
from tests.told import one_line


def memlm(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "memlm.cli.main", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"COLUMNS": "160"},
    )


@pytest.fixture(scope="module")
def experiment(corpus, tmp_path_factory):
    """A folder in which the tiny experiment has been run by its command."""
    from tests.conftest import experiment_yaml

    folder = tmp_path_factory.mktemp("cli")
    experiment_yaml.__wrapped__(corpus, folder)
    return folder, memlm("run", "tiny.yaml", "-o", "train.steps=4", cwd=folder)


def test_run_prints_settings_progress_results_and_verdict(experiment):
    folder, done = experiment
    assert done.returncode == 0, done.stderr
    assert "steps: 4" in done.stdout and "top_k: 3" in done.stdout
    assert "[6/6] gated_mlp-s1  validation" in done.stderr
    for expected in (
        "Held-out loss",
        "Held equal in all variants",
        "Equal to 1 %: ",
        "nigram entropy",
        "connection (gated_mlp < cross_attention):",
    ):
        assert expected in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (folder / "runs" / "tiny" / "report.html").exists()


def test_a_run_that_diverges_has_an_exit_code_of_its_own_and_a_report(experiment):
    folder, _ = experiment
    settings = ["name=hot", "train.lr=1e30", "variants={dense: {}}", "hypotheses=[]", "seeds=[0]", "evaluate.samples=0"]
    done = memlm("run", "tiny.yaml", *(f"-o{setting}" for setting in settings), cwd=folder)
    assert done.returncode == 4
    assert re.fullmatch(
        r"error: runs/hot/dense-s0: diverged at step \d: loss .*, gradient norm .*: not finite, so the step was not "
        r"taken; lower train\.lr, lengthen train\.warmup or set train\.clip",
        done.stderr.splitlines()[-1],
    )
    assert "note: dense-s0 failed at step" in done.stdout and (folder / "runs" / "hot" / "report.html").exists()


def test_compare_and_report_need_only_records(experiment):
    folder, _ = experiment
    compared = memlm("compare", "runs/tiny", cwd=folder)
    assert compared.returncode == 0 and "Held-out loss" in compared.stdout
    assert "Usage, on held-out text" in compared.stdout
    reported = memlm("report", "runs/tiny", cwd=folder)
    assert reported.stdout.split() == ["runs/tiny/report.html", "runs/tiny/report.md"]


def test_diff_shows_only_what_differs(experiment):
    folder, _ = experiment
    done = memlm("diff", "runs/tiny/dense-s0", "runs/tiny/dense-s1", cwd=folder)
    assert "seed" in done.stdout and "validation_loss" in done.stdout
    assert "d_model" not in done.stdout and "fingerprint" not in done.stdout
    same = memlm("diff", "runs/tiny/dense-s0", "runs/tiny/dense-s0", cwd=folder)
    assert same.stdout.strip() == "nothing differs"


def test_check_prices_every_variant(experiment):
    folder, _ = experiment
    done = memlm("check", "tiny.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "3 variants x 2 seeds" in done.stdout
    for expected in ("FLOPs per token", "peak memory", "cross_attention", "whole experiment: about"):
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "absent.yaml"], 2, "absent.yaml: 1 problem, nothing was run"),
        (["compare", "runs/absent"], 1, "error: runs/absent"),
        (["diff", "runs/a", "runs/b"], 1, "error: runs/a"),
        (["list", "memorys"], 2, "Did you mean 'memories'?"),
        (["stop", "absent"], 1, "error: runs: no background jobs here"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, code, message, experiment):
    folder, _ = experiment
    done = memlm(*arguments, cwd=folder)
    assert done.returncode == code
    assert message in done.stderr
    for line in done.stderr.splitlines():
        one_line(line)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("memories", "product_key"),
        ("fusions", "gated_mlp"),
        ("banks", "learned_share  (default 0.25)"),
        ("encoders", "embedding_mean"),
        ("corpora", "python-docs"),
        ("corpora", "exposures  (default 100)"),
    ],
)
def test_list_names_the_types(kind, expected, tmp_path):
    assert expected in memlm("list", kind, cwd=tmp_path).stdout


def test_text_of_a_record_is_no_markup(experiment):
    folder, _ = experiment
    shutil.copytree(folder / "runs" / "tiny" / "dense-s0", folder / "runs" / "odd")
    record = json.loads((folder / "runs" / "odd" / "record.json").read_text())
    record["commit"] = "[/odd]"
    (folder / "runs" / "odd" / "record.json").write_text(json.dumps(record))
    done = memlm("diff", "runs/tiny/dense-s0", "runs/odd", cwd=folder)
    assert done.returncode == 0 and "[/odd]" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_cleanly(number, experiment, tmp_path):
    folder, _ = experiment
    command = [sys.executable, "-m", "memlm.cli.main", "run", folder / "tiny.yaml", "-o", "train.steps=100000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    metrics = tmp_path / "runs" / "tiny" / "dense-s0" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "stopped by" in errors and "Traceback" not in errors
    assert json.loads((metrics.parent / "record.json").read_text())["status"] == "interrupted"


ALL_BUT_TWO = [check for check in get_args(Check) if check not in ("reads", "initial_loss")]


@pytest.mark.parametrize(("options", "code"), [([], 0), (["-o", "model.init_std=2.0"], 3)])
def test_check_tries_every_variant_and_refuses_a_fault(options, code, experiment):
    folder, _ = experiment
    skip = ["-o", f"train.skip_checks=[{', '.join(ALL_BUT_TWO)}]"]
    done = memlm("check", "tiny.yaml", "--preflight", "--no-measure", *skip, *options, cwd=folder)
    assert done.returncode == code
    assert "cached_generation" in done.stdout and "dense: reads skipped: the model has no memory" in done.stdout
    assert "gated_mlp: padding skipped: left out by train.skip_checks" in done.stdout
    if code:
        assert (
            "error: the preflight found 3 faults, nothing was trained\n  dense: initial_loss in decoder:" in done.stderr
        )
        assert "Traceback" not in done.stderr
    else:
        assert "passed" in done.stdout and "failed" not in done.stdout
