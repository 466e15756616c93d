"""`memlm bench`: times layers, stages and training steps on this device, beside the dense layer and other packages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn

from memlm.cli import screen
from memlm.errors import ConfigError, Interrupted, RunError
from memlm.registry import unknown

if TYPE_CHECKING:
    from memlm.bench.run import Job
    from memlm.bench.store import Results
    from memlm.report import tables


ROOM = 140
"""Columns from which a table shows the extremes of its times."""


def command(
    config: Annotated[
        list[str] | None,
        typer.Option("--config", help="Sizes: tiny, S, P32k, M8k, M32k, L8k or L32k; may be given many times."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Parts: stages, layers, steps, growth or decode; may be given many times."),
    ] = None,
    growth: Annotated[bool, typer.Option("--growth", help="Also how cost grows with slots and with reads.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder of all timings.")] = Path("benchmarks"),
    report: Annotated[bool, typer.Option("--report", help="Measure nothing; write docs/performance.md anew.")] = False,
    docs: Annotated[Path, typer.Option("--docs", help="The folder of performance.md.")] = Path("docs"),
) -> None:
    """Time layers, stages and training steps on this device. A result that is wrong gets no time."""
    from memlm.bench.shapes import PARTS, SHAPES

    for kind, given, known in (("config", config, SHAPES), ("part", only, PARTS)):
        for name in given or []:
            if name not in known:
                raise ConfigError(unknown(kind, name, known))
    if report:
        from memlm.bench.page import write_page
        from memlm.bench.store import newest

        for path in write_page(docs, newest(out)):
            typer.echo(str(path))
        return
    parts = only or [part for part in PARTS if part not in ("growth", "decode")]
    if growth and "growth" not in parts:
        parts = [*parts, "growth"]
    _measure(screen.output(), config, parts, out)


def _measure(console: Console, names: list[str] | None, parts: list[str], out: Path) -> None:
    """Measures, drawing the course, and prints what was measured."""
    from memlm.bench.run import begin, default_shapes, plan, run
    from memlm.bench.setting import Setting
    from memlm.experiment.environment import install_line

    setting = Setting.here()
    if not setting.on_gpu and names is None:
        console.print("no GPU that torch can use: small sizes, in float32, uncompiled; they say nothing about a GPU")
    jobs = plan(names or default_shapes(setting), parts, setting)
    if not jobs:
        raise ConfigError(f"--config {', '.join(names or [])} has no {', '.join(parts)}; see docs/performance.md")
    results = begin(setting, out)
    with screen.bars(screen.beside(), MofNCompleteColumn()) as progress:
        task = progress.add_task(f"0/{len(jobs)}", total=len(jobs))

        def told(job: Job, row: dict[str, Any]) -> None:
            progress.advance(task)
            done = int(progress.tasks[0].completed)
            label = f"{job.part} {job.shape.name}: {job.name}"
            progress.update(task, description=f"after {label}")
            progress.console.print(f"[{done}/{len(jobs)}] {label}  {_told(row)}", markup=False, soft_wrap=True)

        try:
            path = run(jobs, setting, results, out, told)
        except Interrupted:
            progress.console.print(f"the rows so far are kept in {results.path(out)}", markup=False, soft_wrap=True)
            raise
    _print(console, results, {f"{job.part}/{job.shape.name}" for job in jobs})
    if any(row["status"] == "not installed" for group in results.groups.values() for row in group.rows.values()):
        console.print(f"other packages to compare with: {install_line('bench')}")
    console.print(f"kept in {path}")
    measured = [row for job in jobs for row in [results.groups[f"{job.part}/{job.shape.name}"].rows[job.name]]]
    bad = sum(row["status"] in ("wrong", "failed") for row in measured)
    if bad:
        raise RunError(f"{bad} of {len(measured)} rows are wrong or failed, and have no time; {path} says why")


def _told(row: dict[str, Any]) -> str:
    """Says a row in a few words."""
    from memlm.bench.tables import status, time

    if row["status"] != "ok":
        return status(row)
    if "tokens_per_s" in row:
        hits = f", hit rate {row['hit_rate']:.3f}" if "hit_rate" in row else ""
        return f"{row['tokens_per_s']:,.0f} tokens/s{hits}"
    return ", ".join(
        f"{name.replace('_', ' + ')} {cell.text} ms {cell.note}"
        for name in ("time", "forward", "forward_backward")
        if name in row
        for cell in [time(row[name])]
    )


def _print(console: Console, results: Results, keys: set[str]) -> None:
    """Prints the tables of what was measured now."""
    from memlm.bench.tables import TABLES

    device = results.device["name"]
    console.print(f"\n{device}, commit {results.commit}", style="bold")
    for key in (key for key in results.groups if key in keys):
        group = results.groups[key]
        _show(console, f"{group.part} {group.shape}: {group.sizes}", TABLES[group.part](group))


def _show(console: Console, title: str, table: tables.Table) -> None:
    rows = table.texts
    if console.width < ROOM:  # the extremes of a time would leave no room for its name; the lines above tell them
        rows = [[cell.text for cell in row] for row in table.rows]
    numbers = [place for place in range(len(table.columns)) if not table.is_text(place)]
    screen.show_table(console, table.columns, rows, title, table.labels, numbers)
