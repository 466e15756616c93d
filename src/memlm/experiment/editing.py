"""Opens a finished run for editing, and keeps its edits; its checkpoint is never changed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from tokenizers import Tokenizer

from memlm.data.world import World
from memlm.edit import log
from memlm.edit.background import TOKENS
from memlm.edit.editor import Editor
from memlm.edit.finetune import Tuning
from memlm.edit.request import plain_wordings, world_wordings
from memlm.edit.trial import Subject, Trial
from memlm.errors import EditError
from memlm.evaluate.loss import spread_sequences
from memlm.experiment.finished import Finished, open_finished
from memlm.experiment.locks import locked
from memlm.experiment.paths import inside
from memlm.experiment.reading import read_finished
from memlm.storage import replaced_folder, sha256, write_json
from memlm.train.checkpoint import save_model


@dataclass(frozen=True)
class Editing:
    """A run and its editor.

    Attributes:
        finished: The run; its model is the editor's.
        editor: The editor, with the run's log applied.
        background: Sequences of its training text.
    """

    finished: Finished
    editor: Editor
    background: Sequence[list[int]]

    @property
    def folder(self) -> Path:
        """Where the log is kept."""
        return self.finished.run.folder / log.FOLDER

    def save(self) -> None:
        """Writes the log.

        Raises:
            EditError: it cannot be written.
        """
        log.write_log(self.folder, self.editor.log)

    def export(self, folder: Path) -> None:
        """Writes the edited model as a model folder.

        Raises:
            EditError: the folder is there already.
            CheckpointError: it cannot be written.
        """
        if folder.exists():
            raise EditError(f"{folder}: is there already; give another name")
        save_model(self.editor.model, self.finished.data.tokenizer, folder)

    def world(self) -> World:
        """Returns the generated world that the run has learned.

        Raises:
            EditError: it has learned other text.
        """
        data = self.finished.config.data
        if not data.has_facts:
            raise EditError(f"{self.finished.run.folder}: needs a run on a generated world (data.corpus: facts)")
        return World(data.facts)

    def subject(self, n: int) -> Subject:
        """Returns a trial of ``n`` edits of the base; raises as `world` and `Subject.of`."""
        world, editor = self.world(), self.editor
        editor.undo_all()
        return Subject.of(editor.model.decoder, editor.tokenizer, editor.seq_len, world, n, self.background)


def write_trial(folder: Path, name: str, results: Trial, figure: Figure) -> Path:
    """Writes what a trial measured, and its figure, into the folder of a run; returns the figure's path.

    Raises:
        EditError: the disk is full or cannot be written.
    """
    target = folder / name
    try:
        with replaced_folder(target) as staged:
            write_json(staged / "results.json", results)
            figure.savefig(staged / "figure.svg", metadata={"Date": None})  # pyright: ignore[reportUnknownMemberType]
    except OSError as error:
        raise EditError(f"{target}: cannot be written ({error}); make room and give the command again") from error
    return target / "figure.svg"


@contextmanager
def only_editor(folder: Path) -> Generator[None]:
    """Keeps a second process from editing a run, from before its log is read until it is written.

    Raises:
        RunError: another process edits it, or as `read_finished`.
    """
    read_finished(folder)  # in what is no run, nothing is written
    with locked(folder, f"{folder} is being edited by another process; give the command again when that has ended"):
        yield


def open_editing(folder: Path, tuning: Tuning | None = None, shows_bars: bool = False) -> Editing:
    """Loads a run's model and text, and applies its log.

    Args:
        folder: The run's folder.
        tuning: How rows are trained.
        shows_bars: Show bars while the text is prepared.

    Raises:
        EditError: the log is damaged or belongs to other weights.
        MemlmError: as `open_finished`.
    """
    for path in (folder / log.FOLDER / log.LINES, *(folder / log.FOLDER / log.ROWS).glob("*")):
        inside(folder, str(path.relative_to(folder)))
    finished = open_finished(folder, "edit", shows_bars)
    data, config = finished.data, finished.config
    background = spread_sequences(data.train.ids, config.data.seq_len, TOKENS)[:, :-1].tolist()
    editor = Editor(
        finished.model,
        Tokenizer.from_file(str(data.tokenizer)),
        background,
        sha256(finished.weights),
        world_wordings(World(config.data.facts)) if config.data.has_facts else plain_wordings,
        tuning,
    )
    editor.load(log.read_log(folder / log.FOLDER, editor.base, editor.rows))
    return Editing(finished, editor, background)
