"""Fusions by their formulas, and through the compiler as they train."""

import pytest
import torch
from torch.nn import functional as F

from memlm.bank.vectors import VectorBank
from memlm.fusion.base import joined_values, scaled_values
from memlm.fusion.gated_mlp import GatedMlp
from memlm.fusion.weighted_sum import WeightedSum
from memlm.memory.base import MemoryRead
from tests.tolerances import FLOAT32

B, T, D, H, K, WIDTH = 2, 5, 12, 2, 3, 8


@pytest.fixture
def read():
    torch.manual_seed(0)
    slots = torch.randint(20, (B, T, H, K))
    weights = torch.randn(B, T, H, K).softmax(-1).requires_grad_()
    return MemoryRead(slots, weights, VectorBank(20, WIDTH))


def test_values_are_read_times_their_weight_and_the_reads_of_a_head(read):
    expected = (read.bank.values[read.slots] * read.weights[..., None] * K).flatten(2, 3)
    torch.testing.assert_close(scaled_values(read), expected, **FLOAT32)
    hidden = torch.randn(B, T, D)
    torch.testing.assert_close(joined_values(hidden, read), torch.cat([hidden, expected.flatten(2)], -1), **FLOAT32)
    assert torch.equal(read.bank.gather(read.slots), read.bank.values[read.slots])


def test_the_gated_mlp_is_a_swiglu_layer_over_what_is_joined(read):
    fusion, hidden = GatedMlp(D, 7, D + H * K * WIDTH), torch.randn(B, T, D)
    joined = joined_values(hidden, read)
    expected = fusion.down(F.silu(fusion.gate(joined)) * fusion.up(joined))
    torch.testing.assert_close(fusion(hidden, read), expected, **FLOAT32)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("build", [lambda: GatedMlp(D, 7, D + H * K * WIDTH), lambda: WeightedSum(D, WIDTH)])
def test_a_fusion_compiles_whole_with_its_gradients(build, autocast, read):
    fusion, hidden = build(), torch.randn(B, T, D, requires_grad=True)
    learning = (hidden, read.weights, read.bank.values, *fusion.parameters())

    def loss(hidden, weights):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            update = fusion(hidden, MemoryRead(read.slots, weights, read.bank))
        return update.float().square().sum()

    expected = torch.autograd.grad(loss(hidden, read.weights), learning)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(hidden, read.weights), learning)
    assert [grad.dtype for grad in found] == [torch.float32] * len(learning), "parameters stay float32"
    torch.testing.assert_close(found, expected, **FLOAT32)
