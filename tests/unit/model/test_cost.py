"""Parameters and FLOPs, against formulas written down here."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from memlm.model.config import ExpertsConfig, ModelConfig
from memlm.model.cost import cost
from memlm.model.decoder import Decoder
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
    "weighted_sum": 2 * D * 24 + READS * 24,
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


@pytest.mark.parametrize("shape", [{}, {"n_kv_heads": 1}, {"d_ff": 100, "n_layers": 5}, {"tie_embeddings": False}])
def test_the_closed_form_of_a_dense_model(shape):
    """Kaplan et al. 2020 (arXiv:2001.08361, table 1): 2 FLOPs for each weight of a matrix, and 4 T D for attention."""
    config = ModelConfig.model_validate({"d_model": D, "n_layers": L, "n_heads": 4} | shape)
    heads = 2 + 2 * (config.n_kv_heads or 4) / 4
    weights = config.n_layers * (heads * D * D + 3 * D * config.feed_forward_width) + D * V
    attention = 4 * T * D * config.n_layers
    assert cost(config, V, T).flops_per_token == pytest.approx(2 * weights + attention, rel=1e-9)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_tracing_on_meta_counts_what_a_real_pass_does(fusion):
    config = ModelConfig(d_model=D, n_layers=L, n_heads=4, memory=MEMORY, fusion={"type": fusion})
    model, counter = Decoder(config, V), FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the counter does not know the CPU's own
        model.logits(model(torch.zeros(1, T, dtype=torch.long)).hidden)
    assert cost(config, V, T).flops_per_token * T == pytest.approx(counter.get_total_flops(), rel=FLOPS)


@pytest.mark.parametrize("quantity", ["flops_per_token", "active_parameters", "parameters"])
@pytest.mark.parametrize("experts", [None, {"n_experts": 4, "top_k": 2}])
def test_cost_is_a_line_in_the_width_of_the_feed_forward_layer(quantity, experts):
    """The match of a variant is solved on it."""
    config = ModelConfig(d_model=D, n_layers=L, n_heads=4, experts=experts)
    one, two, far = (getattr(cost(config.model_copy(update={"d_ff": w}), V, T), quantity) for w in (1, 2, 501))
    assert far - one == pytest.approx(500 * (two - one), rel=1e-9) and two > one
