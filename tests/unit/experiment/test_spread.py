"""Runs spread over two worker processes, one of which is killed; Ray is an extra."""

import pickle
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest

from memlm.cli import run as run_command
from memlm.errors import ConfigError, DivergedError, Interrupted, MissingDependencyError, PreflightError, RunError
from memlm.experiment import run as running
from memlm.experiment import spread
from memlm.experiment.config import load_experiment
from memlm.experiment.reading import read_run
from memlm.experiment.run import Watcher, run_experiment
from memlm.experiment.schema import run_name
from memlm.experiment.spread import claimed, make_run

SAME = ("validation_loss", "train_loss", "memory_off_loss", "memory_shuffled_loss")


def losses(folder):
    runs = [read_run(record.parent) for record in sorted(folder.glob("*/record.json"))]
    assert all(run.record.status == "finished" for run in runs)
    return {run.name: [run.result(name) for name in SAME] for run in runs}


def at_work():
    """Returns the worker processes that make a run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found += [process] if make_run.__name__ in " ".join(process.cmdline()) else []
    return found


def kill_one(folder, killed):
    """Kills a worker that is at a run, once a run has saved something."""
    while not killed:
        if any(folder.glob("*/checkpoint-*")):
            for process in at_work()[:1]:
                process.kill()
                killed.append(process.pid)
        time.sleep(0.02)


@pytest.fixture
def config(experiment_yaml):
    return load_experiment(experiment_yaml, ["evaluate.samples=0", "train.save_every=1", "seeds=[0]"])


def test_runs_of_two_workers_are_those_of_one_process_though_one_is_killed(config, tmp_path):
    pytest.importorskip("ray")
    alone = run_experiment(config, tmp_path / "alone", progress=False)
    killed, told = [], []
    killer = threading.Thread(target=kill_one, args=(tmp_path / "spread" / config.name, killed), daemon=True)
    killer.start()
    watcher = Watcher(finished=lambda name, results: told.append((name, bool(results))))
    apart = run_experiment(config, tmp_path / "spread", watcher, progress=False, workers=2)
    killer.join(10)
    assert killed, "a worker was killed"
    assert losses(apart) == losses(alone)
    assert sorted(told) == [(name, True) for name in sorted(losses(alone))], "each is told once, with its results"


def in_turn(failing=None, error=None):
    """Stands for Ray: makes what is sent to the workers here."""

    def spread(make, runs, workers, on_gpu):
        make = pickle.loads(pickle.dumps(make))
        for run in runs:
            yield run_name(*run), error if run_name(*run) == failing else make(*run)

    return spread


def test_what_a_worker_makes_is_what_is_made_here(config, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "spread", in_turn())
    alone = run_experiment(config, tmp_path / "alone", progress=False)
    told = []
    watcher = Watcher(finished=lambda name, results: told.append((name, bool(results))))
    apart = run_experiment(config, tmp_path / "apart", watcher, progress=False, workers=2)
    assert losses(apart) == losses(alone)
    run_experiment(config, tmp_path / "apart", watcher, progress=False, workers=2)
    names = ["dense-s0", "cross_attention-s0", "gated_mlp-s0"]
    assert told == [*((name, True) for name in names), *((name, False) for name in names)], "finished runs are kept"


@pytest.mark.parametrize(("kind", "exit_code"), [(DivergedError, 4), (PreflightError, 3)])
def test_a_run_that_fails_keeps_no_other_from_its_end(kind, exit_code, config, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "spread", in_turn("cross_attention-s0", kind("it went wrong")))
    told, failed = [], []
    watcher = Watcher(
        finished=lambda name, _: told.append(name), failed=lambda name, reason: failed.append((name, reason))
    )
    with pytest.raises(kind, match="it went wrong") as raised:
        run_experiment(config, tmp_path, watcher, progress=False, workers=2)
    assert raised.value.exit_code == exit_code
    assert told == ["dense-s0", "gated_mlp-s0"]
    assert failed == [("cross_attention-s0", "it went wrong")]


@pytest.mark.parametrize(
    ("errors", "exit_code"),
    [
        ([DivergedError("loss nan"), PreflightError("a fault\n  dense: leak"), RunError("its process died")], 1),
        ([DivergedError("loss nan"), DivergedError("loss inf"), DivergedError("loss nan")], 4),
        ([ConfigError("loss nan"), ConfigError("it is missing"), ConfigError("it is missing")], 2),
    ],
)
def test_all_runs_that_fail_are_named(config, errors, exit_code, tmp_path, monkeypatch):
    def spread(make, runs, workers, on_gpu):
        yield from zip((run_name(*run) for run in runs), errors, strict=True)

    monkeypatch.setattr(running, "spread", spread)
    names = "dense-s0, cross_attention-s0, gated_mlp-s0"
    with pytest.raises(RunError, match=rf"^3 of 3 runs failed: {names}; the first: loss nan$") as raised:
        run_experiment(config, tmp_path, progress=False, workers=2)
    assert raised.value.exit_code == exit_code


def test_a_run_is_made_by_one_process_at_a_time(tmp_path):
    first, second = tmp_path / "dense-s0", tmp_path / "dense-s1"
    busy = pytest.raises(RunError, match="dense-s0 is being made by another process; wait for it")
    with claimed(first), claimed(second), busy, claimed(first):
        pass
    with claimed(first):
        pass


def test_without_ray_the_line_that_installs_it_is_told(experiment_yaml, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"memlm run --workers.*pip install 'memlm\[ray\]'"):
        run_experiment(load_experiment(experiment_yaml), tmp_path, progress=False, workers=2)


@pytest.mark.parametrize(
    ("within", "told"), [(Interrupted("SIGTERM", 15), Interrupted), (ValueError("something else"), SystemError)]
)
def test_a_signal_while_ray_waits_is_told_as_one(within, told, monkeypatch):
    def wait(_, timeout):
        raise SystemError("<cyfunction CoreWorker.wait> returned a result with an exception set") from within

    ray = SimpleNamespace(
        init=lambda **_: None,
        shutdown=lambda: None,
        wait=wait,
        remote=lambda **_: lambda _: SimpleNamespace(remote=lambda *_: "task"),
    )
    monkeypatch.setattr(spread, "optional", lambda *_: ray)
    with pytest.raises(told) as raised:
        next(spread.spread(lambda *_: {}, [("dense", 0)], 1, on_gpu=False))
    assert (raised.value is within) == (told is Interrupted)


def test_a_launcher_and_workers_are_too_much(experiment_yaml, tmp_path, monkeypatch):
    for variable, text in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(RunError, match="--workers starts processes itself; leave out the launcher, or --workers"):
        run_command.command(experiment_yaml, runs=tmp_path, workers=2)
