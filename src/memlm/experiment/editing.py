"""Opens a finished run for editing, and keeps its edits; its checkpoint is never changed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from memlm.bank.vectors import VectorsConfig
from memlm.data.world import World
from memlm.edit import log
from memlm.edit.background import TOKENS
from memlm.edit.editor import Editor
from memlm.edit.facts import strangers
from memlm.edit.finetune import Tuning
from memlm.edit.lines import refuse_taken
from memlm.edit.request import Replacement, Request, plain_wordings, world_wordings
from memlm.edit.results import Row, Trial, read_parts, write_part
from memlm.edit.trial import Subject
from memlm.evaluate.loss import spread_sequences
from memlm.experiment.edited import load_log
from memlm.experiment.finished import Finished, open_finished
from memlm.experiment.locks import locked
from memlm.experiment.reading import read_finished
from memlm.experiment.recorded_edits import log_folder
from memlm.experiment.world import require_world, world_of
from memlm.train.checkpoint import save_model
from memlm.train.manifest import weights_hash


@dataclass(frozen=True)
class Editing:
    """A run and its editor.

    Attributes:
        finished: The run; its model is the editor's.
        editor: The editor, with the run's log applied.
        background: Sequences of its training text.
        known_world: The generated world that it has learned, if it has.
    """

    finished: Finished
    editor: Editor
    background: Sequence[list[int]]
    known_world: World | None

    def save(self) -> None:
        """Writes the log.

        Raises:
            EditError: it cannot be written.
            RunError: as `log_folder`.
        """
        log.write_log(log_folder(self.finished.run.folder), self.editor.log)

    def export(self, folder: Path) -> None:
        """Writes the edited model as a model folder.

        Raises:
            EditError: the folder is there already.
            CheckpointError: it cannot be written.
        """
        refuse_taken(folder)
        save_model(self.editor.model, self.finished.data.tokenizer, folder)

    def world(self) -> World:
        """Returns the generated world that the run has learned; raises as `require_world`."""
        return self.known_world or require_world(self.finished.run)

    def strangers(self, requests: Sequence[Request | Replacement]) -> dict[str, str | None]:
        """Returns the subjects that no text of the run's generated world names, as `memlm.edit.facts.strangers`."""
        subjects = [request.subject for request in requests if isinstance(request, Request)]
        return {} if self.known_world is None else strangers(self.known_world, subjects)

    def training_text(self, tokens: int) -> list[list[int]]:
        """Returns sequences spread over the run's training text, ``tokens`` of it at most."""
        return _sequences(self.finished, tokens)

    def subject(self, n: int) -> Subject:
        """Returns a trial of ``n`` edits of the base; raises as `world` and `Subject.of`."""
        world, editor = self.world(), self.editor
        editor.undo_all()
        return Subject.of(editor.model.decoder, editor.tokenizer, editor.seq_len, world, n, self.background)

    def keeper(self, trial: str) -> Callable[[str, list[Row]], None]:
        """Returns what writes a part of a trial's measures into this folder of the run; raises as `write_part`."""
        return lambda name, rows: write_part(self.finished.run.folder / trial, name, self.editor.base, rows)

    def measured(self, trial: str) -> Trial:
        """Returns what that folder holds of the run's weights; raises as `read_parts`."""
        return read_parts(self.finished.run.folder / trial, self.editor.base)


@contextmanager
def only_editor(folder: Path) -> Generator[None]:
    """Keeps a second process from editing a run, from before its log is read until it is written.

    Raises:
        RunError: another process edits it, or as `read_finished`.
    """
    read_finished(folder)  # in what is no run, nothing is written
    with locked(folder, f"{folder} is being edited by another process; give the command again when that has ended"):
        yield


def open_editing(
    folder: Path, tuning: Tuning | None = None, shows_bars: bool = False, world: World | None = None
) -> Editing:
    """Loads a run's model and text, and applies its log.

    Args:
        folder: The run's folder.
        tuning: How rows are trained.
        shows_bars: Show bars while the text is prepared.
        world: The run's generated world, if it has been made already.

    Raises:
        EditError: the log is damaged or belongs to other weights.
        MemlmError: as `open_finished`.
    """
    finished = open_finished(folder, "edit", shows_bars)
    background = _sequences(finished, TOKENS)
    memory = finished.model.decoder.config.memory
    is_found_by_text = bool(memory.n_tokens) and not isinstance(memory.bank, VectorsConfig)
    world = world or world_of(finished.run)
    wordings = plain_wordings if world is None else world_wordings(world, is_found_by_text)
    editor = Editor(
        finished.model,
        Tokenizer.from_file(str(finished.data.tokenizer)),
        background,
        weights_hash(finished.weights.parent),  # which loading the model has just compared
        wordings,
        tuning,
    )
    load_log(editor, folder)
    return Editing(finished, editor, background, world)


def _sequences(finished: Finished, tokens: int) -> list[list[int]]:
    return spread_sequences(finished.data.train.ids, finished.config.data.seq_len, tokens)[:, :-1].tolist()
