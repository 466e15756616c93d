"""Keeps what records name inside their own folder: they may come from other people."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from memlm.errors import RunError

FINAL_WEIGHTS = "checkpoint/model.safetensors"
"""In the folder of a finished run."""


def is_plain(name: str) -> bool:
    """Tells whether ``name`` is that of a file or folder, and no way to another place on any system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _check_plain(name: str) -> str:
    if not is_plain(name):
        raise PydanticCustomError("path", "{name} is no plain name of a folder", {"name": repr(name)})
    return name


FolderName = Annotated[str, AfterValidator(_check_plain)]
"""A name in a record that a folder is called by."""


def inside(folder: Path, name: str) -> Path:
    """Returns ``folder / name``; ``folder`` itself may be a link.

    Raises:
        RunError: it lies, or a link leads, outside of ``folder``.
    """
    path = folder / name
    place = Path(os.path.realpath(path))  # unlike Path.resolve, it takes a link to itself
    if not place.is_relative_to(os.path.realpath(folder)):
        raise RunError(f"{path}: leads out of its folder, to {place}; put a copy in its place")
    return path
