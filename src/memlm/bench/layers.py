"""Whole layers, forward and forward with backward: the dense SwiGLU layer, memlm's wirings, and those of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memlm.bank.vectors import VectorBank
from memlm.bench.peers import PEERS
from memlm.bench.setting import TOLERANCES, Draw, Setting
from memlm.bench.shapes import PLAIN, Shape
from memlm.bench.timing import N_SETS, Call, norm_error, worst
from memlm.kernels.choice import references
from memlm.model.config import ModelConfig
from memlm.model.feed_forward import FeedForward
from memlm.train.optimizer import give_compact_gradient

DENSE = "dense FFN"
NARROW = {"16-bit values": 1, "16-bit values, float32 gradient": 2}
"""Values of 16 bits, and how many layers and micro-steps of a step add to their gradient: that of one alone has 16 bits
as well. The weighted sum, which their traffic decides, is measured with both."""
Layer = Callable[[Tensor], Tensor]


class MemoryLayer(nn.Module):
    """A memory, its bank and a fusion, as a block has them; the bank keeps its gradient as in training.

    Args:
        shape: The sizes.
        fusion: The fusion's type.
        values: One of `NARROW`; the bank is in float32 if not given.
    """

    def __init__(self, shape: Shape, fusion: str, values: str = "") -> None:
        super().__init__()
        settings = {"type": fusion, **shape.fusions[fusion]}
        config = ModelConfig.model_validate({"d_model": shape.d_model, "memory": shape.memory, "fusion": settings})
        self.memory = config.memory.build(shape.d_model)
        dtype = torch.bfloat16 if values in NARROW else None
        self.bank = VectorBank(config.memory.n_slots, config.memory.value_width, dtype)
        self.fusion = config.fusion.build(shape.d_model, shape.n_reads, shape.d_value)
        give_compact_gradient(self.bank, shape.tokens * shape.n_reads, parts=NARROW.get(values, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the update [B, T, D]."""
        return self.fusion(hidden, self.memory(hidden, self.bank))


class DenseLayer(nn.Module):
    """The feed-forward layer that a memory is measured against.

    Args:
        shape: The sizes.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.feed_forward = FeedForward(shape.d_model, shape.d_ff)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the update [B, T, D]."""
        return self.feed_forward(hidden)[0]


class Form(NamedTuple):
    """One row: a layer, and how it is run."""

    layer: str
    form: str


def forms(shape: Shape, setting: Setting) -> Iterator[Form]:
    """Yields the rows of a shape; compilation is for GPUs, since a processor's takes minutes and gains little."""
    compiled = ["compiled"] if setting.on_gpu else []
    for form in ("eager", *compiled):
        yield Form(DENSE, form)
    best = compiled[0] if compiled else "eager"
    for fusion in shape.fusions:
        yield Form(fusion, best)
        if setting.on_gpu:  # elsewhere the layer itself runs in plain torch
            yield Form(fusion, f"{best}, {PLAIN}")
        if fusion == "weighted_sum":
            yield from (Form(f"{fusion}, {values}", best) for values in NARROW)
    for peer in PEERS:
        yield Form(peer, "eager")


def measure(layer: str, form: str, shape: Shape, setting: Setting) -> dict[str, Any]:
    """Returns the row of a layer: both times, peak memory, and the error.

    A layer of memlm is compared with itself, neither compiled nor fast: output and the gradient of its input.
    """
    draw = Draw(setting)
    hidden = [draw.normal(1, shape.tokens, shape.d_model).requires_grad_() for _ in range(N_SETS)]
    grad = draw.normal(1, shape.tokens, shape.d_model)
    before = setting.start_peak()
    torch.manual_seed(0)
    with torch.device(setting.device):
        module = _build(layer, shape)
    if module is None:
        return {"status": "not installed"}
    row: dict[str, Any] = {}
    run = _compiled(module) if form.startswith("compiled") else module
    forward, both = _calls(run, module, hidden, grad, setting)
    with references() if form.endswith(PLAIN) else nullcontext():
        if layer not in PEERS:
            row["error"] = _error(run, module, hidden[0], grad, setting)
            if row["error"] > TOLERANCES[setting.dtype]:
                return row | {"status": "wrong"}
        setting.start_peak()
        captured = layer not in PEERS  # those may wait for the device
        row["forward"] = setting.clock.time(forward, captured=captured).as_dict()
        row["forward_backward"] = setting.clock.time(both, captured=captured).as_dict()
        row["peak_gib"] = setting.peak_gib(before)
    return row | {"status": "ok"}


def _build(layer: str, shape: Shape) -> nn.Module | None:
    if layer == DENSE:
        return DenseLayer(shape)
    if layer in PEERS:
        return PEERS[layer](shape)
    fusion, _, values = layer.partition(", ")
    return MemoryLayer(shape, fusion, values)


def _compiled(module: nn.Module) -> Layer:
    torch.compiler.reset()  # after a few modules of one class the compiler gives up
    return torch.compile(module, fullgraph=True, dynamic=False)


def _calls(
    run: Layer, module: nn.Module, hidden: Sequence[Tensor], grad: Tensor, setting: Setting
) -> tuple[Call, Call]:
    """Returns the forward pass, with all that it keeps for the backward pass, and the two together."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    compact = module.bank.compact if isinstance(module, MemoryLayer) else None
    if compact is not None:
        parameters = [*(p for p in parameters if p is not module.bank.values), compact.carrier]

    def forward(i: int) -> Tensor:
        if compact is not None:
            compact.clear()  # as after every step
        with setting.autocast():
            return run(hidden[i])

    def both(i: int) -> object:
        output = forward(i)
        return torch.autograd.grad(output, [hidden[i], *parameters], grad.to(output.dtype), allow_unused=True)

    return forward, both


def _error(run: Layer, module: nn.Module, hidden: Tensor, grad: Tensor, setting: Setting) -> float:
    found = _results(run, hidden, grad, setting, nullcontext())
    expected = _results(module, hidden, grad, setting, references())
    return worst([norm_error(a, b) for a, b in zip(found, expected, strict=True)])


def _results(
    run: Layer, hidden: Tensor, grad: Tensor, setting: Setting, kernels: AbstractContextManager[None]
) -> tuple[Tensor, Tensor]:
    with kernels:
        with setting.autocast():
            output = run(hidden)
        (gradient,) = torch.autograd.grad(output, hidden, grad.to(output.dtype))
    return output.detach(), gradient
