"""What a model folder may hold: data, never code. It is looked at before anything in it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from memlm.errors import CheckpointError

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"}
"""Endings of files that are, or may hold, pickles: unpickling runs whatever their author wrote."""


def refuse_code(folder: Path) -> None:
    """Refuses a model folder that brings code, or weights in a form that can run code.

    Raises:
        CheckpointError: it holds a Python file, a pickle, a configuration that names code (``auto_map``), or one that
            cannot be read.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix == ".py":
            raise CheckpointError(f"{folder} brings code of its own ({name}), which is never run; remove it")
        if path.suffix in PICKLES:
            raise CheckpointError(
                f"{folder} holds {name}, which may be a pickle, and loading a pickle can run code; "
                "keep weights as .safetensors alone"
            )
        if path.suffix == ".json" and "auto_map" in _keys(path):
            raise CheckpointError(f"{path} names code of its own (auto_map), which is never run; remove that entry")


def _keys(path: Path) -> set[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    return set(content) if isinstance(content, dict) else set()
