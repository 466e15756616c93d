"""Losses by document: which document every evaluated token lies in, and the sums over each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DECIMALS = 3
"""Of a document's summed loss in nats; what rounding does to a mean over thousands of tokens cannot be seen."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """The documents that evaluated sequences lie in, in the order of the text; a document may be covered in part.

    Attributes:
        names: A hash of each document's tokens, 12 hex digits.
        tokens: How many evaluated tokens lie in each, [documents].
        places: Of every evaluated token, which of the documents it lies in: [sequences, tokens].
    """

    names: list[str]
    tokens: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, end: int, starts: np.ndarray, seq_len: int) -> Coverage:
        """Returns the coverage of the targets of sequences; a document's end mark belongs to it.

        Args:
            ids: The text, [n_tokens]; a memory map will do.
            end: The id of the end mark.
            starts: Where each sequence begins; its targets are the ``seq_len`` tokens after that.
            seq_len: Targets in a sequence.
        """
        ends = np.flatnonzero(ids == end)
        if not len(ends) or ends[-1] < len(ids) - 1:
            ends = np.append(ends, len(ids) - 1)
        numbers = np.searchsorted(ends, starts[:, None] + 1 + np.arange(seq_len))
        covered, places, tokens = np.unique(numbers, return_inverse=True, return_counts=True)
        begins = np.concatenate([[0], ends[:-1] + 1])
        names = [_name(ids[begins[number] : ends[number] + 1]) for number in covered]
        return cls(names, tokens, places.reshape(numbers.shape))

    def sums(self, losses: np.ndarray) -> list[float]:
        """Returns the sum of the losses [sequences, tokens] over each document, rounded."""
        sums = np.bincount(self.places.ravel(), losses.ravel(), minlength=len(self.names))
        return sums.round(DECIMALS).tolist()

    def as_record(self, losses: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns what ``documents.json`` holds: names, tokens and, by the result they add up to, summed losses."""
        sums = {metric: self.sums(values) for metric, values in losses.items()}
        return {"format": 1, "documents": self.names, "tokens": self.tokens.tolist(), "nats": sums}


def _name(ids: np.ndarray) -> str:
    return hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=6).hexdigest()
