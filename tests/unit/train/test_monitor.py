"""The metrics log and the trackers that must never harm a run."""

import json
import math
import time
from typing import ClassVar

import pytest

from memlm.errors import MissingDependencyError
from memlm.train import trackers
from memlm.train.monitor import MetricLog, Stopwatch
from memlm.train.trackers import BackgroundTracker


class Recorder:
    def __init__(self):
        self.seen, self.closed = [], False

    def log(self, values, step):
        self.seen.append((step, dict(values)))

    def close(self):
        self.closed = True


def test_lines_are_appended_and_always_json(tmp_path):
    path, recorder = tmp_path / "metrics.jsonl", Recorder()
    for step in (1, 2):
        with MetricLog(path, [recorder], after=step - 1) as log:
            log.write(step, {"train/loss": math.nan if step == 2 else 3.5})
            assert len(path.read_text().splitlines()) == step, "a line is on disk as soon as it is written"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1, "train/loss": 3.5}, {"step": 2, "train/loss": None}]
    assert [step for step, _ in recorder.seen] == [1, 2] and recorder.closed


class Fake:
    """Stands in for one of accelerate's trackers."""

    requires_logging_directory = False
    instances: ClassVar[list] = []

    def __init__(self, project, **where):
        self.project, self.where = project, where
        self.lines, self.config, self.finished = [], None, False
        Fake.instances.append(self)

    def store_init_configuration(self, config):
        self.config = config

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.finished = True


class Blocking(Fake):
    def log(self, values, step):
        time.sleep(60)


class Raising(Fake):
    def log(self, values, step):
        raise ConnectionError("no route to host")


@pytest.fixture
def track(monkeypatch, tmp_path):
    from accelerate import tracking

    def start(cls):
        Fake.instances.clear()
        monkeypatch.setattr(trackers, "require", lambda name: None)
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", cls)
        monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.3)
        return BackgroundTracker(
            "wandb", "demo", "dense-s0", tmp_path / "trackers", {"train": {"lr": 0.1, "betas": [0.9, 0.95]}}
        )

    return start


def test_a_tracker_gets_settings_and_metrics_in_order(track, tmp_path):
    tracker = track(Fake)
    for step in range(5):
        tracker.log({"train/loss": float(step), "note": None}, step)
    tracker.close()
    (fake,) = Fake.instances
    assert fake.config == {"train.lr": 0.1, "train.betas": "[0.9, 0.95]"}
    assert fake.project == "demo" and fake.where == {"name": "dense-s0", "dir": str(tmp_path / "trackers")}
    assert fake.lines == [(step, {"train/loss": float(step)}) for step in range(5)] and fake.finished


def test_a_tracker_that_blocks_neither_slows_nor_stops(track, caplog):
    tracker = track(Blocking)
    start = time.perf_counter()
    for step in range(trackers.QUEUE_SIZE + 50):
        tracker.log({"train/loss": 1.0}, step)
    assert time.perf_counter() - start < 0.5
    tracker.close()
    assert time.perf_counter() - start < 2
    assert "did not finish" in caplog.text and "was too slow" in caplog.text


def test_a_tracker_that_fails_is_switched_off_with_one_line(track, caplog):
    tracker = track(Raising)
    for step in range(3):
        tracker.log({"train/loss": 1.0}, step)
    tracker.close()
    assert caplog.text.count("wandb failed and is switched off for this run: no route to host") == 1


def test_a_missing_tracker_names_its_install_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"swanlab is needed for .*pip install 'memlm\[swanlab\]'"):
        trackers.require("swanlab")


def test_speed_is_of_several_steps_however_many_there_are():
    watch = Stopwatch([9.0, 2.0, 2.0, 0.0])
    assert watch.recent(2) == 1.0 and watch.recent(100) == 3.25
