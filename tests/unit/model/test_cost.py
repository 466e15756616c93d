"""Parameters and FLOPs, against formulas written down here."""

import pytest

from memlm.model.config import ExpertsConfig, ModelConfig
from memlm.model.cost import cost
from tests.tolerances import FLOPS

D, L, V, T, FF = 64, 3, 500, 32, 192
MEMORY = {"type": "product_key", "n_keys": 16, "d_key": 32, "d_value": 24, "top_k": 4, "n_heads": 2}
READS, ROUTER = 2 * 4, D * 2 * 32
KEYS = 2 * 2 * 16 * 16


def dense(feed_forward=3 * D * FF):
    """Multiply-adds of a token in all matrices, and in attention over the whole square."""
    return L * (4 * D * D + 2 * T * D + feed_forward) + D * V


FUSIONS = {
    "gated_mlp": 2 * (D + READS * 24) * D + D * D,
    "cross_attention": 2 * D * D + 2 * 24 * D + 2 * 8 * READS * 24,
    "weighted_sum": 2 * D * 24,
}


def test_a_dense_model():
    price = cost(ModelConfig(d_model=D, n_layers=L, n_heads=4), V, T)
    assert price.parameters == L * (4 * D * D + 3 * D * FF + 2 * D) + D + V * D
    assert price.active_parameters == price.parameters
    assert price.memory_parameters == 0
    assert price.flops_per_token == pytest.approx(2 * dense(), rel=FLOPS)
    assert price.bytes_per_token == 4 * price.parameters


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_memory_model(fusion):
    config = ModelConfig(d_model=D, n_layers=L, n_heads=4, memory=MEMORY, fusion={"type": fusion}, placement="parallel")
    price = cost(config, V, T)
    assert price.memory_parameters == 16 * 16 * 24
    assert price.parameters - price.active_parameters == 16 * 16 * 24 - L * READS * 24
    flops = 2 * (dense() + L * (ROUTER + KEYS + FUSIONS[fusion]))
    assert price.flops_per_token == pytest.approx(flops, rel=FLOPS)


def test_a_mixture_counts_the_experts_that_a_token_goes_through():
    config = ModelConfig(d_model=D, n_layers=L, n_heads=4, experts=ExpertsConfig(n_experts=8, top_k=2))
    price = cost(config, V, T)
    assert price.flops_per_token == pytest.approx(2 * dense(2 * 3 * D * FF + 8 * D), rel=FLOPS)
    assert price.parameters - price.active_parameters == L * 6 * 3 * D * FF
