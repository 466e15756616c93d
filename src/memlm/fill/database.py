"""A database of sentences: JSON or JSON Lines, of strings or of objects with a field `text`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memlm.errors import DataError
from memlm.storage import is_writable, sha256


@dataclass(frozen=True)
class Database:
    """Sentences, each once.

    Attributes:
        texts: The sentences, in order, without space around them.
        duplicates: Sentences left out because they came before.
        empty: Sentences left out because there is nothing in them.
        fingerprint: The hash of the file.
    """

    texts: list[str]
    duplicates: int
    empty: int
    fingerprint: str


def read_database(path: str | Path) -> Database:
    """Reads a database: one JSON list where the name ends in .json, else a JSON value a line; blank lines are none.

    Raises:
        DataError: the file is missing or no UTF-8, something in it is no sentence, or there is none at all.
    """
    path = Path(path).expanduser()
    fingerprint, data = fingerprint_of(path), path.read_bytes()
    seen: dict[str, None] = {}
    n_texts = empty = 0
    for where, value in _values(path, data):
        text = _text(where, value).strip()
        empty += not text
        n_texts += bool(text)
        if text:
            seen[text] = None
    if not seen:
        raise DataError(f"{path}: holds no sentence; give JSON Lines with a field text")
    return Database(list(seen), n_texts - len(seen), empty, fingerprint)


def fingerprint_of(path: str | Path) -> str:
    """Returns the hash of a database's file.

    Raises:
        DataError: it cannot be read.
    """
    path = Path(path).expanduser()
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); mend the path of the database") from None


def _values(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    """Yields the JSON values of a file, each with its place."""
    if path.suffix.lower() != ".json":
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                yield f"{path}:{number}", _parsed(f"{path}:{number}", line)
        return
    values = _parsed(str(path), data)
    if not isinstance(values, list):
        raise DataError(f"{path}: is a JSON {type(values).__name__}, not a list; give a list of sentences")
    yield from ((f"{path}: item {number}", value) for number, value in enumerate(values, 1))


def _parsed(where: str, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is not JSON ({error.msg}, column {error.colno}); mend it") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is JSON that cannot be read ({error}); mend it") from None


def _text(where: str, value: Any) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise DataError(f"{where}: is no sentence; give a string, or an object with a string in its field text")
    if not is_writable(text):
        raise DataError(f"{where}: has half of a surrogate pair, which UTF-8 cannot hold; mend it")
    return text
