"""`memlm inspect`: what a trained memory holds, in the terminal or as a page."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from memlm.cli import screen
from memlm.errors import Interrupted, RunError, counted
from memlm.extras import optional

if TYPE_CHECKING:
    from memlm.inspect.inspection import BankSummary, Card, Inspection
    from memlm.inspect.passage import Passage
    from memlm.inspect.reads import TextReads
    from memlm.inspect.search import Hit

ENTRY = 24
"""Characters of an entry that are shown beside others."""


def command(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    run: Annotated[Path, typer.Argument(help="A run's folder, e.g. runs/demo/gated_mlp-s0.", metavar="RUN")],
    text: Annotated[str | None, typer.Argument(help="Show what this text reads.", metavar="TEXT")] = None,
    slot: Annotated[int | None, typer.Option("--slot", help="Show what is known of this slot.")] = None,
    find: Annotated[str | None, typer.Option("--find", help="Find slots by words in entries and contexts.")] = None,
    bank: Annotated[int, typer.Option("--bank", help="The bank of --slot and --find.")] = 0,
    top: Annotated[int, typer.Option("--top", min=1, help="Show this many slots: of a head, or of a list.")] = 4,
    tokens: Annotated[str, typer.Option("--tokens", help="Training tokens to go through, once.")] = "500k",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Show it all as a page, on this machine alone.")] = False,
    port: Annotated[int, typer.Option("--port", help="The page's port; one that is free if not given.")] = 0,
) -> None:
    """Show which slots a text reads, and where a slot is read. Also who wrote it, and how evenly slots are used."""
    if sum((text is not None, slot is not None, find is not None, serve)) > 1:
        raise RunError("give one of TEXT, --slot, --find and --serve")
    from memlm.experiment.reading import read_remembering

    read_remembering(run, "inspect")  # a wrong folder is told before what takes seconds to import
    if serve:
        _serve(run, tokens, port)
        return
    inspection = _open(run, tokens)
    console = screen.output()
    if text is not None:
        found, show = inspection.read(text), _show_reads
    elif slot is not None:
        found, show = inspection.card(bank, slot), _show_card
    elif find is not None:
        n = top if as_json else top + 1  # one more tells whether there are more
        found, show = inspection.search(bank, find, n), _show_hits
    else:
        found, show = inspection.summaries(top), _show_summaries
    if as_json:
        plain = [asdict(each) for each in found] if isinstance(found, list) else asdict(found)
        typer.echo(json.dumps(plain, ensure_ascii=False))
    else:
        show(console, found, top)  # pyright: ignore[reportArgumentType]


def _serve(run: Path, tokens: str, port: int) -> None:
    for package in ("fastapi", "uvicorn"):
        optional(package, "serve", "memlm inspect --serve")
    from memlm.inspect.page import listen, serve

    with listen(port) as listener:  # before the run is read, which takes its time
        inspection = _open(run, tokens)
        host, chosen = listener.getsockname()
        typer.echo(f"http://{host}:{chosen}  (only this machine can see it; Ctrl+C ends it)")
        with suppress(Interrupted):  # a signal is how one ends it; it is no failure
            serve(inspection, listener)


def _open(folder: Path, tokens: str) -> Inspection:
    """Loads a finished run's model and text, and goes through the text if that was not done before."""
    from pydantic import TypeAdapter, ValidationError

    from memlm.config.base import Count
    from memlm.experiment.inspecting import open_inspection

    try:
        max_tokens = TypeAdapter(Count).validate_python(tokens)
    except ValidationError:
        raise RunError(f"--tokens {tokens}: is no number of tokens; write it as 500k or 2M") from None
    with screen.stages() as progress:
        reading = partial(progress, "reading the training text")
        inspection = open_inspection(folder, max_tokens, reading, shows_bars=screen.shows_bars())
    screen.tell_edits(folder, len(inspection.edits), "; counts and contexts are the checkpoint's")
    return inspection


def _show_reads(console: Console, reads: TextReads, top: int) -> None:
    rows: list[list[str]] = []
    for number, token in enumerate(reads.tokens):
        cells = [
            ("\n\n" if x.entries else "\n").join(
                _head(*head, top, x.entries) for head in zip(x.slots[number], x.weights[number], strict=True)
            )
            for x in reads.layers
        ]
        rows.append([str(number), repr(token)[1:-1] or "⋯", *cells])
    screen.show_table(console, ["", "", *(f"layer {layer.layer}" for layer in reads.layers)], rows, labels=2)
    has_entries = any(layer.entries for layer in reads.layers)
    line = (
        "slot:weight and entry, the {} best of each head, an empty line between heads"
        if has_entries
        else "slot:weight, the {} best, a line a head"
    )
    console.print(line.format(top))


def _head(slots: list[int], weights: list[float], top: int, entries: dict[int, str]) -> str:
    """Returns a head's best reads side by side; where there are entries, one below the other, since they are long."""
    pairs = zip(slots[:top], weights[:top], strict=True)
    return ("\n" if entries else "  ").join(f"{slot}:{weight:.2f}{_entry(entries.get(slot))}" for slot, weight in pairs)


def _entry(entry: str | None, is_whole: bool = False) -> str:
    """Returns an entry, or its beginning, to be put behind its slot; nothing for a vector."""
    if not entry:
        return "" if entry is None else " empty"
    return f" {entry if is_whole or len(entry) <= ENTRY else entry[: ENTRY - 1] + '…'!r}"


def _show_summaries(console: Console, banks: list[BankSummary], top: int) -> None:
    for bank in banks:
        console.print(f"bank {bank.bank}: {bank.n_slots:,} slots, {bank.reads:,} reads counted in training text")
        rows = [[str(layer), f"{read:,}", f"{read / bank.n_slots:.1%}"] for layer, read in bank.slots_read.items()]
        screen.show_table(console, ["layer", "slots read", "share"], rows)
        most = (f"{slot}{_entry(bank.entries.get(slot))} ({reads:,})" for slot, reads in bank.most_read)
        left_out = f", but for {counted(bank.empty, 'empty slot')}" if bank.empty else ""
        console.print(f"read most{left_out}: {', '.join(most) or 'none'}\n")
    console.print("more: memlm inspect RUN 'a text', --slot N, --find WORDS, --serve")


def _show_card(console: Console, card: Card, _top: int) -> None:
    console.print(f"slot {card.slot} of bank {card.bank} (row {card.row}, column {card.column})")
    if card.entry is not None:
        console.print(f"entry: {card.entry!r}")
    for number in card.edits:
        console.print(f"changed by edit {number}")
    by_layer = ", ".join(f"layer {layer}: {reads:,}" for layer, reads in card.reads.items() if reads)
    if card.rank is None or card.mean_weight is None:
        console.print("never read in the text that was gone through")
    else:
        total = sum(card.reads.values())
        console.print(f"read {total:,} times, {card.share:.2%} of all reads, rank {card.rank:,} ({by_layer})")
        console.print(f"mean weight {card.mean_weight:.3f}")
    console.print(f"norm of its value {card.value_norm:.3f}")
    for place in card.places:
        console.print(_passage(place.passage, f"  {place.weight:.3f}  layer {place.layer}  "))
    if card.writer is not None:
        writer = card.writer
        console.print(
            f"read in training from step {writer.first_read:,} to {writer.last_read:,}; the read that pulled hardest:"
        )
        console.print(_passage(writer.passage, f"  step {writer.step:,}, pull {writer.pull:.2e}  "))
    console.print(f"similar values: {_similar(card.nearest_values, card.entries)}")
    for layer, slots in card.nearest_keys.items():
        console.print(f"similar keys in layer {layer}: {_similar(slots, card.entries)}")


def _show_hits(console: Console, hits: list[Hit], top: int) -> None:
    if not hits:
        console.print("no slot has these words in its entry or contexts")
    for hit in hits[:top]:
        start = f"{hit.slot}{_entry(hit.entry, is_whole=True)} ({counted(hit.reads, 'read')})"
        console.print(start if hit.passage is None else _passage(hit.passage, f"{start}  "))
    if len(hits) > top:
        console.print(f"the first {top}; --top shows more")


def _similar(slots: list[tuple[int, float]], entries: dict[int, str]) -> str:
    return ", ".join(f"{slot}{_entry(entries.get(slot))} ({cosine:.2f})" for slot, cosine in slots)


def _passage(passage: Passage, start: str) -> Text:
    """Returns a place as one line, its token marked."""
    before, token, after = (repr(part)[1:-1] for part in (passage.before, passage.token, passage.after))
    return Text.assemble(start, before, (f"«{token or '⋯'}»", "bold"), (after, "dim"))
