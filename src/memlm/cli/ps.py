"""`memlm ps`: the experiments that run, or ran, in the background."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from memlm.cli import screen
from memlm.cli.options import RunsOption

if TYPE_CHECKING:
    from memlm.experiment.jobs import Job
    from memlm.experiment.progress import Outcome


def command(runs: RunsOption = Path("runs")) -> None:
    """List the jobs started with --detach. Each is running, finished, failed, stopped or killed; how far is told."""
    from memlm.experiment.jobs import list_jobs
    from memlm.experiment.progress import outcome
    from memlm.report.tables import duration

    console = screen.output()
    jobs = list_jobs(runs)
    if not jobs:
        console.print(f"no background jobs in {runs}; start one with: memlm run CONFIG --detach")
        return
    rows: list[list[str]] = []
    for job in jobs:
        state = outcome(job)
        age = datetime.now(UTC) - datetime.fromisoformat(job.started).astimezone()
        started = f"{duration(max(0.0, age.total_seconds()))} ago"
        told = f"on {job.host}" if state == "elsewhere" else state
        rows.append([job.name, told, str(job.pid), started, _progress(job, state), str(job.log)])
    screen.show_table(console, ["name", "state", "PID", "started", "progress", "log"], rows, labels=6)


def _progress(job: Job, state: Outcome) -> str:
    from memlm.experiment.progress import progress

    reached = progress(job.folder)
    if reached is None:
        return "preparing" if state == "running" else "no run begun"
    told = f"{reached.finished}/{reached.planned} runs"
    if reached.run is not None and state in ("running", "killed", "elsewhere"):
        told += f", {reached.run} step {reached.step:,}"
    return told
