"""The fusion that builds no keys and values gives what it would give with them."""

import torch

from memlm.bank.vectors import VectorBank
from memlm.fusion.cross_attention import CrossAttention
from memlm.memory.base import MemoryRead

B, T, D, H, K, HEADS, WIDTH = 2, 5, 24, 2, 3, 4, 10


def with_keys_and_values(fusion, hidden, slots, weights, values):
    """The definition: keys and values of every read, heads as in "Attention is all you need"."""
    read = (values[slots] * (weights * K)[..., None]).flatten(2, 3)  # [B, T, R, WIDTH]
    parts = fusion.query(hidden), fusion.key(read), fusion.value(read)
    query, key, value = (part.unflatten(-1, (HEADS, -1)) for part in parts)
    logits = torch.einsum("bthc,btrhc->bthr", query, key) / (D / HEADS) ** 0.5 + weights.log().flatten(2)[:, :, None]
    mixed = torch.einsum("bthr,btrhc->bthc", logits.softmax(-1), value)
    return fusion.output(mixed.flatten(2))


def test_it_equals_attention_over_keys_and_values():
    torch.manual_seed(0)
    fusion, bank = CrossAttention(D, HEADS, WIDTH).double(), VectorBank(7, WIDTH).double()
    bank.reset_parameters()
    hidden = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(B, T, H, K, dtype=torch.float64).softmax(-1).requires_grad_()
    slots = torch.randint(7, (B, T, H, K))
    found = fusion(hidden, MemoryRead(slots, weights, bank))
    expected = with_keys_and_values(fusion, hidden, slots, weights, bank.values)
    torch.testing.assert_close(found, expected)
    learning = [hidden, weights, *fusion.parameters(), *bank.parameters()]
    seed = torch.randn_like(found)
    ours = torch.autograd.grad(found, learning, seed)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, learning, seed))
