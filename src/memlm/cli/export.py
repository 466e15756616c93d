"""`memlm export`: a finished run as a model folder for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlm.cli import screen
from memlm.cli.options import RunArgument


def command(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(help="The new folder.", metavar="DIR")],
) -> None:
    """Write a run's model as a folder that needs no memlm. It has weights, code, tokenizer and a model card."""
    from memlm.experiment.reading import read_trained

    read_trained(run)  # a wrong folder is told before what takes seconds to import

    from memlm.export.folder import export_run

    export_run(run, folder)
    screen.tell_left_out(run)
    typer.echo(f"{folder}: AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True) loads it")
