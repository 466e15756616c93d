"""What ends a run early, short of a kill, costs nothing either."""

import json
import logging
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest
from transformers import AutoModelForCausalLM

from memlm.config.alarms import AlarmsConfig
from memlm.errors import CheckpointError, Interrupted, MemlmError, RunError
from memlm.evaluate.suite import Suite
from memlm.experiment import attempt
from memlm.experiment.config import ExperimentConfig, load_experiment
from memlm.experiment.run import Watcher, run_experiment
from memlm.train import optimizer
from memlm.train.checkpoint import checkpoints, finish
from memlm.train.manifest import verify
from tests.resume.kills import outcome
from tests.resume.test_kills import config as write_config
from tests.told import one_line

STEPS = 12


@pytest.fixture(scope="module")
def config(corpus, tmp_path_factory):
    return load_experiment(write_config(corpus, tmp_path_factory.mktemp("config"), STEPS))


@pytest.fixture(scope="module")
def untouched(config, tmp_path_factory):
    return outcome(run_experiment(config, tmp_path_factory.mktemp("untouched"), progress=False) / "memory-s0")


@pytest.fixture
def counted(record_property):
    """Adds a row to the table of reliability, once a test has come to its end."""

    def count(what):
        record_property("reliability", {"what": what, "tried": 1, "good": 1, "note": ""})

    return count


class Died(Exception):
    """Stands for an end that nothing could be done about."""


def run_until(config, root, step, end):
    """Runs up to the end of a step, where ``end`` is called."""

    def watch(now, loss, speed):
        if now == step:
            end()

    return run_experiment(config, root, Watcher(step=watch), progress=False)


def die():
    raise Died


def broken_off(config, root, step=9):
    with pytest.raises(Died):
        run_until(config, root, step, die)
    return root / "killed" / "memory-s0"


@pytest.mark.parametrize(
    "setting",
    [
        "variants.memory.fusion={type: cross_attention}",
        "variants.memory.fusion={type: weighted_sum}",
        "variants.memory.memory.type=product_key_batch_norm",  # running statistics belong to the model
        "train.revive_every=5",  # counts are half way when the run is broken off
    ],
)
def test_every_wiring_goes_on_bit_for_bit(corpus, tmp_path, setting):
    config = load_experiment(write_config(corpus, tmp_path, STEPS), [setting])
    untouched = outcome(run_experiment(config, tmp_path / "untouched", progress=False) / "memory-s0")
    broken_off(config, tmp_path / "broken")
    assert outcome(run_experiment(config, tmp_path / "broken", progress=False) / "memory-s0") == untouched


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_first_and_the_run_goes_on(config, untouched, tmp_path, name, counted):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as raised:
        run_until(config, tmp_path, 7, lambda: os.kill(os.getpid(), getattr(signal, name)))
    assert str(raised.value) == f"stopped by {name}" and signal.getsignal(signal.SIGTERM) == before
    run = tmp_path / "killed" / "memory-s0"
    assert checkpoints(run)[0].step == 7, "not only at the steps that are due"
    record = json.loads((run / "record.json").read_text())
    assert (record["status"], record["steps"], record["tokens"]) == ("interrupted", 7, 7 * 8 * 16)
    continued = []
    watcher = Watcher(continued=lambda name, step: continued.append((name, step)))
    assert outcome(run_experiment(config, tmp_path, watcher, progress=False) / "memory-s0") == untouched
    assert continued == [("memory-s0", 7)]
    record = json.loads((run / "record.json").read_text())
    assert [(entry["step"], entry["commit"]) for entry in record["continued"]] == [(7, record["commit"])]
    counted("runs ended by TERM or INT")


def test_a_run_with_compact_gradients_gives_the_same_bits(config, untouched, tmp_path, monkeypatch, counted):
    monkeypatch.setattr(optimizer, "COMPACT_SIZE", 0)
    monkeypatch.setattr(optimizer, "COMPACT_SHARE", 1.0)
    train = config.train.model_copy(update={"train_values_epochs": None})
    config = config.model_copy(update={"train": train})
    expected = outcome(run_experiment(config, tmp_path / "untouched", progress=False) / "memory-s0")
    assert expected != untouched, "the gradients are not compact"
    broken_off(config, tmp_path / "broken")
    assert outcome(run_experiment(config, tmp_path / "broken", progress=False) / "memory-s0") == expected
    counted("runs with compact gradients broken off")


def test_a_run_whose_router_does_not_learn_gives_the_same_bits(config, tmp_path):
    config = config.model_copy(update={"train": config.train.model_copy(update={"router_lr": 0.0})})
    expected = outcome(run_experiment(config, tmp_path / "untouched", progress=False) / "memory-s0")
    broken_off(config, tmp_path / "broken")
    assert outcome(run_experiment(config, tmp_path / "broken", progress=False) / "memory-s0") == expected


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [flip_a_byte, cut, lambda path: path.unlink()], ids=["flipped", "cut", "missing"])
@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_told_and_passed_over(config, untouched, tmp_path, caplog, file, damage, counted):
    run = broken_off(config, tmp_path)
    assert [checkpoint.step for checkpoint in checkpoints(run)] == [8, 6]
    damage(run / "checkpoint-8" / file)
    with pytest.raises(CheckpointError, match=r"checkpoint-8: (is damaged|holds no checkpoint) \("):
        verify(run / "checkpoint-8")
    continued = []
    watcher = Watcher(continued=lambda name, step: continued.append(step))
    with caplog.at_level(logging.WARNING):
        folder = run_experiment(config, tmp_path, watcher, progress=False)
    assert continued == [6] and "checkpoint-8" in caplog.text and "passed over" in caplog.text
    assert outcome(folder / "memory-s0") == untouched
    counted("damaged checkpoints and records")


def test_with_every_checkpoint_damaged_the_run_begins_again(config, untouched, tmp_path, caplog, counted):
    run = broken_off(config, tmp_path)
    for checkpoint in checkpoints(run):
        flip_a_byte(checkpoint.folder / "model.safetensors")
    assert outcome(run_experiment(config, tmp_path, progress=False) / "memory-s0") == untouched
    assert caplog.text.count("passed over") == 2
    counted("damaged checkpoints and records")


def change_kinds(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "text", "alarms": 1, "continued": 2}))


@pytest.mark.parametrize("damage", [flip_a_byte, cut, change_kinds, os.unlink])
def test_a_damaged_record_loses_nothing(config, untouched, tmp_path, damage, counted):
    run = broken_off(config, tmp_path)
    damage(run / "record.json")
    continued = []
    watcher = Watcher(continued=lambda name, step: continued.append(step))
    assert outcome(run_experiment(config, tmp_path, watcher, progress=False) / "memory-s0") == untouched
    assert continued == [8]
    counted("damaged checkpoints and records")


def test_a_damaged_record_of_a_finished_run_is_told_and_the_run_stays(config, tmp_path):
    run = run_experiment(config, tmp_path, progress=False) / "memory-s0"
    cut(run / "record.json")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(
        RunError, match=r"record.json: cannot be read \(it is damaged\); mend it, or remove that folder"
    ):
        run_experiment(config, tmp_path, progress=False)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_was_passed_over_does_not_crowd_out_what_comes_after(config, untouched, tmp_path):
    run = broken_off(config, tmp_path)
    for checkpoint in checkpoints(run):
        flip_a_byte(checkpoint.folder / "model.safetensors")
    broken_off(config, tmp_path, step=5)
    assert [checkpoint.step for checkpoint in checkpoints(run)] == [4, 2]
    continued = []
    watcher = Watcher(continued=lambda name, step: continued.append(step))
    assert outcome(run_experiment(config, tmp_path, watcher, progress=False) / "memory-s0") == untouched
    assert continued == [4]


def test_a_signal_in_the_last_step_does_not_cost_the_training(config, untouched, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        run_until(config, tmp_path, STEPS, lambda: os.kill(os.getpid(), signal.SIGTERM))
    continued = []
    watcher = Watcher(continued=lambda name, step: continued.append(step))
    assert outcome(run_experiment(config, tmp_path, watcher, progress=False) / "memory-s0") == untouched
    assert continued == [STEPS]


def test_a_damaged_best_checkpoint_stays_damaged(config, tmp_path):
    train = config.train.model_copy(update={"evaluate_every": 2})
    config = config.model_copy(update={"train": train})
    run = broken_off(config, tmp_path, step=11)
    best = min(checkpoints(run), key=lambda checkpoint: checkpoint.validation_loss)
    flip_a_byte(best.folder / "model.safetensors")
    finish(run, keep_best=1)
    with pytest.raises(CheckpointError, match=r"model.safetensors is not what was written"):
        verify(best.folder)


def test_alarms_outlive_a_repeated_evaluation(config, tmp_path, monkeypatch):
    train = config.train.model_copy(update={"alarms": AlarmsConfig(train_eval_gap=1e-9, dead_slots=1e-9)})
    config = config.model_copy(update={"train": train})
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Suite, "evaluate", lambda *_: (_ for _ in ()).throw(RunError("the judge is gone")))
            with pytest.raises(RunError, match="the judge is gone"):
                run_experiment(config, tmp_path, progress=False)
    run = run_experiment(config, tmp_path, progress=False) / "memory-s0"
    assert json.loads((run / "record.json").read_text())["alarms"]


def test_a_file_system_without_locks_is_told(config, tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    run_experiment(config, tmp_path, progress=False)
    assert "cannot be locked (Function not implemented)" in caplog.text


def test_a_failed_evaluation_does_not_cost_the_training(config, untouched, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Suite, "evaluate", lambda *_: (_ for _ in ()).throw(RunError("the judge is gone")))
        with pytest.raises(RunError, match="the judge is gone"):
            run_experiment(config, tmp_path, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "train", lambda *_: pytest.fail("it was trained already"))
        assert outcome(run_experiment(config, tmp_path, progress=False) / "memory-s0") == untouched


def test_a_damaged_result_is_trained_again_from_the_last_checkpoint(
    config, untouched, tmp_path, monkeypatch, caplog, counted
):
    with monkeypatch.context() as patch:
        patch.setattr(Suite, "evaluate", lambda *_: die())
        with pytest.raises(Died):
            run_experiment(config, tmp_path, progress=False)
    flip_a_byte(tmp_path / "killed" / "memory-s0" / "checkpoint" / "model.safetensors")
    assert outcome(run_experiment(config, tmp_path, progress=False) / "memory-s0") == untouched
    assert "checkpoint: is damaged (model.safetensors is not what was written)" in caplog.text
    counted("damaged checkpoints and records")


def test_the_newest_and_the_best_are_kept_and_then_the_best(config, tmp_path):
    evaluated = config.train.model_copy(update={"evaluate_every": 2, "keep_last": 1, "keep_best": 2, "lr": 0.05})
    config = config.model_copy(update={"train": evaluated})
    run = broken_off(config, tmp_path, step=11)
    losses = {c.step: c.validation_loss for c in checkpoints(run)}
    assert 10 in losses and len(losses) in (2, 3)
    run_experiment(config, tmp_path, progress=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["evaluate/validation_loss"] for line in lines if line["step"] % 2 == 0}
    del measured[STEPS]  # the last step is the result itself
    best = sorted(measured, key=measured.get)[:2]
    assert sorted(c.step for c in checkpoints(run)) == sorted(best)
    for checkpoint in checkpoints(run):
        verify(checkpoint.folder)
        assert not (checkpoint.folder / "state.safetensors").exists(), "nobody goes on from a finished run"
        AutoModelForCausalLM.from_pretrained(checkpoint.folder)


def test_other_settings_do_not_touch_what_can_be_gone_on_from(config, tmp_path):
    run = broken_off(config, tmp_path)
    other = config.model_copy(update={"train": config.train.model_copy(update={"lr": 0.5})})
    with pytest.raises(RunError, match=r"memory-s0 is a run to be continued with other settings.*-o name="):
        run_experiment(other, tmp_path, progress=False)
    assert len(checkpoints(run)) == 2


def test_a_run_that_an_earlier_version_began_goes_on_as_often_as_it_must(config, untouched, tmp_path, monkeypatch):
    def older(config, variant, seed):
        settings = recorded(config, variant, seed)
        del settings["train"]["shard"], settings["model"]["experts"]
        return settings

    recorded = ExperimentConfig.run_config
    with monkeypatch.context() as patch:
        patch.setattr(ExperimentConfig, "run_config", older)
        run = broken_off(config, tmp_path, step=5)
    settings = (run / "config.yaml").read_text()
    broken_off(config, tmp_path)  # beside a checkpoint of the earlier version there is one of this
    run_experiment(config, tmp_path, progress=False)
    assert outcome(run) == untouched
    assert [part["step"] for part in json.loads((run / "record.json").read_text())["continued"]] == [4, 8]
    assert (run / "config.yaml").read_text() == settings and "shard:" not in settings


def test_other_text_does_not_touch_what_can_be_gone_on_from(config, corpus, tmp_path):
    text = tmp_path / "corpus.jsonl"
    shutil.copy(corpus, text)
    config = config.model_copy(update={"data": config.data.model_copy(update={"corpus": str(text)})})
    run = broken_off(config, tmp_path)
    text.write_text("".join(text.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match="memory-s0 was run on other text"):
        run_experiment(config, tmp_path, progress=False)
    assert len(checkpoints(run)) == 2


@contextmanager
def small_disk(folder, megabytes):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("free_kib", [0, 4, 40, 120], ids="{} KiB left".format)
def test_a_full_disk_is_one_line_and_costs_nothing(config, untouched, tmp_path, counted, free_kib):
    with small_disk(tmp_path / "disk", 4) as disk:
        ballast = disk / "ballast"

        def fill():
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(4096))
            os.truncate(ballast, ballast.stat().st_size - free_kib * 1024)

        with pytest.raises(MemlmError, match=r"No space left on device.*give the same command again") as raised:
            run_until(config, disk, 7, fill)
        one_line(raised.value)
        run = disk / "killed" / "memory-s0"
        assert [checkpoint.step for checkpoint in checkpoints(run)] == [6, 4]
        ballast.unlink()
        assert outcome(run_experiment(config, disk, progress=False) / "memory-s0") == untouched
    counted("full disks")
