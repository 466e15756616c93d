"""Layers of other packages, at the sizes of ours as far as their interfaces go; absent where they are not installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import nn

from memlm.bench.shapes import Shape


def _lucidrains(shape: Shape) -> nn.Module | None:
    """Returns the layer of product-key-memory: values as wide as the model, since it projects nothing."""
    package: Any = _package("product_key_memory")
    if package is None:
        return None
    return package.PKM(
        shape.d_model, heads=shape.n_heads, num_keys=shape.n_keys, topk=shape.top_k, dim_head=shape.d_key // 2
    )


def _peer(shape: Shape) -> nn.Module | None:
    """Returns the layer of PEER-pytorch: two tables as wide as the model, softmax over the reads of a head."""
    package: Any = _package("PEER_pytorch")
    if package is None:
        return None
    return package.PEER(
        shape.d_model,
        heads=shape.n_heads,
        num_experts=shape.n_slots,
        num_experts_per_head=shape.top_k,
        dim_key=shape.d_key // 2,
        non_competing_scores=False,
    )


PEERS: dict[str, Callable[[Shape], nn.Module | None]] = {"product-key-memory": _lucidrains, "PEER-pytorch": _peer}
"""Other people's layers, by the name of their package; None for one that is not installed."""


def _package(name: str) -> object | None:
    return None if importlib.util.find_spec(name) is None else importlib.import_module(name)
