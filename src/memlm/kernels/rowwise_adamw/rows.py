"""What a row-wise update is given: a gradient of few rows, and the numbers of AdamW's formula."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class RowGradient(NamedTuple):
    """The gradient of a table [S, D] for some of its rows.

    Attributes:
        rows: Which rows, all different, [capacity] int64.
        sums: Their gradient, [capacity, D] float32 or bfloat16.
        n_rows: How many of the list are meant; nothing is read from there on. [1] int32.
    """

    rows: Tensor
    sums: Tensor
    n_rows: Tensor


class Settings(NamedTuple):
    """The learning rate, the decay rates of the two moments, and what keeps the division sound."""

    lr: float
    beta1: float
    beta2: float
    eps: float
