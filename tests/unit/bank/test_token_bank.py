"""The readable bank: what its slots are worth, when they are encoded, and that entries come and go."""

import copy

import pytest
import torch
from torch import nn

from memlm.bank.tokens import TokensConfig
from memlm.config.train import TrainConfig
from memlm.encoder.base import NO_TOKEN
from memlm.errors import RunError
from memlm.evaluate.controls import memory_off, memory_shuffled
from memlm.model.attention import Attention
from memlm.registry import ENCODERS
from memlm.train.optimizer import build_optimizer, freeze_values
from memlm.train.preflight import preflight
from tests.contract.test_wirings import BANKED, build, tokens
from tests.contract.test_wirings import settings as wiring_settings
from tests.tolerances import FLOAT32
from tests.zoo.faults import evaluate

WIRING = next(wiring for wiring in BANKED if wiring["memory"] == "product_key")


def bank_of(n_slots=8, d_value=5, vocabulary=11, **fields):
    torch.manual_seed(0)
    embedding = nn.Embedding(vocabulary, 7)
    config = TokensConfig.model_validate({"type": "tokens", "entry_length": 4, **fields})
    return config.build(n_slots, d_value, embedding)


@pytest.fixture
def model():
    return build(WIRING)


def logits(model):
    with torch.no_grad():
        return model(tokens()).logits


def test_a_value_is_the_projected_mean_of_its_tokens_embeddings():
    bank = bank_of(learned_share=0)
    bank.replace([2], [[3, 3, 9]])
    mean = (2 * bank.embedding[3] + bank.embedding[9]) / 3
    normed = mean / (mean.square().mean() + torch.finfo(mean.dtype).eps).sqrt()
    torch.testing.assert_close(bank.table()[2], bank.encoder.projection.weight @ normed, **FLOAT32)


@pytest.mark.parametrize("encoder", ENCODERS.names())
def test_a_value_depends_on_its_own_tokens_and_on_no_padding(encoder):
    bank = bank_of(encoder={"type": encoder})
    bank.replace([0, 1, 2, 3], [[4, 5], [4, 5, 6], [], [5, 4]])
    before = bank.table()
    assert not before[2].any(), "an empty entry is zero"
    assert not torch.allclose(before[0], before[1])
    assert torch.allclose(before[0], before[3]) == (encoder == "embedding_mean"), "order matters but to a mean"
    bank.replace([1, 2], [[8], [9, 9, 9, 9]])
    torch.testing.assert_close(bank.table()[[0, 3]], before[[0, 3]], rtol=0, atol=0)
    assert abs(bank.table()[:6].norm(dim=1).mean() - 1) < 0.7, "about as long as a vector"


def test_the_last_slots_are_vectors():
    bank = bank_of(learned_share=0.25)
    assert (bank.n_entries, bank.vectors.shape) == (6, (2, 5))
    assert torch.equal(bank.table()[6:], bank.vectors)
    assert bank.entry(6) is None and len(bank.entry(5)) == 4
    assert bank_of(learned_share=0).vectors is None
    assert bank_of(learned_share=0.01).n_entries == 7


def test_only_rows_that_are_read_are_encoded_while_training(monkeypatch):
    bank, asked = bank_of(), []
    sound = type(bank.encoder).forward
    monkeypatch.setattr(type(bank.encoder), "forward", lambda s, t, e: asked.append(len(t)) or sound(s, t, e))
    slots = torch.tensor([[5, 1, 5], [7, 1, 1]])
    read = bank.gather(slots)
    assert asked == [3]
    torch.testing.assert_close(read, bank.table()[slots])
    read.square().sum().backward()
    assert bank.vectors.grad.any(1).tolist() == [False, True]
    assert set(bank._embedding[0].weight.grad.any(1).nonzero().flatten().tolist()) == {*bank.entry(5), *bank.entry(1)}
    assert bank.encoder.projection.weight.grad.any()


def test_values_are_kept_until_something_changes(model):
    bank = model.decoder.banks[0]
    kept = bank.table()
    logits(model)
    assert bank.table() is kept
    for parameter in (bank.encoder.projection.weight, model.decoder.embedding.weight, bank.vectors):
        before = bank.table()
        with torch.no_grad():
            parameter.mul_(1.1)
            parameter[0] += 1
        assert not torch.equal(bank.table(), before)
    before = bank.table()
    bank.load_state_dict(bank.state_dict() | {"tokens": bank.tokens.flip(0)})
    assert not torch.equal(bank.table(), before)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_values_are_made_anew_after_a_fused_step(model, mode):
    bank, optimizer = model.decoder.banks[0], build_optimizer(model, TrainConfig(steps=1, lr=0.1))
    model.train(mode == "train")
    before = logits(model)
    model(tokens(), labels=tokens()).loss.backward()
    optimizer.step()
    kept = bank.table()
    assert not torch.equal(logits(model), before)
    assert torch.equal(copy.deepcopy(model).eval().decoder.banks[0].table(), kept)
    if mode == "train":
        optimizer.step()  # after a look at the values, and without another pass
        assert not torch.equal(model.eval().decoder.banks[0].table(), kept)


def test_a_new_embedding_of_the_model_is_the_banks_too(model):
    other = nn.Embedding.from_pretrained(torch.randn_like(model.decoder.embedding.weight))
    before = logits(model)
    model.set_input_embeddings(other)
    assert model.decoder.banks[0].embedding is other.weight
    assert not torch.equal(logits(model), before)
    assert [name for name, _ in model.named_parameters() if "embedding" in name] == ["decoder.embedding.weight"]


def test_a_copy_has_its_own_embedding(model):
    twin = copy.deepcopy(model)
    assert twin.decoder.banks[0].embedding is twin.decoder.embedding.weight


def test_an_entry_is_replaced_and_restored_bit_for_bit(model):
    bank, before = model.decoder.banks[0], logits(model)
    was = [bank.entry(slot) for slot in (0, 5)]
    old = bank.replace([0, 5], [[7, 8], []])
    assert [bank.entry(slot) for slot in (0, 5)] == [[7, 8], []]
    assert old.tokens.tolist() == [ids + [NO_TOKEN] * (6 - len(ids)) for ids in was]
    every = range(bank.n_entries)
    bank.replace(every, [[3]] * len(every))
    assert not torch.equal(logits(model), before)
    now = bank.entries(every)
    assert now.tokens[:, 0].eq(3).all() and now.slots.tolist() == list(every)
    bank.replace(every, [[4]] * len(every))
    bank.restore(now)
    assert bank.entry(9) == [3]


def test_undoing_a_replacement_gives_the_same_logits(model):
    bank, before = model.decoder.banks[0], logits(model)
    old = bank.replace(range(bank.n_entries), [[3]] * bank.n_entries)
    assert not torch.equal(logits(model), before)
    bank.restore(old)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("slots", "ids", "text"),
    [
        ([8], [[1]], "slot 8 holds no entry; the slots 0 to 5 do"),
        ([6], [[1]], "slot 6 holds no entry; the slots 0 to 5 do"),
        ([-1], [[1]], "slot -1 holds no entry; the slots 0 to 5 do"),
        ([1, 1], [[1], [2]], "slot 1 is named twice; name each slot once"),
        ([0, 1], [[1], [1, 2, 3, 4, 5]], "slot 1: an entry of 5 tokens does not fit; give at most 4"),
        ([0, 1], [[1], [11]], "slot 1: a token lies outside of the vocabulary, 0 to 10"),
    ],
)
def test_what_cannot_be_replaced_is_told_and_nothing_changes(slots, ids, text):
    bank = bank_of()
    before = bank.tokens.clone()
    with pytest.raises(RunError) as error:
        bank.replace(slots, ids)
    assert str(error.value) == text
    assert torch.equal(bank.tokens, before)


def test_the_controls_change_what_is_read(model):
    before = logits(model)
    found = []
    for control in (memory_off, memory_shuffled):
        with control(model.decoder):
            found.append(logits(model))
    assert not torch.equal(found[0], before) and not torch.equal(found[1], before)
    assert torch.equal(logits(model), before)


def test_frozen_it_still_follows_the_embedding(model):
    freeze_values(model)
    bank = model.decoder.banks[0]
    model.train()(tokens(), labels=tokens()).loss.backward()
    assert [name for name, p in bank.named_parameters() if p.grad is not None] == []
    assert bank.learns and model.decoder.embedding.weight.grad.any()


@pytest.mark.parametrize("wiring", [WIRING, BANKED[-1], BANKED[0]], ids=["with vectors", "entries alone", "ngram_hash"])
def test_the_preflight_finds_nothing(wiring):
    config = build(wiring).config.shape
    assert config.memory.bank.entry_length == wiring_settings(wiring)["memory"]["bank"]["entry_length"]
    report = preflight(config, TrainConfig(steps=10), evaluate_loss=evaluate, use_cache=False)
    assert [str(fault) for fault in report.faults] == []


def test_the_preflight_sees_a_leak_past_a_bank_that_keeps_values(monkeypatch):
    sound = Attention.forward

    def leaking(self, hidden, rope, mask=None, cache=None):
        return sound(self, hidden, rope, mask, cache) + hidden.mean(1, keepdim=True)

    monkeypatch.setattr(Attention, "forward", leaking)
    report = preflight(build(WIRING).config.shape, TrainConfig(steps=10), evaluate_loss=evaluate, use_cache=False)
    assert "future_leak" in {found.fault for found in report.faults}
