"""Writing files and folders whole or not at all. Free of torch, and of every other room."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import yaml


def write_text(path: Path, text: str) -> None:
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


def write_json(path: Path, value: object) -> None:
    """Writes ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_yaml(path: Path, value: object) -> None:
    """Writes ``value`` as YAML in the order it has, whole or not at all."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


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
        staged.rename(folder)
        _sync_folder(folder.parent)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def sha256(path: Path) -> str:
    """Returns the hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
