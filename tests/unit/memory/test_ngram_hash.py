"""Rows by hashed n-grams: what a token reads, where the ids come from, and that padding is no text."""

import pytest
import torch
from torch.nn import functional as F
from transformers import DynamicCache

from memlm.bank.vectors import VectorBank
from memlm.config.train import TrainConfig
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.hf.modeling import CACHE_FIELD
from memlm.kernels.compact import CompactGradient
from memlm.memory.base import NO_TOKEN
from memlm.memory.ngram_embedding import NgramEmbeddingConfig, mix, primes
from memlm.memory.ngram_hash import NgramHashConfig
from memlm.model.config import ModelConfig
from memlm.model.cost import cost
from memlm.model.loss import TokenLoss
from memlm.model.tokens import last_tokens
from memlm.train.preflight import preflight
from tests.tolerances import FLOAT32, LOGITS

MEMORY = {"type": "ngram_hash", "n_heads": 2, "n_rows": 31, "d_value": 8}
SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 2, "memory": MEMORY, "fusion": {"type": "weighted_sum"}}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = MemlmForCausalLM(MemlmConfig(model=SHAPE, vocab_size=97, pad_token_id=1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def ids(length=12, seed=1):
    return torch.randint(2, 97, (2, length), generator=torch.Generator().manual_seed(seed))


def test_tables_have_different_prime_sizes():
    assert primes(4, 31) == (31, 37, 41, 43)
    config = NgramHashConfig.model_validate(MEMORY)
    assert (config.n_slots, config.n_reads, config.n_tokens) == (31 + 37 + 41 + 43, 4, 3)


def test_each_order_may_have_tables_of_its_own_size():
    config = NgramHashConfig.model_validate(MEMORY | {"n_rows": [97, 31]})
    assert config.table_sizes == (97, 101, 31, 37)
    assert NgramHashConfig.model_validate(MEMORY | {"n_rows": [31, 31]}).table_sizes == (31, 37, 41, 43)
    memory = NgramHashConfig.model_validate(MEMORY | {"orders": [1], "n_rows": [97]}).build(32)
    slots = memory.slots(torch.arange(97)[None, :, None])
    assert all(len(slots[..., head].unique()) == 97 for head in range(2))  # single tokens have rows of their own


@pytest.mark.parametrize(("n_rows", "reason"), [([31], "orders has 2"), ([31, 1], "whole number from 2")])
def test_rows_that_fit_no_order_are_refused(n_rows, reason):
    with pytest.raises(ValueError, match=reason):
        NgramHashConfig.model_validate(MEMORY | {"n_rows": n_rows})


def test_slots_are_the_hashes_of_the_last_tokens():
    memory = NgramHashConfig.model_validate(MEMORY).build(32)
    factors = [0x9E3779B1**place % 2**32 for place in (1, 2, 3)]
    tokens = last_tokens(ids(), 3, None, None, 0)
    for b, t in [(0, 0), (0, 1), (1, 7)]:
        text = [int(ids()[b, t - back]) + 1 if t >= back else 0 for back in range(3)]
        assert tokens[b, t].tolist() == [token - 1 for token in text]
        two = text[0] * factors[0] ^ text[1] * factors[1]
        three = two ^ text[2] * factors[2]
        expected = [[two % 31, 31 + two % 37], [68 + three % 41, 109 + three % 43]]
        assert memory.slots(tokens)[b, t].tolist() == expected


def test_without_a_gate_the_same_rows_weigh_alike():
    plain = NgramEmbeddingConfig.model_validate(MEMORY | {"type": "ngram_embedding"}).build(32)
    gated, tokens = NgramHashConfig.model_validate(MEMORY).build(32), last_tokens(ids(), 3, None, None, 0)
    read = plain(torch.randn(2, 12, 32), VectorBank(plain.config.n_slots, 8), tokens)
    assert torch.equal(read.slots, gated.slots(tokens)) and not list(plain.parameters())
    assert read.weights.shape == read.slots.shape and (read.weights == 1 / 2).all()


def test_n_grams_are_spread_like_random_numbers():
    pairs = torch.cartesian_prod(torch.arange(200), torch.arange(200))
    mixed = mix(pairs)
    assert mixed.min() >= 0 and mixed.unique().numel() == 40_000
    for size in primes(3, 10_000):
        counts = torch.bincount(mixed % size, minlength=size)
        share_read = (counts > 0).float().mean().item()
        assert 0.95 < share_read < 1, "a random hash reads 98 %"
        assert counts.max() < 20, "4 a row on average"
    assert mix(torch.full((1, 8), 2**31 - 2)).item() >= 0, "nothing overflows"


def test_one_gate_weighs_all_that_is_read():
    torch.manual_seed(0)
    config = NgramHashConfig.model_validate(MEMORY)
    memory, bank, hidden = config.build(32), VectorBank(config.n_slots, config.value_width), torch.randn(2, 12, 32)
    read = memory(hidden, bank, last_tokens(ids(), 3, None, None, 0))
    key = memory.key(bank.values[read.slots].flatten(2))
    score = (F.normalize(hidden, dim=-1) * F.normalize(key, dim=-1)).sum(-1) * 32**0.5
    expected = (score.sigmoid() / 2)[..., None, None].expand(2, 12, 2, 2)
    torch.testing.assert_close(read.weights, expected, **FLOAT32)


def test_n_grams_reach_no_further_than_attention():
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    mask[:, :, 3:, :3] = False  # a document ends before position 3
    mask[0, :, :, 0] = False  # padding
    text = torch.arange(10, 20).view(2, 5)
    found = last_tokens(text, 3, mask, None, 0)
    none = NO_TOKEN
    assert found[0].tolist() == [[none] * 3, [11, none, none], [12, 11, none], [13, none, none], [14, 13, none]]
    assert found[1].tolist() == [[15, none, none], [16, 15, none], [17, 16, 15], [18, none, none], [19, 18, none]]
    added = torch.zeros(2, 1, 5, 5).masked_fill(~mask, -torch.inf)
    assert torch.equal(last_tokens(text, 3, added, None, 0), found)


def test_padding_on_the_left_changes_no_slot(model):
    padded = torch.cat([torch.ones(2, 4, dtype=torch.long), ids()], 1)
    mask = (torch.arange(16) >= 4).long().expand(2, -1)
    with read_slots(model) as seen:
        model(padded, attention_mask=mask)
        model(ids())
    assert torch.equal(seen[0][:, 4:], seen[1])


class read_slots:
    """Lends a list of the slots that the first memory layer reads in each pass."""

    def __init__(self, model):
        self.memory, self.slots = model.decoder.blocks[0].memory, []

    def __enter__(self):
        self.handle = self.memory.register_forward_hook(lambda _m, _a, read: self.slots.append(read.slots))
        return self.slots

    def __exit__(self, *_):
        self.handle.remove()


@pytest.mark.parametrize("with_config", [False, True])
def test_a_cache_that_was_cropped_goes_on_right(model, with_config):
    cache = DynamicCache(config=model.config) if with_config else DynamicCache()
    with torch.no_grad():
        expected = model(ids()).logits
        wrong = torch.cat([ids()[:, :6], ids(seed=2)[:, :3]], 1)
        cache = model(wrong, past_key_values=cache, use_cache=True)[CACHE_FIELD]
        cache.crop(-3)
        assert cache.get_seq_length() == 6
        rest = model(ids()[:, 6:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(rest, expected[:, 6:], **LOGITS)


def test_a_prompt_in_chunks_gives_the_same_text(model):
    common = {"max_new_tokens": 5, "do_sample": False}
    expected = model.generate(ids(), use_cache=False, **common)
    assert torch.equal(model.generate(ids(), prefill_chunk_size=5, **common), expected)


def test_guessed_tokens_that_are_taken_back_leave_no_trace(model):
    common = {"max_new_tokens": 12, "do_sample": False}
    prompt = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6]])
    expected = model.generate(prompt, use_cache=False, **common)
    assert torch.equal(model.generate(prompt, prompt_lookup_num_tokens=3, **common), expected)


def test_embeddings_alone_are_refused_in_one_line(model):
    embeds = model.get_input_embeddings()(ids())
    with pytest.raises(ValueError, match=r"^memory ngram_hash reads by the ids of tokens; give input_ids, not inp"):
        model(inputs_embeds=embeds)
    with torch.no_grad():
        expected = model(ids()).logits
        torch.testing.assert_close(model(ids(), inputs_embeds=embeds).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("orders", [[], [2, 2], [0], [9]])
def test_senseless_orders_are_refused(orders):
    with pytest.raises(ValueError, match="orders"):
        NgramHashConfig.model_validate(MEMORY | {"orders": orders})


def test_rows_that_the_gate_reads_too_have_the_same_compact_gradient(model):
    decoder = model.train().decoder
    (bank,) = decoder.banks
    expected = torch.autograd.grad(TokenLoss(decoder)(ids())[0], bank.values)[0]
    bank.compact = CompactGradient(bank.values.detach(), bank.n_slots)
    TokenLoss(decoder)(ids())[0].backward()
    gradient = bank.compact.gradient()
    found = torch.zeros_like(bank.values)
    n_rows = int(gradient.n_rows)
    found[gradient.rows[:n_rows]] = gradient.sums[:n_rows]
    torch.testing.assert_close(found, expected, **FLOAT32)


def test_the_cost_counts_the_rows_that_a_token_reads():
    config = ModelConfig.model_validate(SHAPE)
    price = cost(config, 97, 16)
    assert price.memory_parameters == config.memory.n_slots * 8
    assert price.parameters - price.active_parameters == price.memory_parameters - 2 * 4 * 8


@pytest.mark.parametrize("fusion", ["weighted_sum", "gated_mlp"])
def test_the_preflight_finds_no_fault(fusion):
    model = ModelConfig.model_validate(SHAPE | {"fusion": {"type": fusion}, "placement": "parallel", "layers": [1]})
    report = preflight(model, TrainConfig(steps=1), use_cache=False)
    assert report.faults == []
    assert {outcome.check for outcome in report.outcomes if outcome.status == "skipped"} == {"evaluation", "data_order"}
