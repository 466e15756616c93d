"""Memories that select by product keys and weigh what they chose otherwise than by softmax."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from memlm.bank.vectors import VectorBank
from memlm.config.train import TrainConfig
from memlm.memory.base import Memory
from memlm.model.config import ModelConfig
from memlm.registry import MEMORIES
from memlm.train.preflight import preflight

FORMULAS = {"product_key_relu": F.relu, "product_key_sigmoid": torch.sigmoid}
NAMES = pytest.mark.parametrize("name", FORMULAS)
K = 4


def built(name, **settings) -> Memory:
    torch.manual_seed(0)
    fields = {"type": name, "n_keys": 16, "n_heads": 2, "d_key": 16, "d_value": 4, "top_k": K} | settings
    config = MEMORIES.get(name).model_validate(fields)
    memory = config.build(24)
    memory.bank = VectorBank(config.n_slots, config.value_width)
    return memory


def hidden(tokens=40):
    return F.rms_norm(torch.randn(2, tokens, 24, generator=torch.Generator().manual_seed(1)), (24,))


@NAMES
def test_the_same_slots_are_chosen_and_weighed_by_the_formula(name):
    memory, softmax = built(name), built("product_key")
    with torch.no_grad():
        softmax.scale.copy_(memory.scale)
    read = memory(hidden(), memory.bank)
    assert torch.equal(read.slots, softmax(hidden(), softmax.bank).slots)
    halves = memory.half_scores(hidden())  # [B, T, H, 2, M]
    chosen = torch.stack([read.slots // 16, read.slots % 16], dim=3)
    scores = halves.gather(-1, chosen).sum(3)
    torch.testing.assert_close(read.weights, FORMULAS[name](scores) / K)


@NAMES
@pytest.mark.parametrize(("n_keys", "top_k"), [(16, 4), (256, 8), (256, 32)])
def test_a_head_starts_with_a_weight_of_about_one(name, n_keys, top_k):
    memory = built(name, n_keys=n_keys, top_k=top_k)
    weights = memory(hidden(), memory.bank).weights
    assert 0.5 < weights.sum(-1).mean().item() < 1.2
    assert (weights > 0).all(), "nothing is cut off or saturated at the start"
    assert (weights * top_k < 0.95).float().mean() > 0.5


def test_scores_below_zero_are_reads_of_zero():
    memory = built("product_key_relu")
    scores = torch.tensor([[0.5, 0.0, -1.0, -2.0], [-1.0, -2.0, -3.0, -4.0]], requires_grad=True)
    weights = memory.weigh(scores)
    assert weights.tolist() == [[0.125, 0, 0, 0], [0, 0, 0, 0]]
    (gradient,) = torch.autograd.grad(weights.sum(), scores)
    assert gradient.tolist() == [[0.25, 0, 0, 0], [0, 0, 0, 0]]


def test_one_read_is_enough_where_weights_do_not_compete():
    for name in FORMULAS:
        assert built(name, top_k=1)(hidden(), built(name).bank).weights.std() > 0
    with pytest.raises(ValidationError, match="softmax over one slot is always 1"):
        built("product_key", top_k=1)


@NAMES
@pytest.mark.parametrize("top_k", [1, K])
def test_the_preflight_finds_no_fault(name, top_k):
    memory = {"type": name, "n_keys": 16, "d_value": 16, "top_k": top_k}
    model = ModelConfig.model_validate(
        {"d_model": 32, "n_layers": 2, "n_heads": 2, "memory": memory, "fusion": {"type": "gated_mlp"}}
    )
    assert preflight(model, TrainConfig(steps=1), use_cache=False).faults == []
