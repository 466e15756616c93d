"""The lines of a log of edits, each with its seal. Free of torch, so that edits are listed at once.

A line is an edit as JSON. Its seal is the hash of all that the line says and of the seal before it, so it covers the
whole of every edit up to there: whatever is changed, moved or taken out from between is told when the log is read. It
guards against damage, not against who writes a log of their own, seals and all.

Lines of earlier versions of memlm have no seals; they are read as they are, and get seals when the log is next written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter

from memlm.edit.request import Kind, checked, fields_of
from memlm.errors import EditError
from memlm.storage import redacted

FOLDER = "edits"
"""In the folder of a run."""
LINES, ROWS = "edits.jsonl", "rows"
SEAL = "seal"
"""The key of a line's seal."""
RESTORE = "restore it"
"""What to do about a damaged log in a folder; who opens it knows another way out."""

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Edit:
    """One edit, as it is recorded.

    Attributes:
        id: Its number; later edits have higher ones.
        kind: A new answer was set, or the old one deleted, or an entry replaced.
        subject: Whom it is about; the slot of an entry.
        relation: What about it.
        answer: The answer that was wanted, empty where it was to be deleted; an entry's new text.
        old: What the model answered before, in the first wording; an entry's old text.
        prompts: The wordings in which it was learned; none for an entry.
        rows: The rows that it changed, numbered through all banks.
        base: The hash of the checkpoint's weights.
        result: The hash of the rows after it, see `memlm.edit.rows.chain`.
        change: The hash of its rows before and after, see `memlm.edit.rows.fingerprint`.
        learned: In how many of its wordings greedy decoding gave the new answer, and no more, once it was made; to
            delete: no longer the old one. None: an earlier version of memlm did not keep it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

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
    change: Hash
    learned: int | None = None

    @property
    def file(self) -> str:
        """The name of its file of rows. Numbers come again after an undo, so the content is part of it."""
        return f"{self.id}-{self.change[:16]}.safetensors"

    @property
    def is_missed(self) -> bool:
        """Whether no wording was answered as wanted once it was made."""
        return bool(self.prompts) and self.learned == 0


_LINE = TypeAdapter(Edit)


def superseded(edits: Sequence[Edit]) -> dict[int, int]:
    """Returns which edits have a later one about the same fact that was learned, and the number of the last such."""
    last = {(edit.subject, edit.relation): edit.id for edit in edits if not edit.is_missed}
    return {edit.id: by for edit in edits if (by := last.get((edit.subject, edit.relation), 0)) > edit.id}


def sealed_lines(edits: Sequence[Edit]) -> str:
    """Returns edits as lines, without credentials."""
    lines, seal = "", ""
    for edit in edits:
        told: dict[str, Any] = redacted(asdict(edit))
        seal = _seal(seal, told)
        lines += json.dumps({**told, SEAL: seal}, ensure_ascii=False) + "\n"
    return lines


def read_lines(folder: Path) -> str:
    """Returns the lines of the log in a folder, none if there is no log.

    Raises:
        EditError: they cannot be read, or are gone while there are rows.
    """
    if not (folder / LINES).exists() and not (folder / ROWS).exists():
        return ""
    try:
        return (folder / LINES).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EditError(f"{folder / LINES}: cannot be read ({error}); {RESTORE}") from None


def parse_lines(lines: str, where: Path, base: str, mend: str) -> list[Edit]:
    """Returns the edits of lines.

    Args:
        lines: The lines.
        where: The file that holds them.
        base: The hash of the weights that they must belong to.
        mend: What to do if they are damaged.

    Raises:
        EditError: they are no lines of a log, one was changed, or they belong to another base.
    """
    numbered = enumerate(lines.split("\n"), 1)  # splitlines would also split at what may stand in a JSON text
    told = {f"{where}:{n}": fields_of(line, f"{where}:{n}", "is no edit", mend) for n, line in numbered if line}
    has_seals, seal = any(SEAL in fields for fields in told.values()), ""
    edits: list[Edit] = []
    for place, fields in told.items():
        given = fields.pop(SEAL, None)
        seal = _seal(seal, fields)
        if has_seals and given != seal:
            raise EditError(
                f"{place}: edit {fields.get('id')} does not fit its seal: it was changed since it was written, "
                f"or a line before it is gone; {mend}"
            )
        edits.append(checked(_LINE, fields, place, mend))
    for edit in edits:
        if edit.base != base:
            raise EditError(
                f"{where}: edit {edit.id} belongs to other weights (sha256 {edit.base[:12]}) than these "
                f"({base[:12]}); apply it to a copy of its own checkpoint"
            )
    ids = [edit.id for edit in edits]
    if ids != sorted(set(ids)):
        raise EditError(f"{where}: the numbers of its edits do not ascend; {mend}")
    return edits


def refuse_taken(target: Path) -> None:
    """Raises EditError if what is to be written is there already."""
    if target.exists():
        raise EditError(f"{target}: is there already; give another name")


def refuse_pack(path: Path) -> None:
    """Raises EditError if a pack cannot be written there: something has its name, or there is no folder."""
    refuse_taken(path)
    if not path.parent.is_dir():
        raise EditError(f"{path}: {path.parent} is no folder; make the folder first")


def _seal(earlier: str, told: dict[str, Any]) -> str:
    return hashlib.sha256(f"{earlier}{json.dumps(told, sort_keys=True)}".encode()).hexdigest()
