"""How many bytes each rank sends in a step for the sake of a bank, by the way in which it is sharded.

Collectives are counted as rings: a gather sends a part to every other rank, a sum over ranks goes round twice. By these
numbers columns were chosen (docs/scaling.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SLOT, NUMBER = 4, 4
"""Bytes of a slot's index, and of a weight, a value or a gradient in float32."""


@dataclass(frozen=True)
class Reading:
    """What the memory layers of a model read in a micro-step.

    Attributes:
        tokens: Tokens of one rank.
        layers: Memory layers, which share a bank.
        n_reads: Reads of a token in a layer, R.
        n_slots: Slots of the bank, S.
        d_value: Width of a value.
        is_summed: Whether the fusion takes the weighted sum of the rows; else it takes all of them.
        result_bytes: Bytes of a number that is read: 4, or 2 under bf16.
    """

    tokens: int
    layers: int
    n_reads: int
    n_slots: int
    d_value: int
    is_summed: bool = True
    result_bytes: int = 4


def whole(reading: Reading, ranks: int) -> float:
    """Every rank holds the bank: its gradient is summed over ranks, or the lists of the rows read are gathered."""
    summed = 2 * (ranks - 1) / ranks * reading.n_slots * reading.d_value * NUMBER
    listed = min(reading.layers * reading.tokens * reading.n_reads, reading.n_slots)
    return min(summed, (ranks - 1) * listed * (8 + reading.d_value * NUMBER))


def rows(reading: Reading, ranks: int) -> float:
    """Every rank holds some rows, and sends them to whom reads them; each row once to a rank, whatever reads it there.

    Reads are taken to be spread evenly, which makes their rows as many as they can be.
    """
    reads = reading.tokens * reading.n_reads
    distinct = -reading.n_slots * math.expm1(-reads / reading.n_slots)
    there_and_back = SLOT + 2 * reading.d_value * reading.result_bytes
    return reading.layers * distinct * (ranks - 1) / ranks * there_and_back


def columns(reading: Reading, ranks: int) -> float:
    """Every rank holds some columns: slots and weights are gathered, results and gradients exchanged (`ColumnBank`)."""
    reads = reading.tokens * reading.n_reads
    results = (reading.tokens if reading.is_summed else reads) * reading.d_value / ranks * reading.result_bytes
    return reading.layers * (ranks - 1) * (reads * (SLOT + 2 * NUMBER) + 2 * results)
