"""Reads files that may be damaged or come from other people: what is wrong is told in one line that names the place."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from memlm.config.load import read_file
from memlm.errors import RunError

T = TypeVar("T")
Tree = dict[str, Any]


def parse_json(text: str) -> object:
    """Returns the value in a JSON text.

    Raises:
        ValueError: it is no JSON, nests too deep, or holds half a character, which nothing could print.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it nests too deep") from None
    return value


@lru_cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def read_checked(kind: type[T], path: Path) -> T:
    """Reads a JSON file as a typed value.

    Raises:
        RunError: there is no such file, or it is broken.
    """
    return checked(kind, read_json(path), path)


def checked(kind: type[T], value: object, path: Path) -> T:
    """Returns ``value`` as a ``kind``.

    Raises:
        RunError: it is none; the line names the file and the field.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"]) or "the whole"
        raise RunError(f"{path}: {where}: {first['msg'].lower()}") from None


def read_text(path: Path) -> str:
    """Returns the text of a file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path) -> object:
    """Returns the value in a file of JSON.

    Raises:
        RunError: it cannot be read; the line names the place.
    """
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise RunError(f"{path}:{error.lineno}: is not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise RunError(f"{path}: is JSON that cannot be read: {error}") from None


def read_yaml(path: Path) -> Tree:
    """Returns the mapping in a file of YAML.

    Raises:
        RunError: it cannot be read; the line names the place.
    """
    tree = read_file(path)
    for problem in tree.problems:
        where = problem.where if problem.where and problem.where.line else path
        raise RunError(f"{where}: {problem.reason}")
    return tree.data
