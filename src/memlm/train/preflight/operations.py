"""Check of the memory's operations on the run's device, against formulas written without them."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import memlm.kernels
from memlm.kernels.fetch_rows import HotRows
from memlm.kernels.rowwise_adamw import RowGradient, Settings
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.selection import every_slot
from memlm.train.preflight.subject import Subject
from memlm.train.preflight.trace import distance

TOLERANCE = 1e-4
"""Sums of a few float32 terms agree to 1e-6; a wrong slot or a missing gradient is off by more than 0.1."""
TOLERANCE_16 = 0.02
"""For 16 bits, whose last digit is 2**-9 of a number: 0.002 off on an H100."""


class Case(NamedTuple):
    """A call of an operation.

    Attributes:
        arguments: What it is given.
        formula: Does the same.
        tolerance: How near the two must be.
        in_place: How many of its arguments, from the first on, it changes.
    """

    arguments: tuple[Any, ...]
    formula: Callable[..., Any]
    tolerance: float = TOLERANCE
    in_place: int = 0


def _product_key_select(draw: int) -> Case:
    generator = torch.Generator().manual_seed(draw)
    query, keys = torch.randn(15, 2, 2, 8, generator=generator), torch.randn(2, 2, 17, 8, generator=generator)
    if draw % 2:  # small integers tie often, and 16 bits hold them and their sums
        query, keys = query.round().bfloat16(), keys.round().bfloat16()

    def formula(query: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return every_slot(torch.einsum("nhpc,hpmc->nhpm", query.float(), keys.float()), k)

    return Case((query, keys, 6), formula, TOLERANCE if query.dtype == torch.float32 else TOLERANCE_16)


def _read_attention(draw: int) -> Case:
    generator = torch.Generator().manual_seed(draw)
    query, bias = torch.randn(13, 3, 20, generator=generator), torch.randn(13, 5, generator=generator)
    values = torch.randn(13, 5, 20, generator=generator)
    if draw % 2:
        query, values = query.bfloat16(), values.bfloat16()

    def formula(query: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
        query, values = query.float(), values.float()
        logits = torch.einsum("nhd,nrd->nhr", query, values) * scale + bias[:, None]
        return torch.einsum("nhr,nrd->nhd", logits.softmax(-1), values)

    return Case((query, values, bias, 0.3), formula, TOLERANCE if query.dtype == torch.float32 else TOLERANCE_16)


def _rows(draw: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a table, slots of it and weights; one row takes half of the reads, so that many chunks sum it."""
    generator = torch.Generator().manual_seed(draw)
    values, weights = torch.randn(11, 4, generator=generator), torch.randn(9, 5, 7, generator=generator)
    slots = torch.randint(22, (9, 5, 7), generator=generator)
    return values, torch.where(slots < 11, slots, 3), weights


def _weighted_lookup(draw: int) -> Case:
    return Case(_rows(draw), lambda values, slots, weights: (values[slots] * weights[..., None]).sum(-2))


def _gather_joined(draw: int) -> Case:
    values, slots, scales = _rows(draw)
    hidden = torch.randn(9, 5, 6, generator=torch.Generator().manual_seed(draw))

    def formula(hidden: Tensor, values: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        return torch.cat([hidden, (values[slots] * scales[..., None]).flatten(-2)], dim=-1)

    return Case((hidden, values, slots, scales), formula)


def _rowwise_adamw(draw: int) -> Case:
    generator = torch.Generator().manual_seed(draw)
    values, exp_avg, sums = torch.randn(3, 11, 6, generator=generator)
    gradient = RowGradient(torch.randperm(11, generator=generator), sums, torch.tensor([7], dtype=torch.int32))
    factor = math.nan if draw == 1 else 0.5
    step = torch.tensor(float(draw + 1))
    settings = Settings(0.01, 0.9, 0.95, 1e-8)
    if draw == 2:  # rounded at random, by less than the last digit
        values = values.bfloat16()

    def formula(values: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: RowGradient, *_: Any) -> None:
        lr, beta1, beta2, eps = settings
        for row, summed in zip(gradient.rows[:7], gradient.sums[:7] * factor, strict=True):
            if math.isfinite(factor):
                exp_avg[row] = beta1 * exp_avg[row] + (1 - beta1) * summed
                exp_avg_sq[row] = beta2 * exp_avg_sq[row] + (1 - beta2) * summed**2
                mean, square = exp_avg[row] / (1 - beta1 ** (draw + 1)), exp_avg_sq[row] / (1 - beta2 ** (draw + 1))
                values[row] -= lr * mean / (square.sqrt() + eps)

    arguments = (values, exp_avg, exp_avg.square(), gradient, step, torch.tensor(factor), settings)
    return Case(arguments, formula, TOLERANCE if values.dtype == torch.float32 else TOLERANCE_16, in_place=3)


def _fetch_rows(draw: int) -> Case:
    generator = torch.Generator().manual_seed(draw)
    source, slots = torch.randn(11, 6, generator=generator), torch.randint(11, (8,), generator=generator)
    slot_at, place_of = torch.tensor([7, 2, 9]), torch.full((11,), -1, dtype=torch.int32)
    place_of[slot_at] = torch.arange(3, dtype=torch.int32)
    table = torch.cat([source[slot_at], torch.zeros(8, 6)])

    def formula(hot: HotRows, source: Tensor, slots: Tensor) -> None:
        for read, slot in enumerate(slots.tolist()):
            is_hot = slot in (7, 2, 9)
            hot.counts[slot] += 1
            hot.tally.add_(torch.tensor([1, not is_hot], device=hot.tally.device))
            if not is_hot:
                hot.table[3 + read] = source[slot]

    hot = HotRows(table, slot_at, place_of, torch.zeros_like(place_of), torch.tensor([draw, 0]))
    return Case((hot, source, slots), formula, in_place=1)


CASES: dict[str, Callable[[int], Case]] = {
    "fetch_rows": _fetch_rows,
    "gather_joined": _gather_joined,
    "product_key_select": _product_key_select,
    "read_attention": _read_attention,
    "rowwise_adamw": _rowwise_adamw,
    "weighted_lookup": _weighted_lookup,
}
"""For each operation a case from a draw."""


def kernels(subject: Subject) -> list[Fault]:
    """Every operation and its reference give what the formula gives, gradients included."""
    faults = []
    for operation in (module.name for module in pkgutil.iter_modules(memlm.kernels.__path__) if module.ispkg):
        for where in (f"memlm.kernels.{operation}", f"memlm.kernels.{operation}.reference"):
            function = getattr(importlib.import_module(where), operation)
            cases = [CASES[operation](draw) for draw in range(4)]
            offs = [(_off(function, case, subject.device), case.tolerance) for case in cases]
            off = max((off for off, tolerance in offs if off > tolerance), default=0.0)
            if off:
                evidence = f"results or gradients on {subject.device} are off by up to {off:.2g} of the largest"
                faults.append(Fault("wrong_kernel", where, evidence, "compare it with the formula in its reference.py"))
    return faults


def _off(function: Callable[..., Any], case: Case, device: torch.device) -> float:
    """Returns how far results and gradients are from the formula's, as a share of the largest where that is above 1."""
    results = _changed if case.in_place else _results
    ours, theirs = (results(each, case, device) for each in (function, case.formula))
    pairs = zip(ours, theirs, strict=True)
    return max(distance(left, right) / max(1.0, right.abs().max().item()) for left, right in pairs)


def _results(function: Callable[..., Any], case: Case, device: torch.device) -> list[Tensor]:
    """Returns what a function returns, and the gradients of an uneven sum of it."""
    given = [_copied(argument, device) for argument in case.arguments]
    learning = [a.requires_grad_() for a in given if isinstance(a, Tensor) and a.is_floating_point()]
    result = function(*given)
    results: list[Tensor] = list(result) if isinstance(result, tuple) else [result]
    total = torch.zeros((), device=device)
    for part in results:
        if part.is_floating_point():
            total = total + (part * torch.linspace(-1, 2, part.numel(), device=device).view_as(part)).sum()
    return [part.detach() for part in (*results, *torch.autograd.grad(total, learning))]


def _changed(function: Callable[..., Any], case: Case, device: torch.device) -> list[Tensor]:
    """Returns what an operation in place makes of its arguments."""
    given = [_copied(argument, device) for argument in case.arguments]
    function(*given)
    changed = given[: case.in_place]
    return [tensor for each in changed for tensor in (each if isinstance(each, HotRows) else [each])]


def _copied(argument: Any, device: torch.device) -> Any:
    if isinstance(argument, (HotRows, RowGradient)):
        return type(argument)(*(tensor.clone().to(device) for tensor in argument))
    return argument.detach().clone().to(device) if isinstance(argument, Tensor) else argument
