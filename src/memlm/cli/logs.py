"""`memlm logs`: what a background job prints."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from memlm.cli.options import RunsOption
from memlm.errors import Interrupted

JobArgument = Annotated[str, typer.Argument(help="The experiment's name, as memlm ps shows it.", metavar="NAME")]


def command(
    name: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends, or Ctrl+C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines from the end to begin with.")] = 40,
    runs: RunsOption = Path("runs"),
) -> None:
    """Show the end of a job's log, and follow it with -f."""
    from memlm.experiment.jobs import find_job, read_log

    job = find_job(runs, name)
    try:
        for part in read_log(job, lines, follow):
            typer.echo(part, nl=False)
    except KeyboardInterrupt:
        return
    except Interrupted as error:
        # Ctrl+C is how one stops looking; it is no failure, and the job does not notice.
        if error.exit_code != 128 + signal.SIGINT:
            raise
        return
    if follow:
        typer.echo(f"{job.name} has ended", err=True)
