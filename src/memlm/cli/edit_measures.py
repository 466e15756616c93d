"""What `memlm edit` measures and demonstrates, as it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from memlm.cli import screen
from memlm.errors import EditError, counted

if TYPE_CHECKING:
    from memlm.edit.demo import Demonstration
    from memlm.experiment.editing import Editing

T = TypeVar("T")
SHOWN = (0.5, 0.8, 1.0)
"""Coverages whose risk is shown."""
TRIAL, STREAM, ABSTENTION = MEASURED = ("edit-trial", "edit-stream", "edit-abstention")
"""Folders, in the run's, of what is measured."""


def measure(
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


def draw_all(console: Console, editing: Editing) -> None:
    """Draws whatever was measured so far."""
    for name in MEASURED:
        _draw(console, editing, name)


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
    _show_demonstration(console, shown)
    target = editing.finished.run.folder / "edits.html"
    earlier = ", in the place of an earlier demo's" if target.exists() else ""
    write_text(target, page(shown))
    console.print(f"page: {target}{earlier}")


def _show_demonstration(console: Console, shown: Demonstration) -> None:
    from memlm.edit.demo import NEIGHBOURS

    heads = ["question", "before", "wanted", "after", "held-out words", "neighbours kept", "undone"]
    rows = [
        [
            edit.question,
            edit.before,
            edit.wanted,
            _marked(edit.after, edit.is_learned),
            _marked(edit.paraphrased, edit.is_paraphrased),
            _marked(f"{edit.kept} of {edit.neighbours}", edit.is_spared),
            _marked(edit.undone, edit.is_undone),
        ]
        for edit in shown.edits
    ]
    screen.show_table(console, heads, rows)
    if not all(edit.is_as_wanted for edit in shown.edits):
        console.print("!: not as wanted")
    console.print(shown.summary)
    screen.show_prose(console, NEIGHBOURS)


def _marked(text: str, is_wanted: bool) -> str:
    return text if is_wanted else f"! {text}"


def _percent(share: float | None, form: str = ".1f") -> str:
    return "-" if share is None else f"{100 * share:{form}} %"
