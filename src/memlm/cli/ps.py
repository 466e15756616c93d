"""`memlm ps`: the experiments that run, or ran, in the background."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from memlm.cli.options import RunsOption

if TYPE_CHECKING:
    from memlm.experiment.jobs import Job


def command(runs: RunsOption = Path("runs")) -> None:
    """List the jobs started with --detach: state, progress and where their logs are."""
    from memlm.experiment.jobs import list_jobs

    console = Console(highlight=False, markup=False)
    jobs = list_jobs(runs)
    if not jobs:
        console.print(f"no background jobs in {runs}; start one with: memlm run CONFIG --detach", soft_wrap=True)
        return
    columns = [Column(name, no_wrap=True) for name in ("name", "state", "PID", "since")]
    table = Table(*columns, Column("progress"), Column("log", overflow="fold"))
    for job in jobs:
        state = f"on {job.host}" if job.state == "elsewhere" else job.state
        since = datetime.fromisoformat(job.started).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(job.name, state, str(job.pid), since, _progress(job), str(job.log))
    console.print(table)


def _progress(job: Job) -> str:
    from memlm.experiment.jobs import progress

    reached = progress(job.folder)
    if reached is None:
        return "preparing" if job.state == "running" else "no run begun"
    told = f"{reached.finished}/{reached.planned} runs"
    if reached.run is not None and job.state != "ended":
        told += f", {reached.run} step {reached.step:,}"
    return told
