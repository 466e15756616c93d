"""`memlm diff`: what differs between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlm.cli import screen


def command(
    run_a: Annotated[Path, typer.Argument(help="A run's folder, e.g. runs/demo/dense-s0.", metavar="RUN")],
    run_b: Annotated[Path, typer.Argument(help="Another one.", metavar="RUN")],
) -> None:
    """Print what differs between two runs. Config, code, versions, device, data and results are compared."""
    from memlm.experiment.difference import difference

    console = screen.output()
    rows = difference(run_a, run_b)
    if not rows:
        console.print("nothing differs")
        return
    sections = [row.section for row in rows]
    shown = [
        ["" if row.section == before else row.section, row.path, _shown(row.a), _shown(row.b)]
        for before, row in zip(["", *sections], rows, strict=False)
    ]
    screen.show_table(console, ["", "", run_a.name, run_b.name], shown, labels=4)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
