"""What a bank of vectors kept in bfloat16 gives: reads in the rest of the model's dtype."""

import pytest
import torch

from memlm.bank.vectors import VectorBank
from memlm.evaluate.usage import _ZeroBank
from memlm.hf import MemlmConfig, MemlmForCausalLM
from tests.tolerances import FLOAT32

FUSIONS = ["gated_mlp", "cross_attention", "weighted_sum", "one_neuron_experts"]
SLOTS = torch.randint(20, (3, 4, 6), generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1)).softmax(-1)


def banks():
    """Returns a bank of 16 bits, and one of the same values in float32."""
    torch.manual_seed(0)
    narrow, wide = VectorBank(20, 8, torch.bfloat16), VectorBank(20, 8)
    wide.values.data = narrow.values.detach().float()
    return narrow, wide


def reads(bank):
    hidden = torch.ones(3, 4, 5, dtype=bank.read_dtype)
    return [
        bank.gather(SLOTS),
        bank.gather(SLOTS, WEIGHTS),
        bank.gather_joined(hidden, SLOTS, WEIGHTS),
        bank.weighted_sum(SLOTS, WEIGHTS),
    ]


def test_reads_are_those_of_the_same_values_in_float32():
    narrow, wide = banks()
    assert narrow.values.dtype == torch.bfloat16
    for found, expected in zip(reads(narrow), reads(wide), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, **FLOAT32)


def test_gradients_are_those_of_the_same_values_in_float32():
    grads = []
    for bank in banks():
        weights = WEIGHTS.clone().requires_grad_()
        total = bank.weighted_sum(SLOTS, weights)
        (total * torch.linspace(-1, 1, total.numel()).view_as(total)).sum().backward()
        grads.append((bank.values.grad, weights.grad))
    (narrow, of_narrow), (wide, of_wide) = grads
    torch.testing.assert_close(of_narrow, of_wide, **FLOAT32)
    assert torch.equal(narrow, wide.bfloat16()), "summed in float32, rounded once"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_reads_follow_the_model(dtype):
    narrow, _ = banks()
    assert all(read.dtype == dtype for read in reads(narrow.to(dtype)))


def new_model(fusion, dtype):
    torch.manual_seed(0)
    memory = {
        "type": "product_key",
        "n_keys": 4,
        "d_key": 16,
        "d_value": 32,
        "bank": {"type": "vectors", "dtype": dtype},
    }
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "memory": memory | {"top_k": 2}, "fusion": {"type": fusion}}
    return MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=61)).eval()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_model_gives_the_logits_of_the_same_values_in_float32(fusion):
    narrow, wide = (new_model(fusion, dtype) for dtype in ("bfloat16", "float32"))
    wide.load_state_dict(narrow.state_dict())
    tokens = torch.arange(24).view(2, 12)
    assert narrow.dtype == torch.float32 and wide.decoder.banks[0].values.dtype == torch.float32
    torch.testing.assert_close(narrow(tokens).logits, wide(tokens).logits, **FLOAT32)
    assert narrow.to(torch.bfloat16)(tokens).logits.dtype == torch.bfloat16


def test_reads_of_zero_come_in_the_dtype_of_reads():
    narrow, _ = banks()
    off = _ZeroBank(narrow)
    assert off.gather(SLOTS).dtype == off.weighted_sum(SLOTS, WEIGHTS).dtype == torch.float32


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_a_saved_model_keeps_its_16_bits_whatever_it_is_loaded_in(tmp_path, dtype):
    saved = new_model("weighted_sum", "bfloat16")
    saved.save_pretrained(tmp_path)
    loaded = MemlmForCausalLM.from_pretrained(tmp_path, **({} if dtype is None else {"dtype": dtype}))
    assert torch.equal(loaded.decoder.banks[0].values, saved.decoder.banks[0].values)
    expected = dtype or torch.float32
    assert loaded.decoder.embedding.weight.dtype == loaded(torch.arange(5)[None]).logits.dtype == expected
