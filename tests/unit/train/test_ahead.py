"""Steps that are launched before the last one is settled, as on a GPU; here on the CPU."""

import json
import os
import signal

import pytest
import torch

from memlm.data.sampler import Sampler
from memlm.errors import Interrupted, RunError
from memlm.train import loop
from memlm.train.loop import Hooks
from tests.unit.train import test_training
from tests.unit.train.test_training import new_model, run, weights


@pytest.fixture(autouse=True)
def ahead(monkeypatch):
    monkeypatch.setattr(loop, "AHEAD", {"cpu": 1})


def lines(tmp_path, name="metrics.jsonl"):
    kept = ("step", "train/loss", "train/grad_norm", "tokens", "loss")
    found = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    return [{key: line[key] for key in kept if key in line} for line in found]


def test_nothing_is_told_or_learned_otherwise(tmp_path, monkeypatch):
    settings = {"steps": 7, "log_every": 1, "evaluate_every": 3, "save_every": 2}
    states, models = ([], []), (new_model(), new_model())
    for model, saved, name, steps in zip(models, states, "ab", (1, 0), strict=True):
        monkeypatch.setattr(loop, "AHEAD", {"cpu": steps})
        run(model, tmp_path, name, hooks=Hooks(evaluate=lambda: {"loss": 1.0}, save=saved.append), **settings)
    assert lines(tmp_path, "a") == lines(tmp_path, "b") and len(lines(tmp_path, "a")) == 7
    assert [(s.step, s.history.losses) for s in states[0]] == [(s.step, s.history.losses) for s in states[1]]
    assert all(torch.equal(weights(models[1])[name], weight) for name, weight in weights(models[0]).items())


def test_a_signal_while_the_host_waits_saves_a_step_that_is_told(tmp_path):
    saved = []

    def progress(step, _loss, _speed):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(
            new_model(), tmp_path, hooks=Hooks(save=saved.append, progress=progress), steps=9, log_every=1, save_every=0
        )
    (state,) = saved
    assert state.step == len(state.history.losses) == len(state.history.times) == lines(tmp_path)[-1]["step"] == 5


def test_a_step_that_fails_to_start_leaves_the_one_before_told(tmp_path, monkeypatch):
    class Broken(Sampler):
        def batch(self, index):
            if index == 3:
                raise OSError("the disk is gone")
            return super().batch(index)

    monkeypatch.setattr(test_training, "Sampler", Broken)
    with pytest.raises(OSError, match="the disk is gone"):
        run(new_model(), tmp_path, steps=9, log_every=1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_step_that_is_not_finite_is_found_after_the_next_was_launched(tmp_path, monkeypatch):
    class Poisoned(Sampler):
        def batch(self, index):
            for parameter in model.parameters():
                parameter.data[..., 0] *= torch.nan if index == 2 else 1.0
            return super().batch(index)

    model = new_model()
    monkeypatch.setattr(test_training, "Sampler", Poisoned)
    with pytest.raises(RunError, match=r"^diverged at step 3: loss nan"):
        run(model, tmp_path, steps=9, log_every=1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
