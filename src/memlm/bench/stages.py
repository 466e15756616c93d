"""The stages of a memory layer, one function each: what is called, what it is compared with, and what it must move.

Bytes are the least that the device's memory has to move, each table's element counted once unless a read has to fetch
it again; operations are multiplications and additions. A new stage is a function and a line in `STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.bench.setting import TOLERANCES, Draw, Setting
from memlm.bench.shapes import Shape
from memlm.bench.timing import N_SETS, Call, largest_error, norm_error, worst
from memlm.fusion.cross_attention import CrossAttentionConfig
from memlm.kernels.choice import references
from memlm.kernels.gather_joined import gather_joined
from memlm.kernels.product_key_select import product_key_select
from memlm.kernels.product_key_select import reference as select_reference
from memlm.kernels.read_attention import read_attention
from memlm.kernels.rowwise_adamw import RowGradient, Settings, rowwise_adamw
from memlm.kernels.segments import CompactRows
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
        sample: A part of it in plain torch, in place of a reference that would take too long: compared, not timed.
        compared: What of a set's result is compared with the reference's; the result itself if not given.
        error: How far two compared tensors are apart.
        dtype: Of the result, if it is not the setting's.
        captured: Whether a GPU can replay it as a graph.
    """

    call: Call
    bytes: int
    flops: int
    reference: Call | None = None
    sample: Call | None = None
    compared: Callable[[Any, int], Sequence[Tensor]] = lambda result, _: (
        result if isinstance(result, tuple) else (result,)
    )
    error: Callable[[Tensor, Tensor], float] = largest_error
    dtype: torch.dtype | None = None
    captured: bool = True


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


def lookup_forward(shape: Shape, draw: Draw, dtype: torch.dtype = torch.float32) -> Stage:
    """The weighted sum of rows of a bank that is kept in ``dtype``; every read fetches its row."""
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


def lookup_backward_16(shape: Shape, draw: Draw) -> Stage:
    """The same with values and gradients of 16 bits and a compact gradient, a list written once, to its end."""
    values, slots, weights = _reads(shape, draw, draw.slots)
    values = values.bfloat16()
    grads = [draw.normal(shape.tokens, shape.d_value, dtype=values.dtype) for _ in range(N_SETS)]
    compact = [_compact(each, values) for each in slots]
    learning = [(rows.carrier, weight.requires_grad_()) for rows, weight in zip(compact, weights, strict=True)]
    unique = len(slots[0].unique())

    def forward(i: int) -> Tensor:
        return weighted_lookup(values, slots[i], weights[i], compact[i])

    return Stage(
        call=_backward(forward, learning, grads),
        reference=_plain(_backward(forward, learning, grads)),
        bytes=unique * _row(values) + _bytes(compact[0].carrier, grads[0], slots[0]) + 2 * _bytes(weights[0]),
        flops=2 * 2 * slots[0].numel() * shape.d_value,
        dtype=values.dtype,
    )


def rows_adamw(shape: Shape, draw: Draw, dtype: torch.dtype = torch.float32) -> Stage:
    """AdamW over the rows that were read: value and two moments read and written, gradient read.

    Values are of ``dtype``, in 16 bits rounded at random; moments and gradient are in float32.
    """
    table, slots, _ = _reads(shape, draw, draw.slots)
    state = table.to(dtype), torch.zeros_like(table), torch.zeros_like(table)
    rows = [each.unique() for each in slots]
    sums = draw.normal(max(map(len, rows)), shape.d_value, dtype=torch.float32)
    gradients = [
        RowGradient(F.pad(each, (0, len(sums) - len(each))), sums, each.new_full((1,), len(each), dtype=torch.int32))
        for each in rows
    ]
    numbers = torch.ones((), device=table.device), torch.ones((), device=table.device)

    settings = Settings(1e-3, 0.9, 0.95, 1e-8)

    def checked(i: int) -> tuple[Tensor, ...]:
        """Takes a first step with a few rows, in a small table of their values."""
        few = [state[0][rows[i][:1024]].clone(), *(torch.zeros_like(sums[:1024]) for _ in range(2))]
        count = torch.full_like(gradients[i].n_rows, len(few[0]))
        order = torch.arange(len(few[0]), device=sums.device)
        rowwise_adamw(few[0], few[1], few[2], RowGradient(order, sums[: len(order)], count), *numbers, settings)
        return tuple(few)

    return Stage(
        call=lambda i: rowwise_adamw(*state, gradients[i], *numbers, settings),
        sample=_plain(checked),
        compared=lambda result, i: result or checked(i),
        bytes=len(rows[0]) * (2 * _row(state[0]) + 5 * _row(sums)),
        flops=14 * len(rows[0]) * shape.d_value,
        dtype=dtype,
    )


def gather_forward(shape: Shape, draw: Draw) -> Stage:
    """The hidden state and the values read beside it, as the gated MLP takes them."""
    values, slots, weights = _reads(shape, draw, draw.slots)
    hidden = [draw.normal(shape.tokens, shape.d_model) for _ in range(N_SETS)]
    written = hidden[0].element_size() * shape.tokens * (shape.d_model + shape.n_reads * shape.d_value)
    return Stage(
        call=lambda i: gather_joined(hidden[i], values, slots[i], weights[i]),
        reference=_plain(lambda i: gather_joined(hidden[i], values, slots[i], weights[i])),
        bytes=_bytes(values, hidden[0], slots[0], weights[0]) + written,
        flops=slots[0].numel() * shape.d_value,
    )


def gather_backward(shape: Shape, draw: Draw) -> Stage:
    """The gradients of values and weights from that of what was gathered; the hidden state's is a part of it."""
    values, slots, weights = _reads(shape, draw, draw.slots)
    values.requires_grad_()
    hidden = draw.normal(shape.tokens, 0)
    grads = [draw.normal(shape.tokens, shape.n_reads * shape.d_value) for _ in range(N_SETS)]
    learning = [(values, weight.requires_grad_()) for weight in weights]

    def forward(i: int) -> Tensor:
        return gather_joined(hidden, values, slots[i], weights[i])

    return Stage(
        call=_backward(forward, learning, grads),
        reference=_plain(_backward(forward, learning, grads)),
        bytes=2 * _bytes(values) + _bytes(grads[0], slots[0]) + 2 * _bytes(weights[0]),
        flops=2 * 2 * slots[0].numel() * shape.d_value,
    )


def attention_forward(shape: Shape, draw: Draw) -> Stage:
    """Cross-attention of a token's heads over the values read for it."""
    queries, values, biases, _, scale = _attention(shape, draw)
    heads = queries[0].shape[1]
    return Stage(
        call=lambda i: read_attention(queries[i], values[i], biases[i], scale),
        reference=_plain(lambda i: read_attention(queries[i], values[i], biases[i], scale)),
        bytes=2 * _bytes(queries[0]) + _bytes(values[0], biases[0]),
        flops=2 * 2 * shape.tokens * heads * shape.n_reads * shape.d_value,
    )


def attention_backward(shape: Shape, draw: Draw) -> Stage:
    """Its gradients of queries, values and biases."""
    queries, values, biases, grads, scale = _attention(shape, draw)
    learning = [tuple(t.requires_grad_() for t in each) for each in zip(queries, values, biases, strict=True)]

    def forward(i: int) -> Tensor:
        return read_attention(queries[i], values[i], biases[i], scale)

    return Stage(
        call=_backward(forward, learning, grads),
        reference=_plain(_backward(forward, learning, grads)),
        bytes=3 * _bytes(queries[0]) + 2 * _bytes(values[0], biases[0]),
        flops=2 * 5 * shape.tokens * queries[0].shape[1] * shape.n_reads * shape.d_value,
    )


def dense_adamw(shape: Shape, draw: Draw) -> Stage:
    """Fused AdamW of torch over the whole table: parameter and two moments read and written, gradient read."""
    values = nn.Parameter(draw.normal(shape.n_slots, shape.d_value, dtype=torch.float32))
    values.grad = torch.ones_like(values)
    optimizer = torch.optim.AdamW([values], fused=True)
    return Stage(lambda _: optimizer.step(), bytes=7 * _bytes(values), flops=14 * values.numel(), captured=False)


STAGES: dict[str, Callable[[Shape, Draw], Stage]] = {
    "query projection": query_projection,
    "selection, forward": selection_forward,
    "selection, backward": selection_backward,
    "lookup, forward": lookup_forward,
    "lookup, forward, 16-bit values": partial(lookup_forward, dtype=torch.bfloat16),
    "lookup, backward": lookup_backward,
    "lookup, backward, Zipf": lookup_backward_zipf,
    "lookup, backward, 16-bit, compact": lookup_backward_16,
    "gather, forward": gather_forward,
    "gather, backward": gather_backward,
    "attention over reads, forward": attention_forward,
    "attention over reads, backward": attention_backward,
    "AdamW, rows read": rows_adamw,
    "AdamW, rows read, 16-bit values": partial(rows_adamw, dtype=torch.bfloat16),
    "AdamW, whole table": dense_adamw,
}
"""Every stage, in the order of a step."""
_FUSIONS = {"gather": "gated_mlp", "attention over reads": "cross_attention", "lookup": "weighted_sum"}


def of(shape: Shape) -> list[str]:
    """Returns the stages of a shape; those of fusions that it has not are left out."""
    return [name for name in STAGES if _FUSIONS.get(name.split(",")[0], "") in {"", *shape.fusions}]


def measure(name: str, shape: Shape, setting: Setting) -> dict[str, Any]:
    """Returns the row of a stage: its time, bytes and operations, and on a GPU the time of plain torch.

    A stage whose result is farther from plain torch's than the tolerance has no time.
    """
    stage = STAGES[name](shape, Draw(setting))
    row: dict[str, Any] = {"bytes": stage.bytes, "flops": stage.flops}
    compared = stage.reference or stage.sample
    if compared is not None:
        row["error"] = _error(stage, compared)
        if row["error"] > TOLERANCES[stage.dtype or setting.dtype]:
            return row | {"status": "wrong"}
    if stage.reference is not None and setting.on_gpu:  # elsewhere the stage itself runs in plain torch
        row["reference"] = setting.clock.time(stage.reference, n_sets=1).as_dict()
    return row | {"status": "ok", "time": setting.clock.time(stage.call, captured=stage.captured).as_dict()}


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


def _compact(slots: Tensor, values: Tensor) -> CompactRows:
    """Returns where the gradient goes if only rows that are read have one."""
    _, positions = slots.unique(return_inverse=True)
    capacity = min(slots.numel(), len(values))
    carrier = values.new_zeros(()).expand(capacity, values.shape[1]).requires_grad_()
    return CompactRows(carrier, positions.int())


def _attention(shape: Shape, draw: Draw) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], float]:
    """Returns sets of queries, values, biases and upstream gradients, and the scale of the products."""
    heads = CrossAttentionConfig.model_validate({"type": "cross_attention", **shape.fusions["cross_attention"]}).n_heads
    queries, grads = ([draw.normal(shape.tokens, heads, shape.d_value) for _ in range(N_SETS)] for _ in range(2))
    values = [draw.normal(shape.tokens, shape.n_reads, shape.d_value) for _ in range(N_SETS)]
    biases = [draw.weights(shape.tokens, shape.n_reads).log() for _ in range(N_SETS)]
    return queries, values, biases, grads, (shape.d_model // heads) ** -0.5


def _plain(call: Call) -> Call:
    """Returns the call as plain torch runs it."""

    def plain(i: int) -> Any:
        with references():
            return call(i)

    return plain


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
