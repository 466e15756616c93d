"""`memlm edit`: changes what a trained memory answers, and takes any change back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from memlm.cli import screen
from memlm.errors import EditError

if TYPE_CHECKING:
    from memlm.edit.editor import Made
    from memlm.edit.request import Request
    from memlm.experiment.editing import Editing


def command(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    run: Annotated[Path, typer.Argument(help="A run's folder, e.g. runs/edit/memory-s0.", metavar="RUN")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set an answer: 'subject | relation | new answer'.")
    ] = None,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", help="Make the model forget: 'subject | relation'.")
    ] = None,
    from_: Annotated[Path | None, typer.Option("--from", help="Make the edits in this file of JSON Lines.")] = None,
    undo: Annotated[list[int] | None, typer.Option("--undo", help="Take back the edit with this number.")] = None,
    undo_all: Annotated[bool, typer.Option("--undo-all", help="Take back every edit.")] = False,
    apply: Annotated[Path | None, typer.Option("--apply", help="Apply a file that --pack wrote.")] = None,
    pack: Annotated[Path | None, typer.Option("--pack", help="Write all edits into this file.")] = None,
    export: Annotated[Path | None, typer.Option("--export", help="Write the edited model into this folder.")] = None,
    ask: Annotated[list[str] | None, typer.Option("--ask", help="Show how the model goes on after this text.")] = None,
) -> None:
    """Edit a run's memory; without an option, list the edits. The checkpoint itself is never changed.

    Options are carried out in the order in which they are listed here.
    """
    from memlm.edit.request import parse, read_requests
    from memlm.experiment.editing import open_editing

    requests = [parse(text, "set") for text in set_ or []] + [parse(text, "delete") for text in delete or []]
    if from_ is not None:
        requests += read_requests(from_)
    if undo and undo_all:
        raise EditError("give one of --undo and --undo-all")
    console = screen.output()
    editing = open_editing(run)
    _make(console, editing, requests)
    _take_back(console, editing, undo or [], undo_all)
    if apply is not None:
        editing.editor.load_pack(apply)
        editing.save()
        console.print(f"{len(editing.editor.edits)} edits applied")
    if pack is not None:
        from memlm.edit.log import write_pack

        write_pack(pack, editing.editor.log)
        console.print(f"{pack}: {len(editing.editor.edits)} edits of the weights {editing.editor.base[:12]}")
    if export is not None:
        editing.export(export)
        console.print(f"{export}: the model with {len(editing.editor.edits)} edits")
    for prompt in ask or []:
        console.print(f"{prompt}\n  edited: {editing.editor.ask(prompt)}\n  base:   {editing.editor.ask_base(prompt)}")
    if not (requests or undo or undo_all or apply or pack or export or ask):
        _list(console, editing)


def _make(console: Console, editing: Editing, requests: list[Request]) -> None:
    for request in requests:
        made = editing.editor.make(request)
        editing.save()  # one at a time, so that what is broken off keeps what was made
        _show(console, made, len(editing.editor.rows))


def _show(console: Console, made: Made, n_rows: int) -> None:
    edit = made.edit
    new = edit.answer or "(deleted)"
    share = len(edit.rows) / n_rows
    console.print(f"edit {edit.id}: {edit.subject} | {edit.relation}: {edit.old} -> {new}")
    console.print(
        f"  {len(edit.rows)} rows ({share:.2%}), answered as wanted in {made.learned} of {len(edit.prompts)} wordings"
    )
    for conflict in made.conflicts:
        console.print(f"  conflict: {conflict}")


def _take_back(console: Console, editing: Editing, numbers: list[int], everything: bool) -> None:
    for number in numbers:
        conflicts = editing.editor.undo(number)
        editing.save()
        console.print(f"edit {number}: undone; {len(editing.editor.edits)} edits remain")
        for conflict in conflicts:
            console.print(f"  conflict: {conflict}")
    if everything:
        n = len(editing.editor.edits)
        editing.editor.undo_all()
        editing.save()
        console.print(f"{n} edits undone; the model is the checkpoint, bit for bit")


def _list(console: Console, editing: Editing) -> None:
    edits = editing.editor.edits
    if not edits:
        console.print("no edits; make one: memlm edit RUN --set 'subject | relation | new answer'")
        return
    table = Table("edit", "subject", "relation", "before", "now", "rows")
    for edit in edits:
        now = edit.answer or "(deleted)"
        table.add_row(str(edit.id), edit.subject, edit.relation, edit.old, now, str(len(edit.rows)))
    console.print(table)
