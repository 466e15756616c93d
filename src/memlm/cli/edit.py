"""`memlm edit`: changes what a trained memory answers, and takes any change back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from memlm.cli import edit_measures, screen
from memlm.errors import EditError, counted
from memlm.storage import is_writable

if TYPE_CHECKING:
    from memlm.data.world import World
    from memlm.edit.editor import Made
    from memlm.edit.lines import Edit
    from memlm.edit.log import Log
    from memlm.edit.request import Replacement, Request
    from memlm.experiment.editing import Editing
    from memlm.experiment.reading import Run

FACTS = 20
"""Facts of a world that are shown."""
NOTHING, DELETED = "(nothing)", "(deleted)"
"""Stand for an old answer, and a wanted one, that are empty."""

Texts = list[str] | None
FactsOption = Annotated[bool, typer.Option("--facts", help=f"List up to {FACTS} facts of the run's generated world.")]
FindOption = Annotated[str | None, typer.Option("--find", help="List facts that have all of these words.")]
SetOption = Annotated[Texts, typer.Option("--set", help="Set an answer: 'subject | relation | new answer'.")]
DeleteOption = Annotated[Texts, typer.Option("--delete", help="Make the model forget: 'subject | relation'.")]
ReplaceOption = Annotated[Texts, typer.Option("--replace", help="Give an entry another text: 'SLOT | new text'.")]
FromOption = Annotated[Path | None, typer.Option("--from", help="Make the edits in this file of JSON Lines.")]
UndoOption = Annotated[list[int] | None, typer.Option("--undo", help="Take back the edit with this number.")]
UndoAllOption = Annotated[bool, typer.Option("--undo-all", help="Take back every edit.")]
ApplyOption = Annotated[Path | None, typer.Option("--apply", help="Apply a file that --pack wrote.")]
PackOption = Annotated[Path | None, typer.Option("--pack", help="Write all edits into this file.")]
ExportOption = Annotated[Path | None, typer.Option("--export", help="Write the edited model into this folder.")]
TrialOption = Annotated[
    int | None, typer.Option("--trial", min=1, help="Measure so many edits of a generated world, beside baselines.")
]
StreamOption = Annotated[
    int | None, typer.Option("--stream", min=1, help="Teach so many sets of new facts; see what is forgotten.")
]
WayOption = Annotated[
    Texts, typer.Option("--way", help="Let --trial or --stream try this way alone; may be given again.")
]
DemoOption = Annotated[
    int | None, typer.Option("--demo", min=1, help="Edit so many facts of a generated world, show it, undo it.")
]
AbstentionOption = Annotated[
    bool, typer.Option("--abstention", help="Measure how well known and unknown facts are told apart.")
]
FiguresOption = Annotated[
    bool, typer.Option("--figures", help="Draw what --trial, --stream and --abstention have measured.")
]
AskOption = Annotated[Texts, typer.Option("--ask", help="Show how the model goes on after this text.")]


def command(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    run: Annotated[Path, typer.Argument(help="A run's folder, e.g. runs/edit/memory-s0.", metavar="RUN")],
    facts: FactsOption = False,
    find: FindOption = None,
    set_: SetOption = None,
    delete: DeleteOption = None,
    replace: ReplaceOption = None,
    from_: FromOption = None,
    undo: UndoOption = None,
    undo_all: UndoAllOption = False,
    apply: ApplyOption = None,
    pack: PackOption = None,
    export: ExportOption = None,
    trial: TrialOption = None,
    stream: StreamOption = None,
    way: WayOption = None,
    demo: DemoOption = None,
    abstention: AbstentionOption = False,
    figures: FiguresOption = False,
    ask: AskOption = None,
) -> None:
    """Edit a run's memory; without an option, list the edits. The checkpoint itself is never changed.

    Options are carried out in the order in which they are listed here.
    """
    from memlm.experiment.reading import read_finished, read_remembering
    from memlm.experiment.world import world_of

    recorded = read_finished(run)  # a wrong folder is told before what takes seconds to import
    asks = bool(set_ or delete or replace or from_)
    _check_numbers(undo or [], undo_all)
    _check_texts({"--set": set_, "--delete": delete, "--replace": replace, "--ask": ask})
    _check_files(pack, export, apply, asks)
    world = world_of(recorded) if asks else None  # it takes its time to make
    requests = _requests(world, set_ or [], delete or [], replace or [], from_)
    console = screen.output()
    changes = bool(requests or undo or undo_all or apply)
    measures = bool(trial or stream or demo or abstention)
    others = bool(changes or pack or export or measures or figures or ask)
    if facts or find is not None:
        _show_facts(console, recorded, find or "")
    elif not others:
        _list(console, recorded)
    if not others:
        return
    read_remembering(run, "edit")
    from memlm.experiment.editing import only_editor, open_editing

    with only_editor(run) if changes else nullcontext():
        editing = open_editing(run, shows_bars=screen.shows_bars(), world=world)
        are_learned = _change(console, editing, requests, undo or [], undo_all, apply)
    _hand_on(console, editing, pack, export)
    if measures:
        edit_measures.measure(console, editing, trial, stream, way, demo, abstention)
    if figures:
        edit_measures.draw_all(console, editing)
    _ask(console, editing, ask or [])
    if not are_learned:
        raise typer.Exit(1)


def _check_numbers(undo: list[int], undo_all: bool) -> None:
    if undo and undo_all:
        raise EditError("give one of --undo and --undo-all")
    twice = [number for number in undo if undo.count(number) > 1]
    if twice:
        raise EditError(f"--undo {twice[0]}: is there {undo.count(twice[0])} times; give it once")


def _check_texts(given: Mapping[str, Texts]) -> None:
    for option, texts in given.items():
        for text in texts or []:
            if not is_writable(text):
                raise EditError(f"{option} {text!r}: is not UTF-8; write it in UTF-8")


def _check_files(pack: Path | None, export: Path | None, apply: Path | None, asks: bool) -> None:
    """Refuses what cannot be written, and a pack that is to be applied beside edits, before any edit is made."""
    from memlm.edit.lines import refuse_pack, refuse_taken

    if asks and apply is not None:
        raise EditError("--apply: needs a run without edits; make others by another command, after it")
    if pack is not None:
        refuse_pack(pack)
    if export is not None:
        refuse_taken(export)


def _requests(
    world: World | None, set_: list[str], delete: list[str], replace: list[str], file: Path | None
) -> list[Request | Replacement]:
    from memlm.edit.request import parse, parse_replacement, read_requests

    return [
        *(parse(text, "set", world) for text in set_),
        *(parse(text, "delete", world) for text in delete),
        *(parse_replacement(text) for text in replace),
        *(read_requests(file, world) if file is not None else []),
    ]


def _show_facts(console: Console, run: Run, words: str) -> None:
    """Prints facts in the form that --set takes; beside them, on stderr, is told how many there are."""
    from memlm.edit.facts import told_facts
    from memlm.experiment.world import require_world

    world = require_world(run)
    shown = list(islice(told_facts(world, words), FACTS))
    for fact in shown:
        console.print(fact)
    if not words:
        told = f"{len(shown)} of the {counted(world.n_told, 'fact')} that the text tells; --find WORDS lists others"
    elif len(shown) == FACTS:
        told = f"the first {FACTS} facts with these words; more words leave fewer"
    else:
        told = f"{counted(len(shown), 'fact')} with these words"
    screen.beside().print(told)


def _change(
    console: Console,
    editing: Editing,
    requests: Sequence[Request | Replacement],
    undo: list[int],
    undo_all: bool,
    apply: Path | None,
) -> bool:
    """Makes edits, takes edits back, applies a pack; returns whether all that were made were learned."""
    are_learned = _make(console, editing, requests)
    packed = None if apply is None else _read_pack(editing, apply, undo, undo_all)
    _take_back(console, editing, undo, undo_all)
    if packed is not None:
        _apply(console, editing, packed)
    return are_learned


def _make(console: Console, editing: Editing, requests: Sequence[Request | Replacement]) -> bool:
    """Makes edits, and tells whether each is answered as wanted in a wording at least."""
    unnamed, are_learned = editing.strangers(requests), True
    for request in requests:
        with screen.stages() as progress:
            made = editing.editor.make(request, progress)
        if made is None:
            console.print(f"{_already(request)}; no edit was made")
            continue
        editing.save()  # one at a time, so that what is broken off keeps what was made
        _show(console, made, len(editing.editor.rows))
        are_learned = are_learned and not made.edit.is_missed
        if (subject := made.edit.subject) in unnamed:
            meant = unnamed[subject]
            hint = f"; if {meant!r} was meant, --undo {made.edit.id} takes the edit back" if meant else ""
            console.print(f"  note: no text of the run names {subject!r}{hint}")
    return are_learned


def _already(request: Request | Replacement) -> str:
    if request.kind == "replace":
        return f"slot {request.slot}: holds this text already"
    return f"{request.subject} | {request.relation}: {request.answer} is the answer already, in every wording"


def _read_pack(editing: Editing, pack: Path, undo: list[int], undo_all: bool) -> Log:
    """Returns a pack's log before anything is taken back for its sake."""
    left = 0 if undo_all else len(editing.editor.edits) - len(undo)
    if left > 0:
        raise EditError(f"--apply: the run has edits ({left}); --undo-all takes them back")
    return editing.editor.read_pack(pack)


def _apply(console: Console, editing: Editing, packed: Log) -> None:
    editing.editor.load(packed)
    editing.save()
    edits = editing.editor.edits
    console.print(f"{counted(len(edits), 'edit')} applied")
    if edits:
        _show_edits(console, edits)


def _ask(console: Console, editing: Editing, prompts: Sequence[str]) -> None:
    for prompt in prompts:
        console.print(f"{prompt}\n  edited: {editing.editor.ask(prompt)}\n  base:   {editing.editor.ask_base(prompt)}")


def _hand_on(console: Console, editing: Editing, pack: Path | None, export: Path | None) -> None:
    from memlm.edit.log import write_pack

    edits = counted(len(editing.editor.edits), "edit")
    if pack is not None:
        write_pack(pack, editing.editor.log)
        console.print(f"{pack}: {edits} of the weights {editing.editor.base[:12]}")
    if export is not None:
        editing.export(export)
        console.print(f"{export}: the model with {edits}")


def _show(console: Console, made: Made, n_rows: int) -> None:
    edit = made.edit
    new = edit.answer or DELETED
    share = len(edit.rows) / n_rows
    console.print(f"edit {edit.id}: {edit.subject} | {edit.relation}: {edit.old or NOTHING} -> {new}")
    how = f", answered as wanted in {edit.learned} of {counted(len(edit.prompts), 'wording')}" if edit.prompts else ""
    console.print(f"  {counted(len(edit.rows), 'row')} ({share:.2%}){how}")
    if edit.is_missed:
        console.print(
            f"  not learned: no wording is answered as wanted; the edit stays, --undo {edit.id} takes it back"
        )
    for conflict in made.conflicts:
        console.print(f"  conflict: {conflict}")


def _take_back(console: Console, editing: Editing, numbers: list[int], everything: bool) -> None:
    for number in numbers:
        editing.editor.place_of(number)  # so that none is undone if one of them is not there
    for number in numbers:
        conflicts = editing.editor.undo(number)
        editing.save()
        console.print(f"edit {number}: undone; {counted(len(editing.editor.edits), 'edit')} left")
        for conflict in conflicts:
            console.print(f"  conflict: {conflict}")
    if everything:
        n = len(editing.editor.edits)
        if not n:
            console.print("no edits, so there was nothing to undo; the model is the checkpoint")
            return
        editing.editor.undo_all()
        editing.save()
        console.print(f"{counted(n, 'edit')} undone; the model is the checkpoint, bit for bit")


def _list(console: Console, run: Run) -> None:
    from memlm.experiment.recorded_edits import recorded_edits

    if edits := recorded_edits(run):
        _show_edits(console, edits)
    else:
        console.print("no edits; make one: memlm edit RUN --set 'subject | relation | new answer' (or --replace)")


def _show_edits(console: Console, edits: Sequence[Edit]) -> None:
    """Prints what was wanted and how it went at the time; what the model answers now only asking can tell."""
    from memlm.edit.lines import superseded

    later = superseded(edits)
    heads = ["edit", "subject", "relation", "before", "wanted", "learned", "rows", "note"]
    rows = [
        [
            str(edit.id),
            edit.subject,
            edit.relation,
            edit.old or NOTHING,
            edit.answer or DELETED,
            _learned(edit),
            str(len(edit.rows)),
            _note(edit, later.get(edit.id)),
        ]
        for edit in edits
    ]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    screen.show_table(console, heads, rows, labels=3)


def _note(edit: Edit, later: int | None) -> str:
    said = (("not learned", edit.is_missed), (f"superseded by edit {later}", later is not None))
    return ", ".join(note for note, is_so in said if is_so)


def _learned(edit: Edit) -> str:
    if not edit.prompts:
        return "-"
    return "unknown" if edit.learned is None else f"{edit.learned} of {len(edit.prompts)}"
