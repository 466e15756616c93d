"""Keeps the contexts that were found in the folder of their run, under a fingerprint of what they follow from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from memlm.inspect.contexts import TOP, Contexts
from memlm.storage import replaced_folder, sha256, write_exact_json

logger = logging.getLogger(__name__)

FOLDER = "contexts"
"""In the folder of a run."""
TENSORS = "contexts.safetensors"
SUMMARY = "contexts.json"
FILES = (TENSORS, SUMMARY)
FORMAT = 1
"""Part of the fingerprint; raised when the same model and text begin to give other contexts."""


def fingerprint(weights: Path, data: str, seq_len: int, max_tokens: int) -> str:
    """Returns what identifies contexts.

    Args:
        weights: The file of the model's weights.
        data: The fingerprint of the training text.
        seq_len: Tokens of a sequence.
        max_tokens: Most tokens that are read.
    """
    parts = {"format": FORMAT, "top": TOP, "weights": sha256(weights), "data": data}
    parts |= {"seq_len": seq_len, "max_tokens": max_tokens}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def kept_or_found(folder: Path, identity: str, find: Callable[[], list[Contexts]]) -> list[Contexts]:
    """Returns the contexts in ``folder`` if they have this fingerprint and are undamaged; else finds and keeps them.

    A folder that cannot be written is told, and the contexts are returned all the same.
    """
    kept = _read(folder, identity)
    if kept is not None:
        return kept
    found = find()
    try:
        with replaced_folder(folder) as staged:
            tensors = {f"{bank}/{name}": t for bank, each in enumerate(found) for name, t in vars(each).items()}
            save_file(tensors, staged / TENSORS)
            summary = {"fingerprint": identity, "banks": len(found), "sha256": sha256(staged / TENSORS)}
            write_exact_json(staged / SUMMARY, summary)
    except (OSError, SafetensorError) as error:
        logger.warning("%s: cannot be written (%s), so the next inspection reads the text again", folder, error)
    return found


def _read(folder: Path, identity: str) -> list[Contexts] | None:
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if summary["fingerprint"] != identity:
            return None
        if summary["sha256"] != sha256(folder / TENSORS):
            raise ValueError(f"{TENSORS} is not as it was written")
        tensors = load_file(folder / TENSORS)
        names = Contexts.__dataclass_fields__
        return [Contexts(**{n: tensors[f"{bank}/{n}"] for n in names}) for bank in range(summary["banks"])]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        logger.warning("%s: is damaged (%s) and is made again", folder, error)
        return None
