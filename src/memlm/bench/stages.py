"""The stages of a memory layer, one function each: what is called, what it is compared with, and what it must move.

Bytes are the least that the device's memory has to move, each table's element counted once unless a read has to fetch
it again; operations are multiplications and additions. A new stage is a function and a line in `STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.bench.setting import TOLERANCES, Draw, Setting
from memlm.bench.shapes import Shape
from memlm.bench.timing import N_SETS, Call, largest_error, norm_error, worst
from memlm.kernels.product_key_select import product_key_select
from memlm.kernels.product_key_select import reference as select_reference
from memlm.kernels.weighted_lookup import reference as lookup_reference
from memlm.kernels.weighted_lookup import weighted_lookup


@dataclass(frozen=True)
class Stage:
    """One stage on `N_SETS` sets of inputs.

    Attributes:
        call: Runs it on the inputs of the given set.
        bytes: Least traffic of a call.
        flops: Operations of a call.
        reference: The same in plain torch; None where torch's own operation is what is timed.
        compared: What of a set's result is compared with the reference's; the result itself if not given.
        error: How far two compared tensors are apart.
        dtype: Of the result, if it is not the setting's.
    """

    call: Call
    bytes: int
    flops: int
    reference: Call | None = None
    compared: Callable[[Any, int], Sequence[Tensor]] = lambda result, _: (
        result if isinstance(result, tuple) else (result,)
    )
    error: Callable[[Tensor, Tensor], float] = largest_error
    dtype: torch.dtype | None = None


def query_projection(shape: Shape, draw: Draw) -> Stage:
    """The linear layer from hidden states to queries."""
    hidden = [draw.normal(shape.tokens, shape.d_model) for _ in range(N_SETS)]
    weight = draw.normal(shape.n_heads * shape.d_key, shape.d_model)
    out = shape.tokens * shape.n_heads * shape.d_key
    return Stage(
        call=lambda i: F.linear(hidden[i], weight),
        bytes=_bytes(hidden[0], weight) + out * weight.element_size(),
        flops=2 * out * shape.d_model,
    )


def selection_forward(shape: Shape, draw: Draw) -> Stage:
    """From queries and half keys to slots and scores."""
    queries, keys = _addresses(shape, draw)
    half, reads = shape.d_key // 2, shape.tokens * shape.n_reads

    def compared(result: tuple[Tensor, Tensor], i: int) -> tuple[Tensor, Tensor]:
        """Returns the scores, and the products with the keys of the slots: near ties may fall either way."""
        slots, scores = result
        return scores, _slot_scores(queries[i], keys, slots)

    return Stage(
        call=lambda i: product_key_select(queries[i], keys, shape.top_k),
        reference=lambda i: select_reference.product_key_select(queries[i], keys, shape.top_k),
        bytes=_bytes(queries[0], keys) + reads * (8 + 4),
        flops=2 * shape.tokens * shape.n_heads * 2 * half * shape.n_keys,
        compared=compared,
    )


def selection_backward(shape: Shape, draw: Draw) -> Stage:
    """From the gradient of scores to those of queries and keys; operations of the chosen half keys alone."""
    queries, keys = _addresses(shape, draw)
    grads = [draw.normal(shape.tokens, shape.n_heads, shape.top_k, dtype=torch.float32) for _ in range(N_SETS)]
    learning = [(query.requires_grad_(), keys.requires_grad_()) for query in queries]
    reads = shape.tokens * shape.n_reads
    return Stage(
        call=_backward(lambda i: product_key_select(*learning[i], shape.top_k)[1], learning, grads),
        reference=_backward(
            lambda i: select_reference.product_key_select(*learning[i], shape.top_k)[1], learning, grads
        ),
        bytes=2 * _bytes(queries[0], keys) + reads * (8 + 4),
        flops=2 * 2 * reads * shape.d_key,
        error=norm_error,  # a read that ties with the next moves its whole gradient
    )


def lookup_forward(shape: Shape, draw: Draw) -> Stage:
    """The weighted sum of rows of a bank as it is kept, in float32; every read fetches its row."""
    return _lookup_forward(shape, draw, torch.float32)


def lookup_forward_16(shape: Shape, draw: Draw) -> Stage:
    """The same with values of 16 bits, half of the bytes."""
    return _lookup_forward(shape, draw, torch.bfloat16)


def _lookup_forward(shape: Shape, draw: Draw, dtype: torch.dtype) -> Stage:
    values, slots, weights = _reads(shape, draw, draw.slots)
    values = values.to(dtype)
    return Stage(
        call=lambda i: weighted_lookup(values, slots[i], weights[i]),
        reference=lambda i: lookup_reference.weighted_lookup(values, slots[i], weights[i]),
        bytes=_read_bytes(shape, values) + _bytes(slots[0], weights[0]) + shape.tokens * _row(values),
        flops=2 * slots[0].numel() * shape.d_value,
        dtype=dtype,
    )


def lookup_backward(shape: Shape, draw: Draw) -> Stage:
    """The gradients of values (the whole table, written once) and weights; rows drawn evenly."""
    return _lookup_backward(shape, draw, draw.slots)


def lookup_backward_zipf(shape: Shape, draw: Draw) -> Stage:
    """The same, with rows whose frequency falls with their rank."""
    return _lookup_backward(shape, draw, draw.zipf_slots)


def _lookup_backward(shape: Shape, draw: Draw, pick: Callable[..., Tensor]) -> Stage:
    values, slots, weights = _reads(shape, draw, pick)
    values.requires_grad_()
    grads = [draw.normal(shape.tokens, shape.d_value, dtype=values.dtype) for _ in range(N_SETS)]
    learning = [(values, weight.requires_grad_()) for weight in weights]
    unique = slots[0].unique().numel()
    return Stage(
        call=_backward(lambda i: weighted_lookup(values, slots[i], weights[i]), learning, grads),
        reference=_backward(lambda i: lookup_reference.weighted_lookup(values, slots[i], weights[i]), learning, grads),
        bytes=unique * _row(values) + _bytes(values, grads[0], slots[0]) + 2 * _bytes(weights[0]),
        flops=2 * 2 * slots[0].numel() * shape.d_value,
    )


def dense_adamw(shape: Shape, draw: Draw) -> Stage:
    """Fused AdamW of torch over the whole table: parameter and two moments read and written, gradient read."""
    values = nn.Parameter(draw.normal(shape.n_slots, shape.d_value, dtype=torch.float32))
    values.grad = torch.ones_like(values)
    optimizer = torch.optim.AdamW([values], fused=True)
    return Stage(call=lambda _: optimizer.step(), bytes=7 * _bytes(values), flops=14 * values.numel())


STAGES: dict[str, Callable[[Shape, Draw], Stage]] = {
    "query projection": query_projection,
    "selection, forward": selection_forward,
    "selection, backward": selection_backward,
    "lookup, forward": lookup_forward,
    "lookup, forward, 16-bit values": lookup_forward_16,
    "lookup, backward": lookup_backward,
    "lookup, backward, Zipf": lookup_backward_zipf,
    "AdamW, whole table": dense_adamw,
}
"""Every stage, in the order of a step."""


def measure(name: str, shape: Shape, setting: Setting) -> dict[str, Any]:
    """Returns the row of a stage: its time, bytes and operations, and the time of plain torch.

    A stage whose result is farther from plain torch's than the tolerance has no time.
    """
    stage = STAGES[name](shape, Draw(setting))
    row: dict[str, Any] = {"bytes": stage.bytes, "flops": stage.flops}
    if stage.reference is not None:
        row["error"] = _error(stage, stage.reference)
        if row["error"] > TOLERANCES[stage.dtype or setting.dtype]:
            return row | {"status": "wrong"}
        row["reference"] = setting.clock.time(stage.reference, n_sets=1).as_dict()
    return row | {"status": "ok", "time": setting.clock.time(stage.call).as_dict()}


def _error(stage: Stage, reference: Call) -> float:
    found, expected = (stage.compared(call(0), 0) for call in (stage.call, reference))
    return worst([stage.error(a, b) for a, b in zip(found, expected, strict=True)])


def _addresses(shape: Shape, draw: Draw) -> tuple[list[Tensor], Tensor]:
    half = shape.d_key // 2
    queries = [draw.normal(shape.tokens, shape.n_heads, 2, half) * half**-0.5 for _ in range(N_SETS)]
    return queries, draw.normal(shape.n_heads, 2, shape.n_keys, half)


def _reads(shape: Shape, draw: Draw, pick: Callable[..., Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Returns a table as a bank keeps it, in float32, and sets of slots and weights."""
    values = draw.normal(shape.n_slots, shape.d_value, dtype=torch.float32)
    slots = [pick(shape.n_slots, shape.tokens, shape.n_reads) for _ in range(N_SETS)]
    return values, slots, [draw.weights(shape.tokens, shape.n_reads) for _ in range(N_SETS)]


def _slot_scores(query: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
    """Returns the sums of products [N, H, K] that belong to ``slots``, head by head to spare memory."""
    n_keys = keys.shape[2]
    scores = [
        (query[:, head].float()[:, :, None] * half_keys).sum(-1).sum(1)
        for head in range(keys.shape[0])
        for half_keys in [_picked(keys[head].float(), slots[:, head], n_keys)]
    ]
    return torch.stack(scores, dim=1)


def _picked(keys: Tensor, slots: Tensor, n_keys: int) -> Tensor:
    """Returns the half keys [N, 2, K, C] of ``slots`` [N, K]."""
    return torch.stack([keys[0][slots // n_keys], keys[1][slots % n_keys]], dim=1)


def _backward(
    forward: Callable[[int], Tensor], learning: Sequence[tuple[Tensor, ...]], grads: Sequence[Tensor]
) -> Call:
    """Returns the call that runs the backward pass alone; the first call on a set of inputs runs its forward pass."""
    outputs = cache(forward)
    return lambda i: torch.autograd.grad(outputs(i), learning[i], grads[i], retain_graph=True)


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _row(values: Tensor) -> int:
    return values.shape[1] * values.element_size()


def _read_bytes(shape: Shape, values: Tensor) -> int:
    return shape.tokens * shape.n_reads * _row(values)
