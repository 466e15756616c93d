"""The two controls of a memory model: reads are zeros, and rows are shuffled. The fusion runs in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from memlm.bank.base import Bank
from memlm.model.decoder import Decoder


@contextmanager
def memory_off(decoder: Decoder) -> Iterator[None]:
    """Every value read is zero inside."""
    with _replaced(decoder, lambda values: values.new_zeros(1, 1).expand_as(values)):
        yield


@contextmanager
def memory_shuffled(decoder: Decoder, seed: int = 0) -> Iterator[None]:
    """The rows of every bank are permuted inside, so that a slot leads to another slot's value.

    Args:
        decoder: The model.
        seed: Decides the permutation; the same for all variants by default.
    """

    def shuffle(values: Tensor) -> Tensor:
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
        return values[order.to(values.device)]

    with _replaced(decoder, shuffle):
        yield


@contextmanager
def _replaced(decoder: Decoder, replacement: Callable[[Tensor], Tensor]) -> Iterator[None]:
    with ExitStack() as stack:
        for bank in (module for module in decoder.modules() if isinstance(module, Bank)):
            stack.enter_context(bank.showing(replacement(bank.table())))
        yield
