"""Held-out loss, controls and usage."""

import math

import numpy as np
import pytest
import torch

from memlm.bank.vectors import VectorBank
from memlm.evaluate.controls import memory_off, memory_shuffled
from memlm.evaluate.loss import mean_loss, spread_sequences, token_losses
from memlm.evaluate.usage import UsageCounter
from memlm.memory.base import MemoryRead
from memlm.model.config import ModelConfig
from memlm.model.decoder import Decoder
from tests.tolerances import FLOAT32

V = 43
IDS = np.random.default_rng(0).integers(0, V, size=333).astype(np.uint16)


@pytest.fixture(params=["gated_mlp", "cross_attention", "weighted_sum"])
def decoder(request):
    torch.manual_seed(0)
    memory = {"type": "product_key", "n_keys": 6, "d_key": 8, "d_value": 8, "top_k": 2}
    config = ModelConfig(d_model=16, n_layers=2, n_heads=2, memory=memory, fusion={"type": request.param})
    model = Decoder(config, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def test_sequences_are_spread_and_never_overlap():
    sequences = spread_sequences(np.arange(101), 10, 10**9)
    assert sequences.shape == (10, 11)
    assert sequences[:, 0].tolist() == list(range(0, 100, 10))
    assert (sequences[1:, 0] == sequences[:-1, -1]).all(), "each token is a target once"
    few = spread_sequences(np.arange(1001), 10, 40)
    assert few[:, 0].tolist() == [0, 250, 500, 750]
    assert len(spread_sequences(np.arange(1001), 10, 3)) == 1


def test_loss_is_the_mean_over_tokens_whatever_the_batches(decoder):
    sequences = spread_sequences(IDS, 16, 10**6)
    logits = decoder.logits(decoder(torch.from_numpy(sequences[:, :-1])).hidden)
    chosen = logits.log_softmax(-1).gather(-1, torch.from_numpy(sequences[:, 1:])[..., None])
    for batch_size in (1, 3, 7, 100):
        assert mean_loss(decoder, sequences, batch_size) == pytest.approx(-chosen.mean().item(), rel=1e-5)


def test_every_token_has_its_loss_however_many_logits_fit(decoder, monkeypatch):
    sequences = spread_sequences(IDS, 16, 10**6)
    logits = decoder.logits(decoder(torch.from_numpy(sequences[:, :-1])).hidden)
    expected = -logits.log_softmax(-1).gather(-1, torch.from_numpy(sequences[:, 1:])[..., None])[..., 0].detach()
    for rows in (10**6, 7):
        monkeypatch.setattr("memlm.evaluate.loss.CHUNK", rows * V)
        found = token_losses(decoder, sequences, 3)
        assert found.shape == expected.shape
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_loss_restores_the_mode(decoder):
    decoder.train()
    mean_loss(decoder, spread_sequences(IDS, 16, 64), 2)
    assert decoder.training and decoder.blocks[0].training


def test_memory_off_means_reads_of_zero_and_restores_the_bank(decoder):
    values = decoder.banks[0].values
    before, sequences = values.detach().clone(), spread_sequences(IDS, 16, 64)
    intact = mean_loss(decoder, sequences, 4)
    with memory_off(decoder):
        off = mean_loss(decoder, sequences, 4)
        slots = torch.tensor([[0, 5]])
        assert decoder.banks[0].gather(slots).abs().sum() == 0
        assert decoder.banks[0].weighted_sum(slots, torch.ones(1, 2)).abs().sum() == 0
    with torch.no_grad():
        values.zero_()
    assert off == mean_loss(decoder, sequences, 4)
    with torch.no_grad():
        values.copy_(before)
    assert off != intact == mean_loss(decoder, sequences, 4)


def test_shuffling_permutes_rows_by_its_seed_and_restores_them(decoder):
    before = decoder.banks[0].values.detach().clone()
    seen = []
    for seed in (0, 0, 1):
        with memory_shuffled(decoder, seed):
            seen.append(decoder.banks[0].values.detach().clone())
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], before)
    assert torch.equal(seen[0].sort(0).values, before.sort(0).values)
    assert torch.equal(decoder.banks[0].values, before)
    with pytest.raises(RuntimeError, match="inside"), memory_shuffled(decoder):
        raise RuntimeError("inside")
    assert torch.equal(decoder.banks[0].values, before)


def read(slots, weights, n_slots=8):
    shape = (1, -1, 1, 2)
    return MemoryRead(torch.tensor(slots).view(shape), torch.tensor(weights).view(shape), VectorBank(n_slots, 4))


def test_usage_by_hand():
    counter = UsageCounter()
    counter.add(3, read([0, 1, 0, 2], [0.5, 0.5, 0.75, 0.25]), torch.tensor([[0.5, 0.25]]))
    counter.add(3, read([0, 1], [0.75, 0.25]), torch.tensor([[0.0]]))
    usage = counter.result()[3]
    weight = np.array([2.0, 0.75, 0.25]) / 3
    entropy = -(weight * np.log(weight)).sum()
    assert (usage.share_read, usage.dead_slots, usage.n_slots, usage.reads) == (3 / 8, 5, 8, 6)
    assert usage.effective_slots == pytest.approx(math.exp(entropy))
    assert usage.kl_uniform == pytest.approx(math.log(8) - entropy)
    assert usage.update_share == pytest.approx(0.25), "every token counts the same, whatever the batches"


def test_even_use_is_no_divergence():
    counter = UsageCounter()
    counter.add(0, read(list(range(8)), [0.5] * 8), torch.ones(1, 4))
    usage = counter.result()[0]
    assert (usage.share_read, usage.dead_slots) == (1, 0)
    assert usage.kl_uniform == pytest.approx(0, abs=1e-6)
    assert usage.effective_slots == pytest.approx(8, rel=1e-5)


def test_read_norm_is_the_mean_norm_of_the_weighted_sums():
    batches = [read([3, 4, 3, 3], [0.25, 0.75, 0.5, 0.5]), read([1, 2], [0.5, 0.5])]
    counter = UsageCounter()
    norms = []
    for batch in batches:
        tokens = batch.slots.shape[1]
        counter.add(0, batch, torch.ones(1, tokens))
        values = batch.bank.values[batch.slots[0, :, 0]]
        norms += [(batch.weights[0, t, 0, :, None] * values[t]).sum(0).norm() for t in range(tokens)]
    expected = torch.stack(norms).mean().detach()
    torch.testing.assert_close(torch.tensor(counter.result()[0].read_norm), expected, **FLOAT32)


def measured(decoder):
    usage = UsageCounter()
    mean_loss(decoder, spread_sequences(IDS, 16, 64), 3, usage)
    return usage.result()


def test_update_share_is_what_the_reads_change_over_the_residual_stream(decoder):
    sequences = spread_sequences(IDS, 16, 64)
    seen = {}
    block = decoder.blocks[0]
    block.update_norm.register_forward_pre_hook(lambda _, inputs: seen.update(residual=inputs[0]))
    block.register_forward_hook(lambda _module, _inputs, output: seen.update(hidden=output.hidden))
    decoder(torch.from_numpy(sequences[:, :-1]))
    with_reads = seen.pop("hidden")
    with memory_off(decoder):
        decoder(torch.from_numpy(sequences[:, :-1]))
    change = (with_reads - seen["hidden"]).norm(dim=-1) / seen["residual"].norm(dim=-1)
    share = torch.tensor(measured(decoder)[0].update_share)
    torch.testing.assert_close(share, change.mean().detach(), **FLOAT32)
    assert share > 0.01


def test_update_share_is_zero_when_the_memory_adds_nothing(decoder):
    with memory_off(decoder):
        assert [usage.update_share for usage in measured(decoder).values()] == [0.0, 0.0]


def test_watching_leaves_no_hook_behind(decoder):
    with pytest.raises(RuntimeError, match="inside"), UsageCounter().watching(decoder):
        raise RuntimeError("inside")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in decoder.modules())
