"""Edits as data: a log in a run's folder, or one file that hands the whole of it on.

A log is its edits in order, a line of JSON each, and the rows before and after each. It belongs to one base, the
checkpoint with a certain hash, which is never changed: the edited model is the base with the log applied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memlm.edit.request import Kind
from memlm.edit.rows import AnyRows, Change
from memlm.errors import EditError
from memlm.storage import redacted, replaced_folder, write_text

FOLDER = "edits"
"""In the folder of a run."""
LINES, ROWS = "edits.jsonl", "rows.safetensors"
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


@dataclass(frozen=True)
class Log:
    """Edits in order, and what each of them did to the rows."""

    edits: Sequence[Edit] = ()
    changes: Sequence[Change] = ()


_LINE = TypeAdapter(Edit)


def write_log(folder: Path, log: Log) -> None:
    """Writes a log into ``folder``, replacing it at once.

    Raises:
        EditError: the disk is full or cannot be written; what was there is as it was.
    """
    try:
        with replaced_folder(folder) as staged:
            write_text(staged / LINES, _lines(log))
            save_file(_tensors(log), staged / ROWS)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{folder}: cannot be written ({error}); make room and give the command again") from error


def read_log(folder: Path, base: str, rows: AnyRows) -> Log:
    """Reads the log in ``folder``, an empty one if there is none.

    Raises:
        EditError: it is damaged, or belongs to another base.
    """
    if not folder.exists():
        return Log()
    try:
        lines = (folder / LINES).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EditError(f"{folder / LINES}: cannot be read ({error}); restore it, or remove {folder}") from None
    return _read(lines, folder / ROWS, base, rows)


def write_pack(path: Path, log: Log) -> None:
    """Writes a log as one file.

    Raises:
        EditError: it cannot be written, or there is such a file.
    """
    if path.exists():
        raise EditError(f"{path}: is there already; give another name")
    staged = path.with_name(f".{path.name}-staged")
    try:
        save_file(_tensors(log), staged, metadata={PACKED: redacted(_lines(log))})
        staged.replace(path)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{path}: cannot be written ({error})") from error
    finally:
        staged.unlink(missing_ok=True)


def read_pack(path: Path, base: str, rows: AnyRows) -> Log:
    """Reads what `write_pack` wrote.

    Raises:
        EditError: it is no pack, is damaged, or belongs to another base.
    """
    try:
        with safe_open(path, framework="pt") as file:
            lines = (file.metadata() or {}).get(PACKED)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{path}: cannot be read ({error}); give a file that --pack wrote") from None
    if lines is None:
        raise EditError(f"{path}: holds no edits; give a file that --pack wrote")
    return _read(lines, path, base, rows)


def _lines(log: Log) -> str:
    return "".join(json.dumps(asdict(edit), ensure_ascii=False) + "\n" for edit in log.edits)


def _tensors(log: Log) -> dict[str, Tensor]:
    return {
        f"{edit.id}/{name}": tensor.contiguous()
        for edit, change in zip(log.edits, log.changes, strict=True)
        for name, tensor in (("before", change.before), ("after", change.after))
    }


def _read(lines: str, tensors: Path, base: str, rows: AnyRows) -> Log:
    numbered = enumerate(lines.split("\n"), 1)  # splitlines would also split at what may stand in a JSON text
    edits = [_edit(line, f"{tensors.parent / LINES}:{n}") for n, line in numbered if line]
    for edit in edits:
        if edit.base != base:
            raise EditError(
                f"{tensors}: edit {edit.id} belongs to other weights (sha256 {edit.base[:12]}) than these "
                f"({base[:12]}); apply it to a copy of its own checkpoint"
            )
    ids = [edit.id for edit in edits]
    if ids != sorted(set(ids)):
        raise EditError(f"{tensors}: the numbers of its edits do not ascend; it is damaged")
    try:
        with safe_open(tensors, framework="pt") as file:
            changes = [_change(edit, file.get_tensor(f"{edit.id}/before"), file.get_tensor(f"{edit.id}/after"))
                       for edit in edits]  # fmt: skip
    except (OSError, SafetensorError) as error:
        raise EditError(f"{tensors}: cannot be read ({error}); it is damaged") from None
    for edit, change in zip(edits, changes, strict=True):
        _check(edit, change, rows, tensors)
    return Log(edits, changes)


def _edit(line: str, where: str) -> Edit:
    try:
        return _LINE.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise EditError(f"{where}: {'.'.join(map(str, first['loc'])) or 'line'}: {first['msg'].lower()}") from None


def _change(edit: Edit, before: Tensor, after: Tensor) -> Change:
    return Change(torch.tensor(edit.rows, dtype=torch.int64), before, after)


def _check(edit: Edit, change: Change, rows: AnyRows, where: Path) -> None:
    """Refuses rows that the model does not have, and values that are none."""
    ids, shape = list(edit.rows), (len(edit.rows), rows.width)
    is_fit = ids == sorted(set(ids)) and all(rows.has(row) for row in ids)
    for values in (change.before, change.after):
        is_fit = is_fit and values.shape == shape and values.dtype == rows.dtype and rows.are_sound(values)
    if not is_fit:
        raise EditError(f"{where}: the rows of edit {edit.id} do not fit the model; it is damaged")
