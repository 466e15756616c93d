"""`memlm ps`: the experiments that run, or ran, in the background."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Column, Table

from memlm.cli import screen
from memlm.cli.options import RunsOption

if TYPE_CHECKING:
    from memlm.experiment.jobs import Job
    from memlm.experiment.progress import Outcome


def command(runs: RunsOption = Path("runs")) -> None:
    """List the jobs started with --detach: whether each runs, finished, failed, was stopped or killed, and how far."""
    from memlm.experiment.jobs import list_jobs
    from memlm.experiment.progress import outcome
    from memlm.report.tables import duration

    console = screen.output()
    jobs = list_jobs(runs)
    if not jobs:
        console.print(f"no background jobs in {runs}; start one with: memlm run CONFIG --detach")
        return
    columns = [Column(name, no_wrap=True) for name in ("name", "state", "PID", "started")]
    table = Table(*columns, Column("progress"), Column("log", overflow="fold"))
    for job in jobs:
        state = outcome(job)
        age = datetime.now(UTC) - datetime.fromisoformat(job.started).astimezone()
        started = f"{duration(max(0.0, age.total_seconds()))} ago"
        told = f"on {job.host}" if state == "elsewhere" else state
        table.add_row(job.name, told, str(job.pid), started, _progress(job, state), str(job.log))
    console.print(table, soft_wrap=False)  # the last column is broken instead


def _progress(job: Job, state: Outcome) -> str:
    from memlm.experiment.progress import progress

    reached = progress(job.folder)
    if reached is None:
        return "preparing" if state == "running" else "no run begun"
    told = f"{reached.finished}/{reached.planned} runs"
    if reached.run is not None and state in ("running", "killed", "elsewhere"):
        told += f", {reached.run} step {reached.step:,}"
    return told
