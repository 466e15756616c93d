"""One-neuron experts by their formula, their width and their size at the start."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from memlm.bank.vectors import VectorBank
from memlm.fusion.one_neuron_experts import OneNeuronExperts
from memlm.memory.base import MemoryRead
from memlm.model.config import ModelConfig
from memlm.model.decoder import Decoder
from memlm.train.preflight.shrink import shrunken
from tests.tolerances import FLOAT32

MEMORY = {"type": "product_key", "n_keys": 16, "n_heads": 2, "top_k": 4, "d_key": 16, "d_value": 128}


def config(d_model=64, **memory):
    return ModelConfig.model_validate(
        {"d_model": d_model, "n_layers": 4, "memory": MEMORY | memory, "fusion": {"type": "one_neuron_experts"}}
    )


def test_the_update_is_a_sum_of_experts():
    torch.manual_seed(0)
    B, T, H, K, D = 2, 5, 2, 3, 8
    read = MemoryRead(torch.randint(20, (B, T, H, K)), torch.randn(B, T, H, K).softmax(-1), VectorBank(20, 2 * D))
    hidden, expected = torch.randn(B, T, D), torch.zeros(B, T, D)
    for b in range(B):
        for t in range(T):
            for slot, weight in zip(read.slots[b, t].flatten(), read.weights[b, t].flatten(), strict=True):
                down, up = read.bank.values[slot].split(D)
                expected[b, t] += weight * F.gelu(hidden[b, t] @ down) * up
    torch.testing.assert_close(OneNeuronExperts()(hidden, read), expected, **FLOAT32)


def test_values_of_another_width_are_refused_in_one_line():
    with pytest.raises(ValidationError) as caught:
        config(d_value=64)
    (error,) = caught.value.errors()
    assert error["loc"] == ("fusion", "type")
    assert error["msg"] == "needs values 128 wide where d_model is 64, not 64 (d_value)"


def test_the_small_copy_has_values_that_fit_its_width():
    small = shrunken(config(d_model=256, d_value=512))
    assert (small.d_model, small.memory.value_width, small.memory.n_keys) == (32, 64, 8)


def update_size(**wiring):
    torch.manual_seed(0)
    decoder = Decoder(ModelConfig.model_validate({"d_model": 256, "n_layers": 6} | wiring), 97)
    block, hidden = decoder.blocks[1], F.rms_norm(torch.randn(1, 40, 256), (256,))
    if wiring:
        update = block.fusion(hidden, block.memory(hidden, decoder.bank_of(1)))
    else:
        update, _ = block.feed_forward(hidden)
    return update.norm(dim=-1).mean().item()


@pytest.mark.parametrize(("n_heads", "top_k"), [(1, 8), (8, 16)])
def test_the_update_starts_as_large_as_that_of_a_feed_forward_layer(n_heads, top_k):
    memory = MEMORY | {"n_heads": n_heads, "top_k": top_k, "d_value": 512}
    experts = update_size(memory=memory, fusion={"type": "one_neuron_experts"}, layers=[1])
    assert 0.5 < experts / update_size() < 2.5
