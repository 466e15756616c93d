"""A rank that dies ends the run for all, in one line, and the run goes on over another number of ranks.

The bank, or the whole model, is sharded over the ranks, so a checkpoint of two is also read by one and by four.
"""

import json
import time

import pytest

from memlm.experiment.config import load_experiment
from memlm.experiment.run import run_experiment
from tests.distributed.launch import torchrun

ONE_RUN = ["seeds=[0]", "variants={gated_mlp: {memory: {type: product_key, n_keys: 8}, fusion: {type: gated_mlp}}}"]
SETTINGS = [*ONE_RUN, "hypotheses=[]", "train.save_every=2"]
BANK, MODEL = ([*SETTINGS, f"train.shard={sharded}"] for sharded in ("bank", "model"))
RUN = "tiny/gated_mlp-s0"


def doomed(ranks, rank, step, name, yaml, folder, settings=MODEL):
    options = [word for setting in settings for word in ("-o", setting)]
    return torchrun(ranks, "tests.distributed.dying", rank, step, name, "run", yaml, *options, cwd=folder)


def record(root):
    return json.loads((root / RUN / "record.json").read_text())


def told(ended):
    return [line for line in ended.stderr.splitlines() if line.startswith("error:")]


def go_on(yaml, root, settings=MODEL):
    run_experiment(load_experiment(yaml, settings), root, progress=False)
    return record(root)


@pytest.fixture
def untouched(experiment_yaml, tmp_path):
    """The results of one process that nobody touched."""
    return go_on(experiment_yaml, tmp_path / "untouched", SETTINGS)["results"]


def assert_same(results, untouched):
    for metric in ("validation_loss", "train_loss"):
        assert results[metric] == pytest.approx(untouched[metric], rel=1e-4)


def test_ranks_that_do_not_end_are_ended_and_what_they_said_is_told():
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"not at an end after 15 s: .*waiting"):
        torchrun(
            2, "timeit", "-n1", "-r1", "import sys, time; sys.stderr.write('waiting'); time.sleep(600)", timeout_s=15
        )
    assert time.monotonic() - began < 100


def test_a_killed_rank_ends_the_run_and_one_process_goes_on(experiment_yaml, tmp_path, untouched):
    ended = doomed(2, 1, 5, "SIGKILL", experiment_yaml, tmp_path)
    assert ended.returncode == 1
    assert told(ended) == [
        f"error: runs/{RUN}: another process of this run has ended; what is saved is kept, and the same command goes "
        "on from there"
    ]
    assert "memlm/train/loop.py" not in ended.stderr, "somebody prints a traceback"
    assert record(tmp_path / "runs")["status"] == "failed"
    found = go_on(experiment_yaml, tmp_path / "runs")
    assert [part["step"] for part in found["continued"]] == [4]
    assert_same(found["results"], untouched)


def test_a_signal_to_one_rank_saves_and_ends_all_and_more_ranks_go_on(experiment_yaml, tmp_path, untouched):
    ended = doomed(2, 1, 3, "SIGTERM", experiment_yaml, tmp_path)
    assert ended.returncode != 0
    assert told(ended) == ["error: stopped by SIGTERM"]
    assert "FSDP2-wrapped module" not in ended.stderr, "torch warns of reads that nobody writes to"
    assert record(tmp_path / "runs")["status"] == "interrupted"
    again = doomed(4, 0, 99, "SIGTERM", experiment_yaml, tmp_path)
    assert again.returncode == 0, again.stderr
    found = record(tmp_path / "runs")
    assert [part["step"] for part in found["continued"]] == [3]
    assert_same(found["results"], untouched)


def test_a_signal_during_the_last_step_ends_all_as_well(experiment_yaml, tmp_path, untouched):
    ended = doomed(2, 1, "6+", "SIGTERM", experiment_yaml, tmp_path, BANK)
    assert ended.returncode != 0
    assert told(ended) == ["error: stopped by SIGTERM"]
    assert record(tmp_path / "runs")["status"] == "interrupted"
    found = go_on(experiment_yaml, tmp_path / "runs", BANK)
    assert [part["step"] for part in found["continued"]] == [6]
    assert_same(found["results"], untouched)
