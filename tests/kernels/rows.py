"""Inputs of the operations that read rows, and what they must give, by formulas in float64."""

from typing import NamedTuple

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}
"""Of a result's largest number: float32 sums of up to some hundred terms, and one cut of a result to bfloat16."""

SIZES = [  # tokens, R, d, S
    (21, 3, 20, 50),
    (5, 8, 128, 60),
    (4, 64, 5, 9),
    (1, 1, 1, 1),
    (9, 2, 200, 100),
]


class Reads(NamedTuple):
    """A table, rows of it that are read with weights, and an upstream gradient for each token."""

    values: Tensor
    slots: Tensor
    weights: Tensor
    grad: Tensor


def draw(tokens, reads, width, n_slots, dtype=torch.float32, traffic="even", wide=False) -> Reads:
    """Returns reads by ``traffic``: even, zipf, hot (half on one row) or one (all); ``wide`` gives each read its own
    gradient."""
    generator = torch.Generator().manual_seed(tokens * reads + width)
    shape = (tokens, reads)
    chance = {"even": torch.ones(n_slots), "zipf": 1 / torch.arange(1.0, n_slots + 1)}.get(traffic, torch.ones(n_slots))
    slots = torch.multinomial(chance, tokens * reads, replacement=True, generator=generator).view(shape)
    share = {"hot": 0.5, "one": 1.0}.get(traffic, 0.0)
    slots = torch.where(torch.rand(shape, generator=generator) < share, n_slots // 2, slots)
    values = torch.randn(n_slots, width, generator=generator).to(dtype)
    grad = torch.randn(tokens, reads * width if wide else width, generator=generator).to(dtype)
    weights = torch.randn(shape, generator=generator)
    return Reads(*(tensor.to(DEVICE) for tensor in (values, slots, weights, grad)))


def exact(reads: Reads) -> tuple[Tensor, Tensor]:
    """Returns the gradients of values and weights in float64."""
    values, weights = (tensor.double().requires_grad_() for tensor in (reads.values, reads.weights))
    rows = values[reads.slots] * weights[..., None]  # [N, R, d]
    wide = reads.grad.shape[1] != values.shape[1] or rows.shape[1] == 1
    result = rows.flatten(1) if wide else rows.sum(1)
    return torch.autograd.grad(result, (values, weights), reads.grad.double())


def assert_near(found: Tensor, right: Tensor) -> None:
    """The largest difference is a share of the largest number, by the dtype of what was found."""
    assert torch.isfinite(found).all()
    off = (found.double() - right).abs().max().item()
    assert off <= TOLERANCE[found.dtype] * max(1.0, right.abs().max().item()), off
