"""`memlm eval`: a finished run's held-out loss again, with its values elsewhere or in fewer bits."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from memlm.cli import screen
from memlm.cli.options import RunArgument, Values


def command(
    run: RunArgument,
    values: Annotated[
        list[Values] | None,
        typer.Option(
            "--values", help="Also with the values on the device, on the host, in their file, or in 8 bits; many times."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a memory model on its run's held-out text. As it is, memory off, and with its values held elsewhere."""
    from memlm.experiment.reading import read_remembering

    read_remembering(run, "evaluate")  # a wrong folder is told before what takes seconds to import

    from memlm.experiment.held_out import held_out

    rows = []
    for row in held_out(run, [each.value for each in values or []], shows_bars=screen.shows_bars()):
        rows.append(row._asdict())
        if not as_json:
            hits = "" if row.hit_rate is None else f", hit rate {row.hit_rate:.3f}"
            typer.echo(f"{row.values}: held-out loss {row.loss:.5f} nats, {row.more:+.5f}{hits}")
    if as_json:
        typer.echo(json.dumps(rows))
    screen.tell_left_out(run)
