"""Folders of prepared tokens: complete or not there at all, however many processes make them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memlm.data.packing import Tokens, TokenWriter, dtype
from memlm.data.source import SPLITS, Split
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
        tune: Held out for tuning; empty without `data.tune_share`.
        test: Held out for one last evaluation; no tokens if there is no such split.
        tokenizer: The tokenizer.json that belongs to the tokens.
        fingerprint: The same text and the same settings give the same one.
        tokenizer_fingerprint: The hash of the tokenizer's file.
        counts: ``<split>/documents``, ``/bytes`` and ``/tokens``, and ``dropped/<reason>`` for what was left out.
    """

    train: Tokens
    validation: Tokens
    judge: Tokens
    tune: Tokens
    test: Tokens
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
    except (OSError, ValueError, RecursionError) as error:
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
        "crc32": {split: writer.crc32 for split, writer in writers.items()},
        "text": {split: writer.fingerprint for split, writer in writers.items()},
    }
    (folder / SUMMARY).write_text(json.dumps(_sealed(summary), indent=2) + "\n", encoding="utf-8")


def bin_path(folder: Path, split: Split) -> Path:
    """Returns the file of a split's token ids."""
    return folder / f"{split}.bin"


def _read(folder: Path) -> TokenData:
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or summary != _sealed(summary):
        raise ValueError(f"{SUMMARY} is not as it was written")
    tokenizer = folder / TOKENIZER
    if sha256(tokenizer) != summary["tokenizer_fingerprint"]:
        raise ValueError(f"{TOKENIZER} is not the one it was made with")
    if "text" not in summary:
        raise ValueError("they are those of an older version")
    splits = {split: _tokens(folder, split, summary) for split in SPLITS}
    return TokenData(
        **splits,
        tokenizer=tokenizer,
        fingerprint=summary["fingerprint"],
        tokenizer_fingerprint=summary["tokenizer_fingerprint"],
        counts=summary["counts"],
    )


def _tokens(folder: Path, split: Split, summary: dict[str, Any]) -> Tokens:
    path, kind, counts = bin_path(folder, split), dtype(summary["vocab_size"]), summary["counts"]
    size, n_tokens = path.stat().st_size, counts[f"{split}/tokens"]
    if size != n_tokens * kind.itemsize:
        raise ValueError(f"{path.name} has {size} bytes, not {n_tokens * kind.itemsize}")
    # An empty file cannot be memory-mapped.
    ids = np.memmap(path, kind, "r") if n_tokens else np.frombuffer(b"", kind)
    # Against damage, not malice: ten times as fast as a cryptographic hash. A flipped bit may be no token at all.
    if zlib.crc32(ids.data) != summary["crc32"][split]:
        raise ValueError(f"{path.name} is not as it was written")
    return Tokens(ids, counts[f"{split}/documents"], counts[f"{split}/bytes"], summary["text"][split])


def _sealed(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the summary with the hash of all else in it."""
    rest = {name: value for name, value in summary.items() if name != "seal"}
    return rest | {"seal": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def _remove(folder: Path) -> None:
    # It goes aside first, so that nobody meets half of it; somebody else may be doing the same.
    aside = _beside(folder)
    with suppress(OSError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _beside(folder: Path) -> Path:
    """Returns a hidden name next to ``folder`` that nobody else has."""
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
