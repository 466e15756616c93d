"""`memlm release`: recorded runs made again, as model folders with hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlm.cli import screen


def command(
    recorded: Annotated[
        list[Path],
        typer.Argument(help="Finished runs of one experiment: a memory model and its dense control.", metavar="RUN"),
    ],
    folder: Annotated[Path, typer.Option("--to", help="The new folder.", metavar="DIR")],
    runs: Annotated[
        Path | None,
        typer.Option("--runs", help="The folder that takes the reruns; .rerun beside the runs if not given."),
    ] = None,
) -> None:
    """Make runs again from their records and write the models. With hashes; the exit code is 1 if numbers differ."""
    from memlm.cli.run import View
    from memlm.export.release import plan_release, rebuild, write_release

    plans = plan_release(recorded, folder, runs, screen.shows_bars())
    view = View(screen.beside(), total=len(plans))
    with view.progress:
        watcher = view.watcher()
        rebuilt = [rebuild(plan, watcher, screen.shows_bars(), screen.command_line()) for plan in plans]
    write_release(rebuilt, folder)
    for each in rebuilt:
        how = "agrees with" if each.agrees else "does NOT agree with"
        expected = "bit for bit" if each.plan.is_exact else "within the tolerance of memlm rerun"
        typer.echo(f"{folder / each.plan.recorded.name}: {how} its record, {expected}")
    typer.echo(f"{folder}: check it with: cd {folder} && sha256sum -c SHA256SUMS")
    if not all(each.agrees for each in rebuilt):
        raise typer.Exit(1)
