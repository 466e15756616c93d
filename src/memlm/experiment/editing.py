"""Opens a finished run for editing, and keeps its edits; its checkpoint is never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from memlm.data.world import World
from memlm.edit import log
from memlm.edit.background import TOKENS
from memlm.edit.editor import Editor
from memlm.edit.finetune import Tuning
from memlm.edit.request import plain_wordings, world_wordings
from memlm.errors import EditError
from memlm.evaluate.loss import spread_sequences
from memlm.experiment.finished import Finished, open_finished
from memlm.experiment.paths import inside
from memlm.storage import sha256
from memlm.train.checkpoint import save_model


@dataclass(frozen=True)
class Editing:
    """A run and its editor.

    Attributes:
        finished: The run; its model is the editor's.
        editor: The editor, with the run's log applied.
    """

    finished: Finished
    editor: Editor

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
    for name in (log.LINES, log.ROWS):
        inside(folder, f"{log.FOLDER}/{name}")
    finished = open_finished(folder, "edit", shows_bars)
    data, config = finished.data, finished.config
    editor = Editor(
        finished.model,
        Tokenizer.from_file(str(data.tokenizer)),
        spread_sequences(data.train.ids, config.data.seq_len, TOKENS)[:, :-1].tolist(),
        sha256(finished.weights),
        world_wordings(World(config.data.facts)) if config.data.has_facts else plain_wordings,
        tuning,
    )
    editor.load(log.read_log(folder / log.FOLDER, editor.base, editor.rows))
    return Editing(finished, editor)
