"""How far an experiment in the background has come, and how it ended: from its process and its records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from memlm.errors import RunError
from memlm.experiment.jobs import Job, tail
from memlm.experiment.reading import read_experiment

Outcome = Literal["running", "finished", "failed", "stopped", "killed", "elsewhere"]


@dataclass(frozen=True)
class Progress:
    """How far an experiment has come.

    Attributes:
        finished: Number of finished runs.
        planned: Number of all runs.
        run: The run that has begun and not ended, if there is one.
        step: The last step that it logged.
    """

    finished: int
    planned: int
    run: str | None = None
    step: int = 0


def outcome(job: Job) -> Outcome:
    """Returns how a job ended, if it did.

    - finished: every run is.
    - stopped: it noted that a signal ended it.
    - failed: it noted an error, or came to no run at all; its log says why.
    - killed: it is gone and could note nothing.
    - elsewhere: another machine started it, which alone can tell whether it runs.
    """
    if job.state != "ended":
        return job.state
    try:
        experiment = read_experiment(job.folder)
    except RunError:
        return "failed"
    statuses = {run.record.status for run in experiment.runs}
    if not experiment.absent and statuses == {"finished"}:
        return "finished"
    if "running" in statuses:
        return "killed"
    if "interrupted" in statuses:
        return "stopped"
    return "failed" if "failed" in statuses or not statuses else "killed"


def progress(folder: Path) -> Progress | None:
    """Returns how far an experiment has come; None if it has not begun its runs, or cannot be read."""
    try:
        experiment = read_experiment(folder)
    except RunError:
        return None
    planned = len(experiment.plan.runs)
    finished = len(experiment.finished())
    begun = [run for run in experiment.runs if run.record.status == "running"]
    if not begun:
        return Progress(finished, planned)
    latest = max(begun, key=lambda run: run.record.started)  # one that was killed says "running" for ever
    return Progress(finished, planned, latest.name, _last_step(latest.folder / "metrics.jsonl"))


def _last_step(path: Path) -> int:
    """Returns the step in the last whole line of a metrics file, 0 if there is none."""
    try:
        with path.open("rb") as file:
            lines = tail(file, 2).splitlines()
    except OSError:
        return 0
    for line in reversed(lines):  # the last one may be half written
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return 0
