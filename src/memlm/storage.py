"""Writing files and folders whole or not at all, and texts without credentials. Free of torch and of every other room.

A credential is the value of an environment variable whose name says so (``HF_TOKEN``, ``WANDB_API_KEY``). Whatever is
written through here holds ``***`` in its place, so no writer has to remember.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

T = TypeVar("T")

CREDENTIAL = re.compile(
    r"(^|_)(API_?KEY|ACCESS_KEY(_ID)?|PRIVATE_KEY|SECRET(_KEY)?|TOKEN|PASSPHRASE)$|PASSWORD", re.IGNORECASE
)
"""Names of environment variables that hold credentials."""
SHORTEST_CREDENTIAL = 6
"""Characters; a shorter value would stand in many a word that has nothing to do with it."""


def redacted(value: T) -> T:
    """Returns text with ``***`` for every credential in it; in mappings and lists, every text and key likewise."""
    found = {v for name, v in os.environ.items() if CREDENTIAL.search(name) and len(v) >= SHORTEST_CREDENTIAL}
    # The longest first: one may be the beginning of another.
    return cast(T, _without(value, sorted(found, key=len, reverse=True)))


def _without(value: Any, credentials: list[str]) -> Any:
    if isinstance(value, str):
        for credential in credentials:
            value = value.replace(credential, "***")
        return value
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value).items()
        return {_without(key, credentials): _without(item, credentials) for key, item in pairs}
    if isinstance(value, (list, tuple)):
        return [_without(item, credentials) for item in cast("list[Any]", value)]
    return value


def is_writable(text: str) -> bool:
    """Tells whether UTF-8 can hold a text: it cannot hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    _write(path, redacted(text))


def write_json(path: Path, value: object) -> None:
    """Writes ``value`` as JSON, whole or not at all."""
    _write(path, json.dumps(redacted(value), indent=2, ensure_ascii=False) + "\n")


def write_compact_json(path: Path, value: object) -> None:
    """Writes ``value`` as JSON in one line, whole or not at all: for rows of numbers."""
    _write(path, json.dumps(redacted(value), separators=(",", ":"), ensure_ascii=False) + "\n")


def write_exact_json(path: Path, value: object) -> None:
    """Writes ``value`` as JSON and looks for no credentials: hashes and states hold no text of the user's."""
    _write(path, json.dumps(value, indent=2) + "\n")


def write_yaml(path: Path, value: object) -> None:
    """Writes ``value`` as YAML in the order it has, whole or not at all."""
    _write(path, yaml.safe_dump(redacted(value), sort_keys=False, allow_unicode=True))


@contextmanager
def replaced_folder(folder: Path) -> Generator[Path]:
    """Lends an empty folder that takes the place of ``folder`` at the end; an error leaves the old one as it was.

    A reader sees the old folder, for an instant none, or the new one; never a part of either.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        staged.chmod(0o755)  # mkdtemp's own mode would hide the folder from everybody else
        yield staged
        for path in staged.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _sync_folder(staged)
        retired = staged.with_name(f"{staged.name}-retired")
        if folder.exists():
            folder.rename(retired)
        try:
            staged.rename(folder)
        except BaseException:
            if retired.exists():
                retired.rename(folder)
            raise
        _sync_folder(folder.parent)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def replaced_file(path: Path) -> Generator[Path]:
    """Lends the name of a file to be written, which takes the place of ``path`` at the end; an error leaves the old."""
    staged = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        staged.touch()
        mode = staged.stat().st_mode
        yield staged
        staged.chmod(mode)  # safetensors' own mode would hide the file from everybody else
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(path)
        _sync_folder(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Returns the hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    """Writes a file under another name, then renames it; a reader sees the old text or the new."""
    descriptor, staged = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(staged, 0o644)  # mkstemp's own mode would hide the file from everybody else
        os.replace(staged, path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` survive a loss of power, where the system has a way to ask for that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
