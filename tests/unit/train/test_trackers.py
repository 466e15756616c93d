"""Each tracker tried for real without a network, and a network that swallows everything."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import urllib.request

import pytest
from accelerate import tracking

from memlm.experiment.config import load_experiment
from memlm.experiment.run import run_experiment
from memlm.train import trackers
from tests.conftest import experiment_yaml

DENSE = ["seeds=[0]", "variants={dense: {}}", "hypotheses=[]", "evaluate.samples=0", "train.log_every=1"]
KINDS = ("tensorboard", "swanlab", "wandb")
SLOWEST_STEP_S = 1.0


PATIENT = "from memlm.train import trackers; trackers.CLOSE_SECONDS = 60.0; from memlm.cli.main import main; main()"
"""The command, with more time for trackers to end than a user should wait: a busy machine may need it."""


@pytest.fixture(scope="module")
def tracked(corpus, tmp_path_factory):
    """The folder that a run left to its trackers, in a process of its own and away from the working folder."""
    folder = tmp_path_factory.mktemp("tracked")
    path = experiment_yaml.__wrapped__(corpus, folder)
    options = [option for setting in (*DENSE, f"train.trackers=[{','.join(KINDS)}]") for option in ("-o", setting)]
    done = subprocess.run(
        [sys.executable, "-c", PATIENT, "run", str(path), "--runs", str(folder / "runs"), *options],
        env=os.environ | {"SWANLAB_MODE": "offline", "WANDB_MODE": "offline"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "switched off" not in done.stderr and "left behind" not in done.stderr, done.stderr
    assert sorted(each.name for each in folder.iterdir()) == ["runs", "tiny.yaml"], "a tracker wrote elsewhere"
    return folder / "runs" / "tiny" / "dense-s0" / "trackers"


def test_tensorboard_keeps_every_step(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "dense-s0"))
    events.Reload()
    logged = [json.loads(line) for line in (tracked.parent / "metrics.jsonl").read_text().splitlines()]
    losses = [(each.step, each.value) for each in events.Scalars("train/loss")]
    assert losses == [(line["step"], pytest.approx(line["train/loss"])) for line in logged]


@pytest.mark.parametrize("pattern", ["run-*", "wandb/offline-run-*"])
def test_the_others_keep_the_run_for_later(tracked, pattern):
    (kept,) = tracked.glob(pattern)
    content = b"".join(path.read_bytes() for path in kept.rglob("*") if path.is_file())
    for text in (b"train/loss", b"evaluate/validation_loss", b"train.batch_size", b"tiny", b"dense-s0"):
        assert text in content, text


@pytest.mark.skipif(importlib.util.find_spec("swanboard") is None, reason="needs swanlab's dashboard (extra swanlab)")
def test_swanlab_keeps_the_run_where_its_dashboard_looks(tmp_path, monkeypatch):
    from accelerate import PartialState

    PartialState()  # what accelerate's trackers ask, training has set up
    monkeypatch.setenv("SWANLAB_MODE", "local")
    tracker = trackers.BackgroundTracker("swanlab", "tiny", "dense-s0", tmp_path, {"seed": 0})
    tracker.log({"train/loss": 1.0}, 1)
    tracker.close()
    assert list(tmp_path.glob("run-*/logs/*/*.log"))


class Networked:
    """A tracker that sends every step and waits for the answer, as those do that are online."""

    requires_logging_directory = False
    address = ""
    asked = 0

    def __init__(self, project, **where):
        pass

    def store_init_configuration(self, config):
        pass

    def log(self, values, step):
        Networked.asked += 1
        urllib.request.urlopen(self.address, data=b"x", timeout=60)

    def finish(self):
        pass


def test_a_network_that_swallows_everything_holds_no_step_up(experiment_yaml, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Networked)
    monkeypatch.setattr(trackers, "require", lambda name: None)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.3)
    with socket.socket() as hole:  # takes connections and never answers
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        monkeypatch.setattr(Networked, "address", f"http://127.0.0.1:{hole.getsockname()[1]}")
        config = load_experiment(experiment_yaml, [*DENSE, "train.trackers=[wandb]", "train.steps=20"])
        folder = run_experiment(config, tmp_path / "runs", progress=False) / "dense-s0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert json.loads((folder / "record.json").read_text())["status"] == "finished"
    assert [line["step"] for line in lines] == list(range(1, 21))
    times = [line["time_s"] for line in lines]
    assert max(b - a for a, b in zip([0, *times], times, strict=False)) < SLOWEST_STEP_S
    assert Networked.asked == 1 and "wandb did not finish within" in caplog.text
