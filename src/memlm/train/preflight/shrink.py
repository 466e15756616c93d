"""A copy of a model's configuration that is small enough to be tried in seconds and wired like the original."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from memlm.model.config import ModelConfig

MAX_LAYERS = 4
WIDTH = 32
"""Of the residual stream, if it suits; narrower models learn too slowly to be judged in a second."""


def shrunken(config: ModelConfig) -> ModelConfig:
    """Returns the small copy.

    Kept are the placement, what banks are shared, which layers have the memory (the first, the last, one with and one
    without it), grouped heads, experts, tied embeddings, and all that the memory and the fusion keep of themselves.
    The width is the smallest that suits all of them; where none does, the original's stays.
    """
    small = config.model_dump(exclude_unset=True) | _layers(config) | _heads(config) | _feed_forward(config)
    for width in _widths(config.d_model, small["n_heads"]):
        try:
            return ModelConfig.model_validate(small | {"d_model": width} | _wiring(config, width))
        except ValidationError:
            continue
    return config


def _layers(config: ModelConfig) -> dict[str, Any]:
    with_memory = config.memory_layers
    without = [layer for layer in range(config.n_layers) if layer not in with_memory]
    wanted = [0, config.n_layers - 1, *with_memory[:1], *without[:1], *with_memory[-1:]]
    wanted += [with_memory[len(with_memory) // 2]] if with_memory else []
    kept = sorted(list(dict.fromkeys(wanted))[:MAX_LAYERS])
    if config.layers == "all":
        return {"n_layers": len(kept)}
    return {"n_layers": len(kept), "layers": [index for index, layer in enumerate(kept) if layer in with_memory]}


def _wiring(config: ModelConfig, d_model: int) -> dict[str, Any]:
    """Returns the memory and the fusion; values are as wide as the fusion wants them, if it does."""
    if config.memory is None:
        return {}
    memory, fusion = config.memory.shrunken(), config.fusion.shrunken()
    width = fusion.width_of_values(d_model)
    if width is not None:
        memory = type(memory).model_validate(memory.model_dump(exclude_unset=True) | {"d_value": width})
    return {"memory": memory, "fusion": fusion}


def _heads(config: ModelConfig) -> dict[str, Any]:
    if config.n_kv_heads is None or config.n_kv_heads == config.n_heads:
        n_heads = min(config.n_heads, 2)
        return {"n_heads": n_heads} | ({} if config.n_kv_heads is None else {"n_kv_heads": n_heads})
    if config.n_kv_heads == 1:
        return {"n_heads": 2, "n_kv_heads": 1}
    return {"n_heads": 4, "n_kv_heads": 2}


def _feed_forward(config: ModelConfig) -> dict[str, Any]:
    small: dict[str, Any] = {}
    if config.d_ff is not None:
        small["d_ff"] = min(config.d_ff, 64)
    if config.experts is not None:
        most = {"n_experts": 4, "top_k": 2}
        experts = config.experts.model_dump(exclude_unset=True)
        small["experts"] = experts | {name: min(limit, getattr(config.experts, name)) for name, limit in most.items()}
    return small


def _widths(d_model: int, n_heads: int) -> Iterator[int]:
    step = 2 * n_heads
    return (width for width in range(step, max(d_model, WIDTH) + 1, step) if width >= WIDTH)
