"""Text that an edit must leave as it is: which rows it reads, how much, and which of it reads some rows most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from memlm.edit.rows import VectorRows
from memlm.model.decoder import Decoder

TOKENS = 262_144
"""Most tokens of the training text that a background is made of."""
BATCH = 64
"""Sequences in one forward pass."""
READING = "reading text to spare"
"""What a background does when it is made, for bars."""

Progress = Callable[[str, int, int], None]
"""Is told what is being done, and how many of how many are."""


def untold(_stage: str, _done: int, _total: int) -> None:
    """A `Progress` that nobody watches."""


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Returns token ids as [B, T], filled up on the right, where a causal model does not look, and which are real."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in sequences])
    lengths = torch.tensor([len(ids) for ids in sequences])
    return ids, torch.arange(width) < lengths[:, None]


class _Reads(NamedTuple):
    """What memory layers read at some tokens, N reads of R rows each, on the model's device.

    Attributes:
        rows: [N, R] int64.
        weights: [N, R].
        sequence: The number of the sequence that each stands in, [N] int64.
    """

    rows: Tensor
    weights: Tensor
    sequence: Tensor


class Background:
    """Sequences and what they read, by the base model, for edits of it.

    Args:
        decoder: The model, in eval mode.
        sequences: Token ids, a list for each sequence.
        progress: Is told how many sequences are read.

    Raises:
        EditError: the model has no bank of vectors, or its values cannot be edited.
    """

    def __init__(self, decoder: Decoder, sequences: Sequence[Sequence[int]], progress: Progress = untold) -> None:
        self._decoder, self._rows = decoder, VectorRows(decoder)
        self._rows.require_exact()
        self.sequences: list[Sequence[int]] = []
        self._reads: list[_Reads] = []
        self.frequency = torch.zeros(len(self._rows), dtype=torch.int64, device=decoder.embedding.weight.device)
        """In how many sequences each row is read, [rows]."""
        for start in range(0, len(sequences), BATCH):
            self.add(sequences[start : start + BATCH])
            progress(READING, len(self.sequences), len(sequences))

    @torch.inference_mode()
    def add(self, sequences: Sequence[Sequence[int]], times: float = 1.0) -> None:
        """Adds text, such as that of an edit, which later edits are to leave alone; it counts ``times`` as much."""
        ids, is_real = (tensor.to(self.frequency.device) for tensor in padded(sequences))
        sequence = is_real.nonzero()[:, 0] + len(self.sequences)
        layers = self._decoder(ids).reads
        for layer, read in layers.items():
            rows = self._rows.of({layer: read})[is_real]
            weights = read.weights.flatten(2)[is_real].float() * times**0.5
            self._reads.append(_Reads(rows, weights, sequence))
        pairs = torch.cat(
            [(r.sequence[:, None] * len(self._rows) + r.rows).flatten() for r in self._reads[-len(layers) :]]
        )
        self.frequency += torch.bincount(pairs.unique() % len(self._rows), minlength=len(self._rows))
        self.sequences += sequences

    def nearest(self, rows: Tensor, n: int) -> list[Sequence[int]]:
        """Returns up to ``n`` sequences that read the most of ``rows`` [N]."""
        read, place = self._reads_of(rows)
        is_own = place >= 0
        pairs = (read.sequence[:, None] * len(rows) + place)[is_own].unique()
        shared = torch.bincount(pairs // len(rows), minlength=len(self.sequences))
        return [self.sequences[i] for i in shared.argsort(descending=True, stable=True)[:n].tolist()]

    def overlap(self, rows: Tensor) -> Tensor:
        """Returns how much is read of each two of ``rows`` [N] together: the sum of w w^T over all tokens, [N, N].

        For a change D of the rows, [N, width], the squares of what it changes in what is read sum to trace(D^T C D).
        """
        read, place = self._reads_of(rows)
        place = torch.where(place < 0, len(rows), place)
        weights = read.weights.new_zeros(len(place), len(rows) + 1).scatter_add_(1, place, read.weights)[:, :-1]
        return weights.T @ weights

    def _reads_of(self, rows: Tensor) -> tuple[_Reads, Tensor]:
        """Returns the reads of any of ``rows``, and the place of each of their rows in these, -1 for others, [N, R]."""
        self._reads = [_Reads(*(torch.cat(parts) for parts in zip(*self._reads, strict=True)))]
        places = torch.full((len(self._rows),), -1, device=self.frequency.device)
        places[rows.to(places.device)] = torch.arange(len(rows), device=places.device)
        place = places[self._reads[0].rows]
        some = (place >= 0).any(1)
        return _Reads(*(part[some] for part in self._reads[0])), place[some]
