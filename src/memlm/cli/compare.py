"""`memlm compare`: results, ledger and verdicts of an experiment in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from memlm.cli import screen

if TYPE_CHECKING:
    from memlm.report import tables

ExperimentArgument = Annotated[Path, typer.Argument(help="The experiment's folder, e.g. runs/demo.", metavar="FOLDER")]


def command(folder: ExperimentArgument) -> None:
    """Print the comparison of an experiment from its records; no model and no GPU is needed."""
    print_comparison(screen.output(), folder)


def print_comparison(console: Console, folder: Path) -> None:
    """Prints results, ledger, verdicts and where the report is."""
    from memlm.experiment.compare import compare
    from memlm.experiment.reading import read_experiment
    from memlm.report import alarms, claims, knowledge, tables

    comparison = compare(read_experiment(folder))
    shown = {
        "Results": tables.results(comparison),
        "Ledger": tables.ledger(comparison),
        "What it knows": knowledge.recall(comparison),
        "Learned bits": knowledge.bits(comparison),
    }
    for title, table in shown.items():
        if table.rows:
            console.print(_upright(title, table))
    for title, table in (("Usage", tables.usage(comparison)), ("Controls", tables.controls(comparison))):
        if table.rows:
            console.print(_shown(title, table))
    for line in ["; ".join(tables.unigram_sentences(comparison)), tables.held_sentence(comparison)]:
        console.print(line[:1].upper() + line[1:])
    if comparison.split == "test":
        console.print("Evaluated on the test split, not on validation text.")
    for line in [*map(claims.noise_sentence, comparison.noise), claims.missing_documents(comparison)]:
        if line:
            console.print(line)
    console.print(alarms.sentence(comparison.experiment))
    for line in [*comparison.missing, *comparison.warnings]:
        console.print(f"note: {line}", style="yellow")
    console.print()
    for judgement in comparison.judgements:
        claim = f"{judgement.hypothesis.name} ({judgement.hypothesis.claim}): {judgement.verdict}"
        console.print(claim, style="bold")
        console.print(f"  {claims.sentence(judgement)}")
    page = folder / "report.html"
    console.print(f"\nreport: {page}" if page.is_file() else f"\nas a page, with figures: memlm report {folder}")


def _shown(title: str, table: tables.Table) -> Table:
    shown = Table(*table.columns, title=title, title_justify="left")
    for row in table.rows:
        shown.add_row(*(f"{cell.text} {cell.note}".strip() for cell in row))
    return shown


def _upright(title: str, table: tables.Table) -> Table:
    """Turns a table on its side, one column a variant: a terminal is higher than it is wide."""
    rows = [*table.rows, table.foot] if table.foot else table.rows
    shown = Table("", *(row[0].text for row in rows), title=title, title_justify="left")
    for index, column in enumerate(table.columns[1:], start=1):
        cells = [row[index] if index < len(row) else None for row in rows]
        shown.add_row(column, *("" if cell is None else f"{cell.text} {cell.note}".strip() for cell in cells))
    return shown
