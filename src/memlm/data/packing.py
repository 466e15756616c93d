"""Documents become one long row of token ids in a file, which is memory-mapped where it is read."""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from memlm.data.tokenizer import END, pieces

BATCH_BYTES = 1_000_000
"""Text encoded in one call; enough to keep all cores busy."""
CHUNK = 1 << 22


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split, each document followed by the end mark.

    Args:
        ids: Token ids [n_tokens], uint16 or uint32, read-only and memory-mapped.
        n_documents: Documents in them.
        n_bytes: UTF-8 bytes of the documents' text.
        fingerprint: The hash of the documents in their order, whatever the tokenizer.
    """

    ids: np.ndarray
    n_documents: int
    n_bytes: int
    fingerprint: str


class TokenWriter:
    """Encodes documents in batches and appends them to a file; a context manager.

    Args:
        path: The file to write.
        tokenizer: It must have the end mark.
        vocab_size: Decides the integers' width.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.n_documents = self.n_bytes = self.n_tokens = self.crc32 = 0
        self._tokenizer = tokenizer
        self._end = [tokenizer.token_to_id(END)]
        self._dtype = dtype(vocab_size)
        self._pieces: list[str] = []
        self._marks: list[list[Any]] = []
        self._waiting = 0
        self._text = hashlib.sha256()
        # A document may speak of the end mark; only the real end of a document is one.
        tokenizer.encode_special_tokens = True
        self._file = path.open("wb")

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._file.close()

    @property
    def fingerprint(self) -> str:
        """The hash of the documents so far, as `Tokens.fingerprint`."""
        return self._text.hexdigest()

    def add(self, text: str) -> None:
        """Appends a document."""
        self.n_documents += 1
        self._text.update(hashlib.sha256(text.encode()).digest())
        for piece in pieces(text):
            if self._waiting >= BATCH_BYTES:
                self._flush()
            n_bytes = len(piece.encode())
            self.n_bytes += n_bytes
            self._waiting += n_bytes
            self._pieces.append(piece)
            self._marks.append([])
        self._marks[-1] = self._end

    def _flush(self) -> None:
        encodings = self._tokenizer.encode_batch_fast(self._pieces, add_special_tokens=False)
        for encoding, mark in zip(encodings, self._marks, strict=True):
            ids = np.array(encoding.ids + mark, dtype=self._dtype)
            self.n_tokens += len(ids)
            content = ids.tobytes()
            self._file.write(content)
            self.crc32 = zlib.crc32(content, self.crc32)
        self._pieces, self._marks, self._waiting = [], [], 0


def dtype(vocab_size: int) -> np.dtype[Any]:
    """Returns the narrowest integers for a vocabulary; little-endian, so that a file reads the same everywhere."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def unigram_entropy(tokens: np.ndarray) -> float:
    """Returns the entropy in nats of how often each id occurs: the loss of a model that knows nothing else.

    Shapes:
        tokens: [n_tokens], at least one, of any integer type.
    """
    counts = np.zeros(0, dtype=np.int64)
    for start in range(0, len(tokens), CHUNK):
        found = np.bincount(tokens[start : start + CHUNK], minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    shares = counts[counts > 0] / len(tokens)
    return math.fsum(-shares * np.log(shares))
