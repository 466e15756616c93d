"""Everything that goes into and comes out of each module of a model, to find the first place where two runs differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memlm.bank.base import Bank

TOLERANCE = 1e-4
"""Largest difference of float32 results that count as equal, relative to 1 + their size.

100 sound models agree to 3e-6 by all paths; the nearest of the planted faults changes logits by more than 0.1.
"""

Pick = Callable[[Tensor], Tensor | None]
"""Cuts out of a tensor what is to be compared; None if it has no such part."""


@dataclass(frozen=True)
class Event:
    """What goes into a module, or what comes out of it.

    Attributes:
        module: Who is answerable: the module whose result it is, or the one that calls with these arguments.
        tensors: The tensors, in a fixed order.
    """

    module: str
    tensors: list[Tensor]


@dataclass(frozen=True)
class Difference:
    """The first place where two traces differ, and by how much their last results (the logits) do.

    Attributes:
        module: Who is answerable, as in `Event`.
        size: Largest difference of the logits.
        slots: Share of the slots read that differ, over all memory layers.
    """

    module: str
    size: float
    slots: float

    def __str__(self) -> str:
        return f"logits by up to {self.size:.2g}" + (f" and {self.slots:.0%} of the slots" if self.slots else "")


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Event]]:
    """Lends a list that fills with the events of every forward pass of ``model`` inside.

    What runs within a bank is left out: it encodes its entries in one pass, and finds them kept in the next.
    """
    events: list[Event] = []
    stack: list[str] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            events.append(Event(stack[-1] if stack else name, list(tensors_in((args, kwargs)))))
            stack.append(name)

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            stack.pop()
            events.append(Event(name, list(tensors_in(output))))

        return hook

    within = {inner for bank in model.modules() if isinstance(bank, Bank) for inner in bank.modules()}
    for path, module in model.named_modules():
        if module in within:
            continue
        name = path or "model"
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave(name)))
    try:
        yield events
    finally:
        for handle in handles:
            handle.remove()


def trace(model: nn.Module, *args: Any, **kwargs: Any) -> list[Event]:
    """Returns the events of one forward pass without gradient."""
    with torch.no_grad(), recorded(model) as events:
        model(*args, **kwargs)
    return events


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yields the tensors of nested tuples, mappings and dataclasses; modules (a bank) and caches are left out."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, (type, nn.Module)):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


def whole(tensor: Tensor) -> Tensor | None:
    """Picks all of a tensor."""
    return tensor


def part(batch: int, length: int, rows: slice, tokens: slice) -> Pick:
    """Picks ``rows`` and ``tokens`` of tensors [B, T, ...] or [B * T, ...]; others have no such part."""

    def pick(tensor: Tensor) -> Tensor | None:
        if tensor.shape[:2] == (batch, length):
            return tensor[rows, tokens]
        if tensor.shape[:1] == (batch * length,):
            return tensor.unflatten(0, (batch, length))[rows, tokens]
        return None

    return pick


def first_difference(ours: list[Event], theirs: list[Event], pick: Pick, pick_theirs: Pick) -> Difference | None:
    """Returns the first place where two traces of one model differ, or None if their logits and slots agree.

    Args:
        ours: A trace.
        theirs: The trace to compare with.
        pick: What of each tensor in ``ours`` is compared; tensors without such a part, or of another shape, are not.
        pick_theirs: The same for ``theirs``.
    """
    module, size, matters, reads, others = None, 0.0, False, 0, 0
    for mine, other in zip(ours, theirs, strict=False):
        for tensor, against in zip(mine.tensors, other.tensors, strict=False):
            left, right = pick(tensor), pick_theirs(against)
            if left is None or right is None or left.shape != right.shape:
                continue
            different, is_slots = differ(left, right), not left.is_floating_point() and left.ndim == 4  # [B, T, H, K]
            size = distance(left, right)
            module = mine.module if different and module is None else module
            matters = matters or (different and (is_slots or mine is ours[-1]))
            if is_slots:
                reads, others = reads + left.numel(), others + int((left != right).sum())
    return Difference(module, size, others / max(1, reads)) if module is not None and matters else None


def differ(left: Tensor, right: Tensor) -> bool:
    """Returns whether two tensors of one shape differ; NaN differs from everything."""
    if not left.is_floating_point():
        return not torch.equal(left, right)
    return not bool(((left - right).abs() <= TOLERANCE * (1 + right.abs())).all())


def distance(left: Tensor, right: Tensor) -> float:
    """Returns the largest difference of two tensors of one shape, infinity where one of them is no number."""
    found = (left.double() - right.double()).abs().max().item() if left.numel() else 0.0
    return found if math.isfinite(found) else math.inf
