"""Revival: what was never chosen becomes a copy of what was, and nothing else changes."""

import time

import numpy as np
import pytest
import torch

from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.memory.product_key import NOISE
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog
from memlm.train.optimizer import build_optimizer
from memlm.train.revival import Revival

M, H = 8, 2


def built(n_layers=2):
    torch.manual_seed(0)
    fields = {"type": "product_key", "n_keys": M, "n_heads": H, "top_k": 3, "d_key": 16, "d_value": 4}
    shape = {"d_model": 16, "n_layers": n_layers, "n_heads": 2, "memory": fields, "fusion": {"type": "weighted_sum"}}
    return MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=61, pad_token_id=1)).train()


def tokens(batch=3):
    return torch.randint(2, 61, (batch, 9), generator=torch.Generator().manual_seed(0))


def counts_of(*reads):
    """Counts in which each head read the pairs (first, second) as often as is said."""
    counts = torch.zeros(H, M * M, dtype=torch.int32)
    for first, second, times in reads:
        counts[:, first * M + second] = times
    return counts


def test_the_most_chosen_keys_are_split_first():
    memory = built().decoder.blocks[0].memory
    before = memory.keys.detach().clone()
    counts = counts_of(*((key, key, key) for key in range(2, M)))  # keys 0 and 1 were never chosen, 7 most often
    revived = memory.revive(counts, torch.Generator().manual_seed(0))
    assert revived.parameter is memory.keys
    assert revived.entries.nonzero()[:, 2].tolist() == [0, 1] * 2 * H
    assert torch.equal(memory.keys[:, :, 2:], before[:, :, 2:])
    for dead, original in ((0, 7), (1, 6)):
        off = (memory.keys[:, :, dead] - before[:, :, original]).norm(dim=-1)
        assert (off > 0).all() and (off < 4 * NOISE * before[:, :, original].norm(dim=-1)).all()


def test_more_dead_keys_than_used_ones_wait_their_turn():
    memory = built().decoder.blocks[0].memory
    revived = memory.revive(counts_of((3, 4, 5), (2, 4, 1)), torch.Generator().manual_seed(0))
    assert revived.entries.sum((0, 2)).tolist() == [2 * H, 1 * H]
    assert memory.revive(torch.ones(H, M * M, dtype=torch.int32), torch.Generator()) is None


def test_training_is_counted_and_evaluation_is_not():
    model = built()
    revival = Revival(model.decoder, build_optimizer(model, TrainConfig(steps=1)), seed=0)
    reads = model.decoder(tokens()).reads
    model.eval()(tokens())
    for layer, read in reads.items():
        counts = revival.tensors()[f"reads/{layer}"]
        for head in range(H):
            expected = torch.bincount(read.slots[:, :, head].flatten(), minlength=M * M)
            assert torch.equal(counts[head].long(), expected)
    revival.release()
    model.train()(tokens())
    assert counts.sum() == 3 * 9 * 3 * H


def test_rows_that_nobody_read_take_the_originals_values_and_moments_begin_anew():
    model = built()
    optimizer = build_optimizer(model, TrainConfig(steps=1))
    model(tokens(), labels=tokens()).loss.backward()
    optimizer.step()
    (bank,) = model.decoder.banks
    for moment in (optimizer.state[bank.values], *(optimizer.state[b.memory.keys] for b in model.decoder.blocks)):
        moment["exp_avg"].fill_(1)
    revival = Revival(model.decoder, optimizer, seed=0)
    counts = counts_of(*((key, key, key) for key in range(1, M)))  # key 0 is dead in both halves, 7 is its original
    revival.restore({f"reads/{layer}": counts.clone() for layer in (0, 1)})
    before = bank.values.detach().clone()
    revival.revive(step=1)
    after = bank.values.detach().view(M, M, -1)
    before = before.view(M, M, -1)
    assert torch.equal(after[1:, 1:], before[1:, 1:])
    assert torch.equal(after[0, 1:], before[7, 1:]) and torch.equal(after[1:, 0], before[1:, 7])
    assert torch.equal(after[0, 0], before[7, 7])
    moments = optimizer.state[bank.values]["exp_avg"].view(M, M, -1)
    assert (moments[0] == 0).all() and (moments[:, 0] == 0).all() and (moments[1:, 1:] == 1).all()
    keys = optimizer.state[model.decoder.blocks[1].memory.keys]["exp_avg"]
    assert (keys[:, :, 0] == 0).all() and (keys[:, :, 1:] == 1).all()
    assert all((counts == 0).all() for counts in revival.tensors().values())


@pytest.mark.parametrize("frozen", [False, True])
def test_rows_that_another_layer_reads_and_frozen_values_stay(frozen):
    model = built()
    (bank,) = model.decoder.banks
    bank.values.requires_grad_(not frozen)
    revival = Revival(model.decoder, build_optimizer(model, TrainConfig(steps=1)), seed=0)
    everything = torch.ones(H, M * M, dtype=torch.int32)
    revival.restore({"reads/0": counts_of(*((key, key, key) for key in range(1, M))), "reads/1": everything})
    values, keys = bank.values.detach().clone(), model.decoder.blocks[0].memory.keys.detach().clone()
    revival.revive(step=1)
    assert torch.equal(bank.values, values)
    assert torch.equal(model.decoder.blocks[0].memory.keys, keys) == frozen


def test_a_memory_that_cannot_is_not_counted():
    memory, fusion = {"type": "ngram_hash", "n_rows": 31, "n_heads": 2}, {"type": "weighted_sum"}
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "memory": memory, "fusion": fusion}
    model = MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=61, pad_token_id=1)).train()
    revival = Revival(model.decoder, build_optimizer(model, TrainConfig(steps=1)), seed=0)
    model(tokens())
    revival.revive(step=1)
    assert revival.tensors() == {}


def test_it_counts_the_same_through_the_compiler():
    model = built(n_layers=1)
    revival = Revival(model.decoder, build_optimizer(model, TrainConfig(steps=1)), seed=0)
    model.decoder(tokens())
    expected = {name: 2 * counts for name, counts in revival.tensors().items()}
    for counts in revival.tensors().values():
        counts.zero_()
    compiled = torch.compile(model.decoder, backend="aot_eager")
    for _ in range(2):
        compiled(tokens())
    assert all(torch.equal(counts, expected[name]) for name, counts in revival.tensors().items())


def test_the_loop_revives_when_it_is_due_and_not_at_the_end(tmp_path, monkeypatch):
    steps = []
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 1000 * len(steps))
    monkeypatch.setattr(Revival, "revive", lambda self, step: steps.append(step))
    model = built()
    text = np.random.default_rng(0).integers(2, 61, 400).astype(np.uint16)
    config = TrainConfig(steps=6, batch_size=2, revive_every=2, device="cpu", evaluate_every=0, save_every=0)
    with MetricLog(tmp_path / "metrics.jsonl", []) as log:
        trained = train(model, Sampler(text, 8, 2, 0), config, log, Hooks(), tmp_path)
    assert steps == [2, 4]
    assert trained.revival_time_s == pytest.approx(2000, abs=100), "it is told"
    assert 0 < trained.time_s < 100, "and counts in no step"
    assert not any(block.memory._forward_hooks for block in model.decoder.blocks), "nothing is left on the model"
