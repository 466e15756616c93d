"""`memlm rerun`: repeats a recorded run and says whether the numbers agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from memlm.cli import screen
from memlm.cli.options import RunArgument

if TYPE_CHECKING:
    from memlm.experiment.rerun import Comparison, Rerun


def command(
    run: RunArgument,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", help="The folder that takes the rerun; .rerun beside the run if not given."),
    ] = None,
) -> None:
    """Repeat a run from its record and compare every loss. The exit code is 1 if they do not agree."""
    from memlm.cli.run import View
    from memlm.experiment.rerun import plan_rerun

    console = screen.output()
    plan = plan_rerun(run, runs, screen.shows_bars())
    for line in _expectation(plan):
        console.print(line)

    view = View(screen.beside(), total=1)
    with view.progress:
        watcher = view.watcher()
        rows = plan.execute(watcher, screen.shows_bars(), screen.command_line())
    _show(console, rows)
    console.print(_verdict(plan, rows))
    if not all(row.agrees for row in rows):
        raise typer.Exit(1)


def _expectation(plan: Rerun) -> list[str]:
    head = f"rerun of {plan.recorded.folder} -> {plan.folder}"
    if plan.is_exact:
        return [head, "expected bit for bit: same device, versions and code"]
    return [
        head,
        f"expected within {_tolerance()}, not bit for bit:",
        *(f"  {obstacle}" for obstacle in plan.obstacles),
    ]


def _show(console: Console, rows: list[Comparison]) -> None:
    cells: list[list[str]] = []
    for row in rows:
        difference = "" if row.difference is None else f"{row.difference:.2g}"
        agrees = "yes" if row.agrees else "NO"
        cells.append([row.what, _shown(row.recorded), _shown(row.rerun), difference, agrees])
    screen.show_table(console, ["", "recorded", "rerun", "difference", "agrees"], cells, labels=5)


def _verdict(plan: Rerun, rows: list[Comparison]) -> str:
    name, how = plan.recorded.name, "bit for bit" if plan.is_exact else f"within {_tolerance()}"
    apart = [row.what for row in rows if not row.agrees]
    if apart:
        return f"{name} does NOT agree {how}: {'; '.join(apart)}"
    return f"{name} agrees {how}"


def _tolerance() -> str:
    from memlm.experiment.rerun import LOSS_TOLERANCE, QUALITY_TOLERANCE

    return f"{LOSS_TOLERANCE:.0%} of each loss and {QUALITY_TOLERANCE:g} point of quality"


def _shown(value: float | None) -> str:
    return "–" if value is None else repr(value)
