"""`memlm compare`: results, ledger and verdicts of an experiment in the terminal."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from memlm.cli import screen
from memlm.cli.tune import print_best

if TYPE_CHECKING:
    from memlm.report import tables

ExperimentArgument = Annotated[
    Path, typer.Argument(help="The folder of an experiment or of a tune, e.g. runs/demo.", metavar="FOLDER")
]


def command(folder: ExperimentArgument) -> None:
    """Print the comparison of an experiment, or a tune's best. No model and no GPU is needed."""
    from memlm.experiment.trials import is_tune, read_tune

    if is_tune(folder):
        print_best(screen.output(), read_tune(folder))
    else:
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
        "What it knows": knowledge.recall(comparison, knowledge.RIGHT),
        "What it knows, in nats": knowledge.recall(comparison, knowledge.NATS),
        "Learned bits": knowledge.bits(comparison),
    }
    for title, table in shown.items():
        if table.rows:
            _show_upright(console, title, table)
    usage = ("Usage, on held-out text", tables.usage(comparison))
    for title, table in (usage, ("Controls", tables.controls(comparison))):
        if table.rows:
            screen.show_table(console, table.columns, table.texts, title, table.labels)
    for line in ["; ".join(tables.unigram_sentences(comparison)), tables.held_sentence(comparison)]:
        screen.show_prose(console, line[:1].upper() + line[1:])
    if comparison.split == "test":
        console.print("Evaluated on the test split, not on validation text.")
    for line in [*map(claims.noise_sentence, comparison.noise), claims.missing_documents(comparison)]:
        if line:
            screen.show_prose(console, line)
    screen.show_prose(console, alarms.sentence(comparison.experiment))
    for line in [*comparison.missing, *comparison.warnings]:
        screen.show_prose(console, f"note: {line}", "yellow")
    console.print()
    for judgement in comparison.judgements:
        claim = f"{judgement.hypothesis.name} ({judgement.hypothesis.claim}): {judgement.outcome}"
        screen.show_prose(console, claim, "bold")
        screen.show_prose(console, claims.sentence(judgement), indent=2)
        if judgement.counts:
            screen.show_prose(console, claims.shared_sentence(comparison, judgement), indent=2)
    page = folder / "report.html"
    console.print(f"\nreport: {page}" if page.is_file() else f"\nas a page, with figures: memlm report {folder}")


def _show_upright(console: Console, title: str, table: tables.Table) -> None:
    """Prints a table on its side, one column a variant: a terminal is higher than it is wide."""
    rows = zip_longest(table.columns, *table.texts, fillvalue="")
    _, *names = next(rows)
    screen.show_table(console, ["", *names], list(rows), title)
