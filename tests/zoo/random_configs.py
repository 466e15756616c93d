"""Random valid configurations: every one is sound, so the preflight must say nothing about it."""

import random

from memlm.config.train import TrainConfig
from memlm.model.config import ModelConfig
from memlm.registry import FUSIONS, MEMORIES


def random_config(seed: int) -> tuple[ModelConfig, TrainConfig]:
    """Returns a model and how it is trained; ``seed`` decides all of it."""
    draw = random.Random(seed)
    n_heads = draw.choice([1, 2, 4, 8])
    n_layers = draw.randint(1, 12)
    model = {
        "n_heads": n_heads,
        "n_kv_heads": draw.choice([None, *(n for n in (1, 2, 4, 8) if n_heads % n == 0)]),
        "d_model": n_heads * draw.choice([8, 16, 32, 64]),
        "n_layers": n_layers,
        "rope_theta": draw.choice([1e4, 1e6]),
        "norm_eps": draw.choice([1e-6, 1e-5]),
        "init_std": draw.choice([0.01, 0.02, 0.05]),
        "tie_embeddings": draw.random() < 0.5,
    }
    feed_forward = {"d_ff": draw.choice([None, 48, 344]), "experts": draw.choice([None, _experts(draw)])}
    wiring = draw.random() < 0.85
    if wiring:
        model |= _wiring(draw, n_layers, model["d_model"])
    if not (wiring and model["placement"] == "replace" and model["layers"] in ("all", list(range(n_layers)))):
        model |= feed_forward
    given = {name: value for name, value in model.items() if value is not None}
    train = TrainConfig(
        steps=draw.randint(1, 10**4),
        lr=10 ** draw.uniform(-5, -1),
        value_lr=draw.choice([None, 0.1]),
        accumulation=draw.choice([1, 8]),
        weight_decay=draw.choice([0, 0.1]),
        clip=draw.choice([0, 1.0]),
        train_values_epochs=draw.choice([None, 1]),
    )
    return ModelConfig.model_validate(given), train


def _experts(draw: random.Random) -> dict[str, float]:
    n_experts = draw.choice([2, 4, 8])
    return {
        "n_experts": n_experts,
        "top_k": draw.randint(1, min(3, n_experts)),
        "balance_weight": draw.choice([0, 0.01]),
    }


def _wiring(draw: random.Random, n_layers: int, d_model: int) -> dict[str, object]:
    layers = sorted(draw.sample(range(n_layers), draw.randint(1, n_layers)))
    memory, fusion = _memory(draw), {"type": draw.choice(FUSIONS.names())}
    width = FUSIONS.get(fusion["type"]).model_validate(fusion).width_of_values(d_model)
    return {
        "memory": memory | ({"d_value": width} if width else {}),
        "fusion": fusion,
        "placement": draw.choice(["replace", "parallel"]),
        "layers": draw.choice(["all", layers]),
        "shared_bank": draw.random() < 0.5,
    }


def _memory(draw: random.Random) -> dict[str, object]:
    name = draw.choice(MEMORIES.names())
    if not name.startswith("product_key"):
        return {"type": name}
    n_keys = draw.choice([2, 3, 16, 64])
    return {
        "type": name,
        "n_keys": n_keys,
        "n_heads": draw.choice([1, 2, 4]),
        "top_k": draw.randint(2, min(n_keys, 16)),
        "d_key": draw.choice([2, 16, 128]),
        "d_value": draw.choice([1, 16, 256]),
        "query_norm": draw.random() < 0.7 and name != "product_key_batch_norm",
        "key_norm": draw.random() < 0.7,
    }
