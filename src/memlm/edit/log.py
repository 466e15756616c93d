"""Edits as data: a log in a run's folder, or one file that hands the whole of it on.

A log is its edits in order, a line of JSON each, and the rows before and after each. It belongs to one base, the
checkpoint with a certain hash, which is never changed: the edited model is the base with the log applied.

In a run's folder every edit has a file of rows, which is written once, before the line that names it, and removed after
the line is gone: whatever is cut off in between, the lines name files that are whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memlm.edit.request import Kind
from memlm.edit.rows import AnyRows, Change, fingerprint
from memlm.errors import EditError
from memlm.storage import redacted, replaced_file, write_text

FOLDER = "edits"
"""In the folder of a run."""
LINES, ROWS = "edits.jsonl", "rows"
PACKED = "edits"
"""The key of the lines in the metadata of a pack."""


@dataclass(frozen=True)
class Edit:
    """One edit, as it is recorded.

    Attributes:
        id: Its number; later edits have higher ones.
        kind: A new answer was set, or the old one deleted, or an entry replaced.
        subject: Whom it is about; the slot of an entry.
        relation: What about it.
        answer: The new answer, empty where it was deleted; an entry's new text.
        old: What the model answered before, in the first wording; an entry's old text.
        prompts: The wordings in which it was learned; none for an entry.
        rows: The rows that it changed, numbered through all banks.
        base: The hash of the checkpoint's weights.
        result: The hash of the state after it, see `memlm.edit.rows.chain`.
        change: The hash of its rows before and after, see `memlm.edit.rows.fingerprint`.
    """

    id: int
    kind: Kind
    subject: str
    relation: str
    answer: str
    old: str
    prompts: tuple[str, ...]
    rows: tuple[int, ...]
    base: str
    result: str
    change: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @property
    def file(self) -> str:
        """The name of its file of rows. Numbers come again after an undo, so the content is part of it."""
        return f"{self.id}-{self.change[:16]}.safetensors"


@dataclass(frozen=True)
class Log:
    """Edits in order, and what each of them did to the rows."""

    edits: Sequence[Edit] = ()
    changes: Sequence[Change] = ()


_LINE = TypeAdapter(Edit)


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
        write_text(folder / LINES, _lines(log))
        for name in there - {edit.file for edit in log.edits}:
            (folder / ROWS / name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{folder}: cannot be written ({error}); make room and give the command again") from error


def read_log(folder: Path, base: str, rows: AnyRows) -> Log:
    """Reads the log in ``folder``, an empty one if there is none.

    Raises:
        EditError: it is damaged, a part of it is missing, or it belongs to another base.
    """
    if not (folder / LINES).exists() and not (folder / ROWS).exists():
        return Log()
    lines = _read_lines(folder)
    edits = _edits(lines, folder / LINES, base)
    try:
        changes = [_read_rows(folder, edit, rows) for edit in edits]
    except EditError:
        if _read_lines(folder) != lines:  # another process has undone an edit meanwhile
            return read_log(folder, base, rows)
        raise
    return Log(edits, changes)


def write_pack(path: Path, log: Log) -> None:
    """Writes a log as one file.

    Raises:
        EditError: it cannot be written, or there is such a file.
    """
    if path.exists():
        raise EditError(f"{path}: is there already; give another name")
    tensors = {
        f"{edit.id}/{name}": tensor
        for edit, change in zip(log.edits, log.changes, strict=True)
        for name, tensor in _tensors(change).items()
    }
    try:
        with replaced_file(path) as staged:
            save_file(tensors, staged, metadata={PACKED: redacted(_lines(log))})
    except (OSError, SafetensorError) as error:
        raise EditError(f"{path}: cannot be written ({error})") from error


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
            edits = _edits(lines, path, base)
            return Log(edits, [_change(edit, file, f"{edit.id}/", rows, path) for edit in edits])
    except (OSError, SafetensorError) as error:
        raise EditError(f"{path}: cannot be read ({error}); give a file that --pack wrote") from None


def _read_lines(folder: Path) -> str:
    try:
        return (folder / LINES).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EditError(f"{folder / LINES}: cannot be read ({error}); restore it, or remove {folder}") from None


def _read_rows(folder: Path, edit: Edit, rows: AnyRows) -> Change:
    path = folder / ROWS / edit.file
    try:
        with safe_open(path, framework="pt") as file:
            return _change(edit, file, "", rows, path)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{path}: cannot be read ({error}); restore it, or remove {folder}") from None


def _lines(log: Log) -> str:
    return "".join(json.dumps(asdict(edit), ensure_ascii=False) + "\n" for edit in log.edits)


def _tensors(change: Change) -> dict[str, Tensor]:
    return {"before": change.before.contiguous(), "after": change.after.contiguous()}


def _edits(lines: str, where: Path, base: str) -> list[Edit]:
    """Returns the edits of a log's lines; a base or numbers that cannot be are refused."""
    numbered = enumerate(lines.split("\n"), 1)  # splitlines would also split at what may stand in a JSON text
    edits = [_edit(line, f"{where}:{n}") for n, line in numbered if line]
    for edit in edits:
        if edit.base != base:
            raise EditError(
                f"{where}: edit {edit.id} belongs to other weights (sha256 {edit.base[:12]}) than these "
                f"({base[:12]}); apply it to a copy of its own checkpoint"
            )
    ids = [edit.id for edit in edits]
    if ids != sorted(set(ids)):
        raise EditError(f"{where}: the numbers of its edits do not ascend; it is damaged")
    return edits


def _edit(line: str, where: str) -> Edit:
    try:
        return _LINE.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise EditError(f"{where}: {'.'.join(map(str, first['loc'])) or 'line'}: {first['msg'].lower()}") from None


def _change(edit: Edit, file: Any, prefix: str, rows: AnyRows, where: Path) -> Change:
    """Reads the rows of an edit, and refuses those that it does not name, or that the model cannot hold."""
    change = Change(
        torch.tensor(edit.rows, dtype=torch.int64), *(file.get_tensor(prefix + name) for name in ("before", "after"))
    )
    ids, shape = list(edit.rows), (len(edit.rows), rows.width)
    is_fit = ids == sorted(set(ids)) and all(rows.has(row) for row in ids)
    for values in (change.before, change.after):
        is_fit = is_fit and values.shape == shape and values.dtype == rows.dtype and rows.are_sound(values)
    if not is_fit:
        raise EditError(f"{where}: the rows of edit {edit.id} do not fit the model; it is damaged")
    if fingerprint(change) != edit.change:
        raise EditError(f"{where}: the rows of edit {edit.id} are not those of its line; it is damaged")
    return change
