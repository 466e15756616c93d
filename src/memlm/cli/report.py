"""`memlm report`: writes an experiment's report again."""

from __future__ import annotations

import typer

from memlm.cli.compare import ExperimentArgument


def command(folder: ExperimentArgument) -> None:
    """Write report.md and report.html from an experiment's records."""
    from memlm.report.page import write_report

    for path in write_report(folder):
        typer.echo(str(path))
