"""Folders of prepared tokens: complete or not there at all, however many processes make them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memlm.data.packing import Tokens, TokenWriter, dtype
from memlm.data.split import SPLITS, Split
from memlm.storage import sha256

logger = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class TokenData:
    """A corpus as tokens.

    Args:
        train: What models learn from.
        validation: Held out for evaluation.
        judge: Held out for the n-gram judge of generated text.
        tokenizer: The tokenizer.json that belongs to the tokens.
        fingerprint: The same text and the same settings give the same one.
        tokenizer_fingerprint: The hash of the tokenizer's file.
        counts: ``<split>/documents``, ``/bytes`` and ``/tokens``, and ``dropped/<reason>`` for what was left out.
    """

    train: Tokens
    validation: Tokens
    judge: Tokens
    tokenizer: Path
    fingerprint: str
    tokenizer_fingerprint: str
    counts: dict[str, int]


def default_cache() -> Path:
    """Returns the folder in ``$MEMLM_CACHE``, or ``~/.cache/memlm``."""
    return Path(os.environ.get("MEMLM_CACHE") or Path.home() / ".cache" / "memlm")


def load(folder: Path) -> TokenData | None:
    """Returns the tokens in ``folder``, or None if there are none; what is damaged is removed, which is logged."""
    if not folder.exists():
        return None
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("the tokens in %s are damaged (%s) and are made again", folder, error)
        _remove(folder)
        return None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Lends a folder to fill, which becomes ``folder`` at the end, all at once.

    If another process was faster, its folder stays. An error leaves nothing behind.
    """
    building = _beside(folder)
    building.mkdir(parents=True)
    try:
        yield building
        try:
            building.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_summary(
    folder: Path, fingerprint: str, vocab_size: int, writers: Mapping[Split, TokenWriter], dropped: Counter[str]
) -> None:
    """Writes what `load` needs to know about the files in ``folder``."""
    counts: dict[str, int] = {}
    for split, writer in writers.items():
        counts[f"{split}/documents"] = writer.n_documents
        counts[f"{split}/bytes"] = writer.n_bytes
        counts[f"{split}/tokens"] = writer.n_tokens
    counts |= {f"dropped/{reason}": count for reason, count in sorted(dropped.items())}
    summary = {
        "fingerprint": fingerprint,
        "tokenizer_fingerprint": sha256(folder / TOKENIZER),
        "vocab_size": vocab_size,
        "counts": counts,
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def bin_path(folder: Path, split: Split) -> Path:
    """Returns the file of a split's token ids."""
    return folder / f"{split}.bin"


def _read(folder: Path) -> TokenData:
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    counts = {str(name): int(count) for name, count in summary["counts"].items()}
    tokenizer = folder / TOKENIZER
    if sha256(tokenizer) != summary["tokenizer_fingerprint"]:
        raise ValueError(f"{TOKENIZER} is not the one it was made with")
    train, validation, judge = (_tokens(folder, split, counts, summary["vocab_size"]) for split in SPLITS)
    return TokenData(
        train, validation, judge, tokenizer, summary["fingerprint"], summary["tokenizer_fingerprint"], counts
    )


def _tokens(folder: Path, split: Split, counts: dict[str, int], vocab_size: int) -> Tokens:
    path, kind, n_tokens = bin_path(folder, split), dtype(vocab_size), counts[f"{split}/tokens"]
    size = path.stat().st_size
    if size != n_tokens * kind.itemsize:
        raise ValueError(f"{path.name} has {size} bytes, not {n_tokens * kind.itemsize}")
    # An empty file cannot be memory-mapped.
    ids = np.memmap(path, kind, "r") if n_tokens else np.frombuffer(b"", kind)
    return Tokens(ids, counts[f"{split}/documents"], counts[f"{split}/bytes"])


def _remove(folder: Path) -> None:
    # It goes aside first, so that nobody meets half of it; somebody else may be doing the same.
    aside = _beside(folder)
    with suppress(OSError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _beside(folder: Path) -> Path:
    """Returns a hidden name next to ``folder`` that nobody else has."""
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
