"""`memlm edit`: changes what a trained memory answers, and takes any change back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from memlm.cli import screen
from memlm.errors import EditError, counted

if TYPE_CHECKING:
    from memlm.edit.editor import Made
    from memlm.edit.request import Replacement, Request
    from memlm.experiment.editing import Editing
    from memlm.experiment.reading import Run

T = TypeVar("T")
SHOWN = (0.5, 0.8, 1.0)
"""Coverages whose risk is shown."""
FACTS = 20
"""Facts of a world that are shown."""
NOTHING = "(nothing)"
"""Stands for an answer that is empty."""
TRIAL, STREAM, ABSTENTION = MEASURED = ("edit-trial", "edit-stream", "edit-abstention")
"""Folders, in the run's, of what is measured."""

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
    from memlm.experiment.reading import read_finished

    recorded = read_finished(run)  # a wrong folder is told before what takes seconds to import
    requests = _requests(recorded, set_ or [], delete or [], replace or [], from_)
    if undo and undo_all:
        raise EditError("give one of --undo and --undo-all")
    console = screen.output()
    changes = bool(requests or undo or undo_all or apply)
    measures = bool(trial or stream or demo or abstention)
    others = bool(changes or pack or export or measures or figures or ask)
    if facts or find is not None:
        _show_facts(console, recorded, find or "")
        if not others:
            return
    from memlm.experiment.editing import only_editor, open_editing

    with only_editor(run) if changes else nullcontext():
        editing = open_editing(run, shows_bars=screen.shows_bars())
        _make(console, editing, requests)
        _take_back(console, editing, undo or [], undo_all)
        if apply is not None:
            _apply(console, editing, apply)
    _hand_on(console, editing, pack, export)
    if measures:
        _measure(console, editing, trial, stream, way, demo, abstention)
    if figures:
        for name in MEASURED:
            _draw(console, editing, name)
    _ask(console, editing, ask or [])
    if not others:
        _list(console, editing)


def _requests(
    run: Run, set_: list[str], delete: list[str], replace: list[str], file: Path | None
) -> list[Request | Replacement]:
    from memlm.edit.request import parse, parse_replacement, read_requests
    from memlm.experiment.world import world_of

    if not (set_ or delete or replace or file):
        return []  # a world takes its time to make
    world = world_of(run)
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


def _make(console: Console, editing: Editing, requests: Sequence[Request | Replacement]) -> None:
    unnamed = editing.strangers(requests)
    for request in requests:
        with screen.stages() as progress:
            made = editing.editor.make(request, progress)
        editing.save()  # one at a time, so that what is broken off keeps what was made
        _show(console, made, len(editing.editor.rows))
        if (subject := made.edit.subject) in unnamed:
            meant = unnamed[subject]
            hint = f"; if {meant!r} was meant, --undo {made.edit.id} takes the edit back" if meant else ""
            console.print(f"  note: no text of the run names {subject!r}{hint}")


def _apply(console: Console, editing: Editing, pack: Path) -> None:
    editing.editor.load_pack(pack)
    editing.save()
    console.print(f"{len(editing.editor.edits)} edits applied")


def _ask(console: Console, editing: Editing, prompts: Sequence[str]) -> None:
    for prompt in prompts:
        console.print(f"{prompt}\n  edited: {editing.editor.ask(prompt)}\n  base:   {editing.editor.ask_base(prompt)}")


def _hand_on(console: Console, editing: Editing, pack: Path | None, export: Path | None) -> None:
    from memlm.edit.log import write_pack

    n = len(editing.editor.edits)
    if pack is not None:
        write_pack(pack, editing.editor.log)
        console.print(f"{pack}: {n} edits of the weights {editing.editor.base[:12]}")
    if export is not None:
        editing.export(export)
        console.print(f"{export}: the model with {n} edits")


def _show(console: Console, made: Made, n_rows: int) -> None:
    edit = made.edit
    new = edit.answer or "(deleted)"
    share = len(edit.rows) / n_rows
    console.print(f"edit {edit.id}: {edit.subject} | {edit.relation}: {edit.old or NOTHING} -> {new}")
    how = f", answered as wanted in {made.learned} of {len(edit.prompts)} wordings" if edit.prompts else ""
    console.print(f"  {len(edit.rows)} rows ({share:.2%}){how}")
    if edit.prompts and not made.learned:
        console.print(
            f"  not learned: no wording is answered as wanted; the edit stays, --undo {edit.id} takes it back"
        )
    for conflict in made.conflicts:
        console.print(f"  conflict: {conflict}")


def _take_back(console: Console, editing: Editing, numbers: list[int], everything: bool) -> None:
    for number in numbers:
        conflicts = editing.editor.undo(number)
        editing.save()
        console.print(f"edit {number}: undone; {counted(len(editing.editor.edits), 'edit')} left")
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
        console.print("no edits; make one: memlm edit RUN --set 'subject | relation | new answer' (or --replace)")
        return
    rows = [
        [
            str(edit.id),
            edit.subject,
            edit.relation,
            edit.old or NOTHING,
            edit.answer or "(deleted)",
            str(len(edit.rows)),
        ]
        for edit in edits
    ]
    screen.show_table(console, ["edit", "subject", "relation", "before", "now", "rows"], rows, labels=6)


def _measure(
    console: Console,
    editing: Editing,
    trial: int | None,
    stream: int | None,
    way: list[str] | None,
    demo: int | None,
    abstention: bool,
) -> None:
    """Measures and shows what the base does; edits in force are there again afterwards."""
    if edits := editing.editor.edits:
        console.print(f"{counted(len(edits), 'edit')} in force: left aside for now, and in force again afterwards")
    with editing.editor.without_edits():
        if trial is not None:
            _try(console, editing, trial, way)
        if stream is not None:
            _stream(console, editing, stream, way)
        if demo is not None:
            _demonstrate(console, editing, demo)
        if abstention:
            _tell_apart(console, editing)


def _try(console: Console, editing: Editing, n: int, names: list[str] | None) -> None:
    from memlm.edit.finetune import Tuning
    from memlm.edit.methods import METHODS
    from memlm.edit.trial import run_trial

    chosen = _chosen({kind.name: kind for kind in METHODS}, names)
    subject = editing.subject(n)
    with screen.stages() as progress:
        results = run_trial(subject, Tuning(), progress, list(chosen.values()), editing.keeper(TRIAL))
    rows: list[list[str]] = []
    for name, measures in results.items():
        for row in measures:
            shares = (_percent(row[field]) for field in ("efficacy", "paraphrase", "neighbourhood"))
            change, fluency = _percent(row["loss_change"], "+.2f"), row["fluency"]
            bits = "-" if fluency is None else f"{fluency:.2f} bits"
            rows.append([name, f"{row['edits']}", *shares, change, bits, f"{row['seconds']:.2f}"])
    heads = ["way", "edits", "efficacy", "paraphrase", "neighbourhood", "held-out loss", "fluency", "s an edit"]
    screen.show_table(console, heads, rows, labels=2)
    _draw(console, editing, TRIAL)


def _stream(console: Console, editing: Editing, sets: int, names: list[str] | None) -> None:
    from memlm.edit.finetune import Tuning
    from memlm.edit.stream import WAYS, run_stream

    chosen = _chosen(WAYS, names)
    subject = editing.subject(1)
    with screen.stages() as progress:
        results = run_stream(subject, sets, Tuning(), progress, chosen, editing.keeper(STREAM))
    last = {name: measures[-1] for name, measures in results.items()}
    rows = [
        [name, f"{row['facts']}", *(_percent(row[field]) for field in ("latest", "learned", "forgotten"))]
        for name, row in last.items()
    ]
    heads = ["way", "new facts", "of the last set", "of all sets", "old facts forgotten"]
    screen.show_table(console, heads, rows)
    _draw(console, editing, STREAM)


def _draw(console: Console, editing: Editing, name: str) -> None:
    """Draws what was measured so far, if anything was, beside the numbers."""
    from memlm.report.editing import FIGURES
    from memlm.storage import write_text

    if parts := editing.measured(name):
        target = editing.finished.run.folder / name / "figure.svg"
        write_text(target, FIGURES[name](parts))
        console.print(f"figure: {target}")


def _chosen(ways: Mapping[str, T], names: list[str] | None) -> dict[str, T]:
    """Returns the ways with these names, or all."""
    for name in names or []:
        if name not in ways:
            raise EditError(f"--way {name!r}: there is none; known: {', '.join(map(repr, ways))}")
    return {name: way for name, way in ways.items() if names is None or name in names}


def _tell_apart(console: Console, editing: Editing) -> None:
    from memlm.edit.abstention import READS, TOKENS, measure, reads_of

    world, editor, keep = editing.world(), editing.editor, editing.keeper(ABSTENTION)
    text = editing.training_text(min(TOKENS, READS // reads_of(editor.model.decoder)))
    with screen.stages() as progress:
        found = measure(editor.model.decoder, editor.tokenizer, editor.seq_len, world, text, progress)
    for part, rows in found.items():
        keep(part, rows)
    first, *names = found["auroc"][0]
    measured = [(row[first], row) for row in found["auroc"]]
    risks = (row for row in found["risk"] if row["coverage"] in SHOWN)
    measured += [(f"wrong among the surest {row['coverage']:.0%}", row) for row in risks]
    rows = [[label, *(f"{row[name]:.3f}" for name in names)] for label, row in measured]
    screen.show_table(console, ["AUROC, or share", *names], rows)
    _draw(console, editing, ABSTENTION)


def _demonstrate(console: Console, editing: Editing, n: int) -> None:
    from memlm.edit.demo import demonstrate, page
    from memlm.storage import write_text

    with screen.stages() as progress:
        shown = demonstrate(editing.editor, editing.world(), n, editing.finished.name, progress)
    heads = ["question", "before", "wanted", "after", "held-out words", "neighbours kept", "undone"]
    rows = [
        [e.question, e.before, e.wanted, e.after, e.paraphrased, f"{e.kept} of {e.neighbours}", e.undone]
        for e in shown.edits
    ]
    screen.show_table(console, heads, rows)
    restored = "as before, bit for bit" if shown.is_restored else "NOT as before"
    console.print(f"undone: the logits of every question are {restored}")
    target = editing.finished.run.folder / "edits.html"
    earlier = ", in the place of an earlier demo's" if target.exists() else ""
    write_text(target, page(shown))
    console.print(f"page: {target}{earlier}")


def _percent(share: float | None, form: str = ".1f") -> str:
    return "-" if share is None else f"{100 * share:{form}} %"
