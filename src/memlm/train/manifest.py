"""The manifest of a checkpoint: the hash of every other file in its folder. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from memlm.errors import CheckpointError
from memlm.storage import sha256, write_exact_json

MANIFEST = "manifest.json"
MODEL = "model.safetensors"
"""The file of a model's weights."""
WEIGHTS = {"config.json", MODEL}


def write_manifest(folder: Path) -> None:
    """Hashes every file in ``folder``, and writes the manifest beside them."""
    names = sorted(path.name for path in folder.iterdir())
    write_hashes(folder, {name: sha256(folder / name) for name in names})


def write_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    """Writes a manifest that has these hashes, by the names of their files."""
    write_exact_json(folder / MANIFEST, {"format": 1, "sha256": hashes})


def recorded_hashes(folder: Path) -> dict[str, str]:
    """Returns the hashes that the manifest of a checkpoint has, by the names of their files; raises as `require`."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        found = {str(name): str(digest) for name, digest in hashes.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: holds no checkpoint ({MANIFEST} is missing)") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder}: is damaged ({MANIFEST} cannot be read: {error})") from None
    if not found.keys() >= WEIGHTS or any(Path(name).name != name for name in found):
        raise CheckpointError(f"{folder}: is damaged ({MANIFEST} does not name the files of a model)")
    return found


def weights_hash(folder: Path) -> str:
    """Returns the hash of a model's weights that the manifest has, and `verify` compares; raises as `require`."""
    return recorded_hashes(folder)[MODEL]


def require(folder: Path) -> None:
    """Raises CheckpointError if the folder holds no checkpoint; reads none of its files but the manifest."""
    recorded_hashes(folder)


def verify(folder: Path) -> None:
    """Compares every file with the manifest.

    Raises:
        CheckpointError: the folder holds no checkpoint, or a file is missing or is not the one that was written.
    """
    for name, expected in recorded_hashes(folder).items():
        verify_file(folder, name, expected)


def verify_file(folder: Path, name: str, expected: str) -> None:
    """Raises CheckpointError if a file of a checkpoint cannot be read, or has another hash than expected."""
    try:
        found = sha256(folder / name)
    except OSError as error:
        raise CheckpointError(f"{folder}: is damaged ({name} cannot be read: {error.strerror})") from None
    if found != expected:
        raise CheckpointError(f"{folder}: is damaged ({name} is not what was written)")
