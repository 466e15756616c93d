"""`memlm report`: writes the report of an experiment or of a tune again."""

from __future__ import annotations

import typer

from memlm.cli.compare import ExperimentArgument


def command(folder: ExperimentArgument) -> None:
    """Write the report of an experiment or a tune again."""
    from memlm.experiment.trials import is_tune, read_tune

    if is_tune(folder):
        from memlm.report.tuning import write_tuning

        written = write_tuning(read_tune(folder))
    else:
        from memlm.report.page import write_report

        written = write_report(folder)
    for path in written:
        typer.echo(str(path))
