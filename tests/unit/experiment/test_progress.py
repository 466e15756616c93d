"""How far a job came, and how it ended."""

import os
import socket

import psutil
import pytest
from fabricate import edit_record

from memlm.experiment.jobs import Job
from memlm.experiment.progress import Progress, outcome, progress


def job(folder, runs=False, host=None):
    """A job whose process is this one, or one that is gone, since no process is as old as that."""
    created = psutil.Process().create_time() if runs else 0.0
    return Job(folder, os.getpid(), created, [], "2026-11-01T00:00:00+00:00", host or socket.gethostname())


def test_progress_counts_runs_and_tells_the_step_of_the_one_at_work(folder):
    assert progress(folder) == Progress(12, 12)
    run = folder / "gated_mlp-s1"
    edit_record(run, status="running")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 204, "tokens": 1}\n{"step": 206, "tok')
    assert progress(folder) == Progress(11, 12, "gated_mlp-s1", 204)
    (run / "metrics.jsonl").unlink()
    assert progress(folder) == Progress(11, 12, "gated_mlp-s1", 0)
    assert progress(folder / "nothing") is None


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], "finished"),
        (["running"], "killed"),
        (["interrupted"], "stopped"),
        (["failed"], "failed"),
        (["failed", "interrupted"], "stopped"),
        (["interrupted", "running"], "killed"),
    ],
)
def test_how_a_job_ended_is_told_by_its_records(folder, statuses, expected):
    for status, run in zip(statuses, ("dense-s0", "dense-s1"), strict=False):
        edit_record(folder / run, status=status)
    assert outcome(job(folder)) == expected
    assert outcome(job(folder, runs=True)) == "running"
    assert outcome(job(folder, host="another")) == "elsewhere"


def test_between_two_runs_only_a_kill_leaves_no_note(folder):
    (folder / "dense-s2" / "record.json").unlink()
    assert outcome(job(folder)) == "killed"


def test_without_any_run_it_failed(tmp_path):
    assert outcome(job(tmp_path)) == "failed"
