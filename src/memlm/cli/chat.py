"""`memlm chat`: a conversation with a trained model in the terminal, or with lines from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator

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


def command(
    run: RunArgument,
    new_tokens: NewTokensOption = 100,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.95,
    seed: SeedOption = None,
    values: ValuesOption = Values.DEVICE,
) -> None:
    """Talk with a run's model. Each line is a message, and the model goes on with the whole conversation.

    It was trained to go on with text, not to answer. An empty line starts over, Ctrl+D ends it.
    """
    from memlm.experiment.reading import read_trained

    read_trained(run)  # a wrong folder is told before what takes seconds to import

    from memlm.experiment.edited import open_edited

    edited = open_edited(run, values=values)
    screen.tell_edits(run, len(edited.edits))
    sampling = Sampling(new_tokens, temperature, top_k, top_p, seed)
    messages: list[dict[str, str]] = []
    for line in _checked(_lines()):
        if not line:
            messages.clear()
            continue
        messages.append({"role": "user", "content": line})
        prompt = str(edited.tokenizer.apply_chat_template(messages, tokenize=False))
        text = write(edited.model, edited.tokenizer, prompt, sampling, lambda piece: typer.echo(piece, nl=False))
        typer.echo()
        messages.append({"role": "assistant", "content": text})


def _checked(lines: Iterator[str]) -> Iterator[str]:
    with utf8_alone():
        for line in lines:
            line.encode()
            yield line


def _lines() -> Iterator[str]:
    """Yields the lines of the terminal, each asked for, or of a pipe."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            typer.echo()
            return
