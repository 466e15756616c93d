"""Runs that fail: what is recorded and told of them, and what becomes of the others."""

import json
import math
import re

import pytest
import torch

import memlm.model.loss
from memlm.errors import Interrupted, PreflightError, RunError
from memlm.experiment import attempt as attempt_module
from memlm.experiment.compare import compare
from memlm.experiment.config import load_experiment
from memlm.experiment.followers import Followers
from memlm.experiment.reading import read_experiment
from memlm.experiment.run import Watcher, run_experiment


def records(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/record.json")}


def test_a_failing_run_is_recorded_and_the_next_call_goes_on(experiment_yaml, tmp_path, monkeypatch):
    config = load_experiment(experiment_yaml, ["seeds=[0]"])

    def fail(*_):
        raise RunError("step 2: loss nan")

    with monkeypatch.context() as patch:
        patch.setattr(attempt_module, "train", fail)
        with pytest.raises(RunError, match=r"dense-s0: step 2: loss nan"):
            run_experiment(config, tmp_path, progress=False)
    record = records(tmp_path / "tiny")["dense-s0"]
    assert (record["status"], record["error"]) == ("failed", "RunError: step 2: loss nan")
    folder = run_experiment(config, tmp_path, progress=False)
    assert {record["status"] for record in records(folder).values()} == {"finished"}


def test_a_run_that_diverges_stops_no_other(experiment_yaml, tmp_path, monkeypatch):
    config = load_experiment(experiment_yaml, ["seeds=[0]"])
    sound, told = attempt_module.train, []

    def diverging(model, *others):
        if model.decoder.config.memory is not None:
            model.decoder.norm.weight.data[0] = math.nan
        return sound(model, *others)

    with monkeypatch.context() as patch:
        patch.setattr(attempt_module, "train", diverging)
        with pytest.raises(RunError) as raised:
            run_experiment(config, tmp_path, Watcher(failed=lambda *line: told.append(line)), progress=False)
    assert raised.value.exit_code == 4
    start = "2 of 3 runs failed: cross_attention-s0, gated_mlp-s0; the first: "
    assert str(raised.value).startswith(
        f"{start}{tmp_path / 'tiny' / 'cross_attention-s0'}: diverged at step 1: loss nan"
    )
    assert [name for name, _ in told] == ["cross_attention-s0", "gated_mlp-s0"]
    statuses = {name: record["status"] for name, record in records(tmp_path / "tiny").items()}
    assert statuses == {"dense-s0": "finished", "cross_attention-s0": "failed", "gated_mlp-s0": "failed"}
    missing = compare(read_experiment(tmp_path / "tiny")).missing
    assert any(re.match(r"gated_mlp-s0 failed at step 0: DivergedError: diverged at step 1", line) for line in missing)


def test_runs_that_fail_in_different_ways_stop_no_other_and_are_all_told(experiment_yaml, tmp_path, monkeypatch):
    config = load_experiment(experiment_yaml, ["seeds=[0]"])
    sound, told = attempt_module.train, []
    errors = iter([torch.OutOfMemoryError("CUDA out of memory"), OSError(28, "No space left on device"), None])

    def failing(*arguments):
        error = next(errors)
        if error is not None:
            raise error
        return sound(*arguments)

    monkeypatch.setattr(attempt_module, "train", failing)
    with pytest.raises(RunError) as raised:
        run_experiment(config, tmp_path, Watcher(failed=lambda *line: told.append(line)), progress=False)
    assert raised.value.exit_code == 1
    assert re.fullmatch(
        r"2 of 3 runs failed: dense-s0, cross_attention-s0; the first: \S+/dense-s0: out of memory; halve .*",
        str(raised.value),
    )
    assert [name for name, _ in told] == ["dense-s0", "cross_attention-s0"]
    assert "No space left on device" in told[1][1]
    statuses = {name: record["status"] for name, record in records(tmp_path / "tiny").items()}
    assert statuses == {"dense-s0": "failed", "cross_attention-s0": "failed", "gated_mlp-s0": "finished"}


def test_ranks_that_are_lost_with_a_run_end_the_experiment(experiment_yaml, tmp_path, monkeypatch):
    config = load_experiment(experiment_yaml, ["seeds=[0]"])
    monkeypatch.setattr(Followers, "are_waiting", False)
    monkeypatch.setattr(attempt_module, "train", lambda *_: (_ for _ in ()).throw(RunError("the disk is full")))
    with pytest.raises(RunError, match=r"^\S+/dense-s0: the disk is full$"):
        run_experiment(config, tmp_path, progress=False)
    assert list(records(tmp_path / "tiny")) == ["dense-s0"], "no further one was begun"


def test_an_interrupted_run_says_so(experiment_yaml, tmp_path):
    config = load_experiment(experiment_yaml, ["seeds=[0]"])

    def stop(step, loss, speed):
        if step == 3:
            raise Interrupted("SIGTERM", 15)

    with pytest.raises(Interrupted) as raised:
        run_experiment(config, tmp_path, Watcher(step=stop), progress=False)
    assert raised.value.exit_code == 143
    record = records(tmp_path / "tiny")["dense-s0"]
    assert (record["status"], record["error"]) == ("interrupted", "stopped by SIGTERM")


def test_a_faulty_model_is_refused_before_its_first_step(experiment_yaml, tmp_path, monkeypatch):
    config = load_experiment(experiment_yaml, ["seeds=[0]", "variants={dense: {}}", "hypotheses=[]"])
    monkeypatch.setenv("MEMLM_CACHE", str(tmp_path / "cache"))  # a passed check is remembered by the source alone
    sound = memlm.model.loss.summed_loss
    monkeypatch.setattr(memlm.model.loss, "summed_loss", lambda hidden, *others: sound(hidden.detach(), *others))
    monkeypatch.setattr(attempt_module, "train", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(PreflightError, match=r"nothing was trained\n  dense: ") as raised:
        run_experiment(config, tmp_path, progress=False)
    assert raised.value.exit_code == 3
    assert records(tmp_path / "tiny")["dense-s0"]["status"] == "failed"
