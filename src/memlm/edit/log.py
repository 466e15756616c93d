"""Edits as data: a log in a run's folder, or one file that hands the whole of it on.

A log is its edits in order, a line of JSON each, and the rows before and after each. It belongs to one base, the
checkpoint with a certain hash, which is never changed: the edited model is the base with the log applied.

In a run's folder every edit has a file of rows, which is written once, before the line that names it, and removed after
the line is gone: whatever is cut off in between, the lines name files that are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memlm.edit.lines import LINES, RESTORE, ROWS, Edit, parse_lines, read_lines, refuse_pack, sealed_lines
from memlm.edit.rows import AnyRows, Change, fingerprint
from memlm.errors import EditError
from memlm.storage import replaced_file, write_text

PACKED = "edits"
"""The key of the lines in the metadata of a pack."""
AGAIN = "get a whole copy of it, or write it anew with --pack"
"""What to do about a damaged pack."""


@dataclass(frozen=True)
class Log:
    """Edits in order, and what each of them did to the rows."""

    edits: Sequence[Edit] = ()
    changes: Sequence[Change] = ()


def write_log(folder: Path, log: Log) -> None:
    """Brings ``folder`` to a log: writes rows of new edits, then all lines at once, then removes what no line names.

    Raises:
        EditError: the disk is full or cannot be written; the log is what it was.
    """
    try:
        folder.mkdir(exist_ok=True)
        if not (folder / LINES).exists():
            write_text(folder / LINES, "")  # rows without lines are a damaged log
        (folder / ROWS).mkdir(exist_ok=True)
        there = {path.name for path in (folder / ROWS).iterdir()}
        for edit, change in zip(log.edits, log.changes, strict=True):
            if edit.file not in there:
                with replaced_file(folder / ROWS / edit.file) as staged:
                    save_file(_tensors(change), staged)
        write_text(folder / LINES, sealed_lines(log.edits))
        for name in there - {edit.file for edit in log.edits}:
            (folder / ROWS / name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{folder}: cannot be written ({error}); make room and give the command again") from error


def read_log(folder: Path, base: str, rows: AnyRows) -> Log:
    """Reads the log in ``folder``, an empty one if there is none.

    Raises:
        EditError: it is damaged, a part of it is missing, or it belongs to another base.
    """
    lines = read_lines(folder)
    edits = parse_lines(lines, folder / LINES, base, RESTORE)
    try:
        changes = [_read_rows(folder, edit, rows) for edit in edits]
    except EditError:
        if read_lines(folder) != lines:  # another process has undone an edit meanwhile
            return read_log(folder, base, rows)
        raise
    return Log(edits, changes)


def write_pack(path: Path, log: Log) -> None:
    """Writes a log as one file.

    Raises:
        EditError: it cannot be written, or there is such a file.
    """
    refuse_pack(path)
    tensors = {
        f"{edit.id}/{name}": tensor
        for edit, change in zip(log.edits, log.changes, strict=True)
        for name, tensor in _tensors(change).items()
    }
    try:
        with replaced_file(path) as staged:
            save_file(tensors, staged, metadata={PACKED: sealed_lines(log.edits)})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error  # without the name of the file that is written meanwhile
        raise EditError(f"{path}: cannot be written ({reason}); make room, or give another place") from error


def read_pack(path: Path, base: str, rows: AnyRows) -> Log:
    """Reads what `write_pack` wrote.

    Raises:
        EditError: it is no pack, is damaged, or belongs to another base.
    """
    try:
        with safe_open(path, framework="pt") as file:
            lines = (file.metadata() or {}).get(PACKED)
            if lines is None:
                raise EditError(f"{path}: holds no edits; give a file that --pack wrote")
            edits = parse_lines(lines, path, base, AGAIN)
            changes = [_change(edit, file, f"{edit.id}/", rows, path, AGAIN) for edit in edits]
            if len(file.keys()) != sum(len(_tensors(change)) for change in changes):
                raise EditError(f"{path}: holds rows that no line names, so a line is gone; {AGAIN}")
            return Log(edits, changes)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{path}: cannot be read ({error}); give a file that --pack wrote") from None


def _read_rows(folder: Path, edit: Edit, rows: AnyRows) -> Change:
    path = folder / ROWS / edit.file
    try:
        with safe_open(path, framework="pt") as file:
            return _change(edit, file, "", rows, path, RESTORE)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{path}: cannot be read ({error}); {RESTORE}") from None


def _tensors(change: Change) -> dict[str, Tensor]:
    return {"before": change.before.contiguous(), "after": change.after.contiguous()}


def _change(edit: Edit, file: Any, prefix: str, rows: AnyRows, where: Path, mend: str) -> Change:
    """Reads the rows of an edit, and refuses those that it does not name, or that the model cannot hold."""
    change = Change(
        torch.tensor(edit.rows, dtype=torch.int64), *(file.get_tensor(prefix + name) for name in ("before", "after"))
    )
    ids, shape = list(edit.rows), (len(edit.rows), rows.width)
    is_fit = ids == sorted(set(ids)) and all(rows.has(row) for row in ids)
    for values in (change.before, change.after):
        is_fit = is_fit and values.shape == shape and values.dtype == rows.dtype and rows.are_sound(values)
    if not is_fit:
        raise EditError(f"{where}: the rows of edit {edit.id} do not fit the model; {mend}")
    if fingerprint(change) != edit.change:
        raise EditError(f"{where}: the rows of edit {edit.id} are not those of its line; {mend}")
    return change
