"""The edits of a run as they are recorded. Nothing here loads a model, so that they are there at once."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from memlm.edit.lines import FOLDER, LINES, RESTORE, ROWS, Edit, parse_lines, read_lines
from memlm.errors import EditError
from memlm.experiment.files import Tree
from memlm.experiment.paths import FINAL_WEIGHTS, inside
from memlm.experiment.reading import Run, no_memory
from memlm.train.manifest import weights_hash

_AWAY = "move {} away to open the run without its edits"


def log_folder(run: Path) -> Path:
    """Returns where the log of a run is kept, nothing of which leads out of the run's folder; it need not be there.

    Raises:
        EditError: a file is in its place, or it or its lines are a link to what is gone.
        RunError: something leads out of the run's folder.
    """
    folder = run / FOLDER
    for path in (folder / LINES, *(folder / ROWS).glob("*")):
        inside(run, str(path.relative_to(run)))
    for path in (folder, folder / LINES):
        if os.path.lexists(path) and not path.exists():
            raise EditError(f"{path}: is a link to what is not there; {_AWAY.format(folder)}")
    if folder.exists() and not folder.is_dir():
        raise EditError(f"{folder}: is a file, and no folder of edits; {_AWAY.format(folder)}")
    return folder


def has_edits(run: Path) -> bool:
    """Tells whether the log in a run's folder has edits, be they sound or not: for who leaves them out.

    Raises:
        MemlmError: as `log_folder`.
    """
    lines = log_folder(run) / LINES
    return lines.exists() and lines.stat().st_size > 0


@contextmanager
def way_out(folder: Path) -> Generator[None]:
    """Has errors of the log in a folder say how the run is opened without it."""
    try:
        yield
    except EditError as error:
        raise EditError(f"{error}, or {_AWAY.format(folder)}") from None


def recorded_edits(run: Run) -> list[Edit]:
    """Returns a run's edits from the lines of its log; the files of rows are left to who applies them.

    Raises:
        EditError: the lines are damaged or belong to other weights.
        CheckpointError: the run holds no checkpoint, or its manifest is damaged.
        RunError: the run has no memory to edit, or the log leads out of its folder.
    """
    folder = log_folder(run.folder)
    model = run.config.get("model")
    if isinstance(model, dict) and cast(Tree, model).get("memory") is None:
        raise no_memory(run, "edit")
    with way_out(folder):
        lines = read_lines(folder)
        if not lines:
            return []
        base = weights_hash(inside(run.folder, FINAL_WEIGHTS).parent)  # as recorded: to hash gigabytes takes a while
        return parse_lines(lines, folder / LINES, base, RESTORE)
