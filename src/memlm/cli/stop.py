"""`memlm stop`: ends a background job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlm.cli.logs import JobArgument
from memlm.cli.options import RunsOption
from memlm.errors import RunError

PATIENCE_S = 30.0
# Whoever forces it has as a rule waited before.
FORCED_PATIENCE_S = 5.0


def command(
    name: JobArgument,
    force: Annotated[bool, typer.Option("--force", help="Kill it if it does not end by itself in 5 seconds.")] = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """End a job. It finishes its step and notes in its record that it was interrupted."""
    from memlm.experiment.jobs import find_job, stop

    job = find_job(runs, name)
    if job.state == "ended":
        typer.echo(f"{name} had ended before")
        return
    patience = FORCED_PATIENCE_S if force else PATIENCE_S
    if not stop(job, patience, force):
        mend = "its processes may be waiting for a device" if force else f"wait, or kill it: memlm stop {name} --force"
        raise RunError(f"{name} (PID {job.pid}) is still there {patience:.0f} s after it was told to end; {mend}")
    typer.echo(f"{name} (PID {job.pid}) has ended")
