"""Arguments that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Values(StrEnum):
    """How a model's values are held; see `memlm.experiment.trained.open_model`."""

    DEVICE = "device"
    HOST = "host"
    MAPPED = "mapped"
    INT8 = "int8"


ConfigArgument = Annotated[Path, typer.Argument(help="The experiment's YAML file.", metavar="CONFIG")]
RunArgument = Annotated[Path, typer.Argument(help="A finished run's folder, e.g. runs/demo/dense-s0.", metavar="RUN")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        "-o",
        metavar="SETTING=VALUE",
        help="Change a setting, by its dotted name in the YAML; may be given many times.",
    ),
]
RunsOption = Annotated[Path, typer.Option("--runs", help="The folder of all experiments.")]
ValuesOption = Annotated[
    Values,
    typer.Option(
        "--values",
        help="Where the memory's values are: on the device, on the host, in their file, or on the device in 8 bits.",
    ),
]
