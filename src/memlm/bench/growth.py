"""How the cost of a weighted sum grows with slots and with reads: forward, backward and update of one layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from memlm.bench.layers import DENSE, DenseLayer, MemoryLayer
from memlm.bench.setting import Draw, Setting
from memlm.bench.shapes import Shape
from memlm.bench.timing import N_SETS, Call
from memlm.config.train import TrainConfig
from memlm.train.optimizer import build_optimizer
from memlm.train.updater import Updater

FUSION = "weighted_sum"


def points(shape: Shape) -> dict[str, Shape | None]:
    """Returns the layers to measure by name, None for the dense one: the growth of slots, then that of reads."""
    assert shape.growth is not None, "only a shape with growth is grown"
    growth = shape.growth
    base = replace(shape, fusions={FUSION: {}})
    grown = [replace(base, n_keys=n_keys) for n_keys in growth.n_keys]
    grown += [replace(base, n_keys=growth.fixed_keys, top_k=top_k) for top_k in growth.top_k]
    return {DENSE: None} | {f"{each.n_slots} slots, {each.n_reads} reads": each for each in grown}


def measure(name: str, shape: Shape, setting: Setting) -> dict[str, Any]:
    """Returns the row of a layer, uncompiled: the time of its step, its slots and reads, and its peak memory."""
    wanted = points(shape)[name]
    before = setting.start_peak()
    torch.manual_seed(0)
    with torch.device(setting.device):
        layer = DenseLayer(shape) if wanted is None else MemoryLayer(wanted, FUSION)
    row: dict[str, Any] = {} if wanted is None else {"slots": wanted.n_slots, "reads": wanted.n_reads}
    row["time"] = setting.clock.time(_step(layer, shape, setting)).as_dict()
    return row | {"status": "ok", "peak_gib": setting.peak_gib(before)}


def _step(layer: nn.Module, shape: Shape, setting: Setting) -> Call:
    draw = Draw(setting)
    hidden = [draw.normal(1, shape.tokens, shape.d_model) for _ in range(N_SETS)]
    grad = draw.normal(1, shape.tokens, shape.d_model)
    updater = Updater(build_optimizer(layer, TrainConfig(steps=1)), layer, clip=0)

    def step(i: int) -> None:
        with setting.autocast():
            output = layer(hidden[i])
        output.backward(grad.to(output.dtype))
        updater.step(updater.clip().isfinite())
        updater.clear()

    return step
