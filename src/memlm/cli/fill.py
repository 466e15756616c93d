"""`memlm fill`: where the sentences of a database go in a grid of product keys, before a run asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from memlm.errors import DataError
from memlm.storage import is_writable

MOST_ASKED = 20_000
"""Entries that are looked up by their own text; of more, some are, evenly spread."""


def command(
    database: Annotated[Path, typer.Argument(help="JSON or JSON Lines of sentences.", metavar="DATABASE")],
    n_keys: Annotated[int, typer.Option(help="Keys of each half, as the memory has them.", min=2)] = 256,
    d_key: Annotated[int, typer.Option(help="Width of a query, as the memory has it.", min=2)] = 128,
    learned_share: Annotated[float, typer.Option(help="Share of slots that hold no entry.", min=0, max=0.99)] = 0.25,
    paraphrases: Annotated[
        Path | None, typer.Option(help="JSON Lines with a sentence's `text` and another wording, `paraphrase`.")
    ] = None,
) -> None:
    """Place a database's sentences in cells of product keys. It is kept for runs; how many are found again is told."""
    if d_key % 2:
        raise typer.BadParameter("must be even: the query is split in two halves", param_hint="--d-key")
    from memlm.bank.tokens import TokensConfig
    from memlm.fill.cells import Grid
    from memlm.fill.database import read_database
    from memlm.fill.filling import filled

    bank = TokensConfig(type="tokens", learned_share=learned_share)
    read = read_database(database)
    grid = Grid(n_keys**2 - bank.n_vectors(n_keys**2), n_keys)
    filling = filled(read, grid, d_key)
    typer.echo(
        f"{len(read.texts):,} entries in {grid.n_cells:,} slots; left out: {read.duplicates:,} duplicates, "
        f"{read.empty:,} empty"
    )
    slots = dict(zip(read.texts, filling.slots.tolist(), strict=True))
    asked = list(slots.items())[:: -(-len(slots) // MOST_ASKED)]
    of = "" if len(asked) == len(slots) else f" (of {len(asked):,} asked)"
    typer.echo(f"found among the best 8 by its own text: {filling.share_found(asked):.1%}{of}")
    if paraphrases is not None:
        asked = [(other, slots[text]) for text, other in _pairs(paraphrases) if text in slots]
        typer.echo(f"by one of {len(asked):,} paraphrases: {filling.share_found(asked):.1%}")


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Returns sentences and their paraphrases.

    Raises:
        DataError: the file cannot be read, or a line has not both, or half a character.
    """
    pairs: list[tuple[str, str]] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # str.splitlines splits inside JSON texts too
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give JSON Lines in UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            text, other = str(fields["text"]).strip(), str(fields["paraphrase"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{path}:{number}: is no object with text and paraphrase; mend it") from None
        if not is_writable(other):
            raise DataError(f"{path}:{number}: has half of a surrogate pair, which UTF-8 cannot hold; mend it")
        pairs.append((text, other))
    return pairs
