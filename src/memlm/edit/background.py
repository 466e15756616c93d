"""Text that an edit must leave as it is: which rows it reads, and which of it reads some rows most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memlm.edit.rows import VectorRows
from memlm.model.decoder import Decoder

TOKENS = 65_536
"""Most tokens of the training text that a background is made of."""
BATCH = 64
"""Sequences in one forward pass."""


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Returns token ids as [B, T], filled up on the right, where a causal model does not look, and which are real."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in sequences])
    lengths = torch.tensor([len(ids) for ids in sequences])
    return ids, torch.arange(width) < lengths[:, None]


class Background:
    """Sequences and the rows that they read, by the base model.

    Args:
        decoder: The model, in eval mode.
        sequences: Token ids, a list for each sequence.
    """

    def __init__(self, decoder: Decoder, sequences: Sequence[Sequence[int]]) -> None:
        self._decoder, self._rows = decoder, VectorRows(decoder)
        self.sequences: list[Sequence[int]] = []
        self._reader = torch.empty(0, dtype=torch.int64)  # sequence and row of each pair of the two
        self._row = torch.empty(0, dtype=torch.int64)
        self.frequency = torch.zeros(len(self._rows), dtype=torch.int64)
        """In how many sequences each row is read, [rows]."""
        for start in range(0, len(sequences), BATCH):
            self.add(sequences[start : start + BATCH])

    def add(self, sequences: Sequence[Sequence[int]]) -> None:
        """Adds text, such as that of an edit, which later edits are to leave alone."""
        readers, rows = [], []
        for number, counts in enumerate(read_counts(self._decoder, self._rows, sequences), len(self.sequences)):
            read = counts.nonzero()[:, 0]
            rows.append(read)
            readers.append(torch.full_like(read, number))
            self.frequency[read] += 1
        self._reader, self._row = torch.cat([self._reader, *readers]), torch.cat([self._row, *rows])
        self.sequences += sequences

    def nearest(self, rows: Tensor, n: int) -> list[Sequence[int]]:
        """Returns up to ``n`` sequences that read the most of ``rows`` [N]."""
        shared = torch.bincount(self._reader[torch.isin(self._row, rows)], minlength=len(self.sequences))
        return [self.sequences[i] for i in shared.argsort(descending=True, stable=True)[:n].tolist()]


@torch.inference_mode()
def read_counts(decoder: Decoder, rows: VectorRows, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Returns how often each sequence reads each row, a list of [rows] on the CPU."""
    ids, is_real = padded(sequences)
    device = decoder.embedding.weight.device
    read = rows.of(decoder(ids.to(device)).reads).cpu()  # [B, T, R]
    return [torch.bincount(each[real].flatten(), minlength=len(rows)) for each, real in zip(read, is_real, strict=True)]
