"""`memlm generate`: lets a trained model go on with a text."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from memlm.cli import screen
from memlm.cli.options import RunArgument, Values, ValuesOption
from memlm.cli.sampling import (
    NewTokensOption,
    Sampling,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    utf8_alone,
    write,
)
from memlm.errors import RunError


def command(
    run: RunArgument,
    prompt: Annotated[str | None, typer.Argument(help="The text; from a pipe if not given.", metavar="PROMPT")] = None,
    new_tokens: NewTokensOption = 100,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.95,
    seed: SeedOption = None,
    values: ValuesOption = Values.DEVICE,
) -> None:
    """Print how a run's model goes on with a text, as it writes it."""
    with utf8_alone():
        text = _piped() if prompt is None else prompt
        text.encode()
    from memlm.experiment.reading import read_trained

    read_trained(run)  # a wrong folder is told before what takes seconds to import

    from memlm.experiment.edited import open_edited

    edited = open_edited(run, values=values)
    screen.tell_edits(run, len(edited.edits))
    sampling = Sampling(new_tokens, temperature, top_k, top_p, seed)
    write(edited.model, edited.tokenizer, text, sampling, lambda piece: typer.echo(piece, nl=False))
    typer.echo()


def _piped() -> str:
    if sys.stdin.isatty():
        raise RunError("give a PROMPT, or pipe one in: echo 'a text' | memlm generate RUN")
    return sys.stdin.read().rstrip("\n")
