"""Changes of rows: whatever is done and taken back in whatever order, rows are a pure function of what remains."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memlm.edit.background import Background
from memlm.edit.rows import Change, Undoable, VectorRows
from memlm.errors import EditError
from memlm.hf import MemlmConfig, MemlmForCausalLM

MEMORY = {"type": "product_key", "n_keys": 4, "d_key": 8, "d_value": 8, "top_k": 2}


def model(**shape):
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, **shape}
    return MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=300)).eval()


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return model(memory=MEMORY, fusion={"type": "gated_mlp"}, shared_bank=False).decoder


def test_values_of_16_bits_are_read_and_not_changed():
    narrow = model(memory=MEMORY | {"bank": {"type": "vectors", "dtype": "bfloat16"}}, fusion={"type": "gated_mlp"})
    rows = VectorRows(narrow.decoder)
    assert torch.equal(rows.read(torch.tensor([3])), narrow.decoder.banks[0].values[[3]].float())
    with pytest.raises(
        EditError, match=r"^the values are bfloat16, which rounds edits; edit a run that leaves bank\.dtype out$"
    ):
        rows.require_exact()
    with pytest.raises(EditError, match="the values are bfloat16"):
        Background(narrow.decoder, [[5, 6, 7]])


def values(decoder):
    return torch.cat([bank.values.detach().clone() for bank in decoder.banks])


def random_change(rows, seed, n=5):
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(rows), generator=draw)[:n].sort().values
    before = rows.read(chosen)
    return Change(chosen, before, before + torch.randn(before.shape, generator=draw))


def test_rows_are_numbered_through_all_banks(decoder):
    rows = VectorRows(decoder)
    chosen = torch.tensor([1, 15, 16, 31])
    assert len(rows) == 32 and torch.equal(rows.read(chosen), values(decoder)[chosen])
    ids = torch.tensor([[5, 6, 7]])
    reads = decoder(ids).reads
    assert torch.equal(rows.of(reads), torch.cat([reads[0].slots.flatten(2), reads[1].slots.flatten(2) + 16], -1))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True), st.data())
def test_any_edit_is_undone_bit_for_bit(decoder, seeds, data):
    rows, base = VectorRows(decoder), values(decoder)
    state = Undoable(rows, "base")
    for seed in seeds:
        state.do(random_change(rows, seed))
    changes, results = list(state.changes), list(state.results)
    gone = data.draw(st.integers(0, len(seeds) - 1))
    remaining = changes[:gone] + changes[gone + 1 :]
    state.set(remaining)
    undone, end = values(decoder), list(state.results)
    assert end[:gone] == results[:gone]
    state.set([])
    assert torch.equal(values(decoder), base) and state.results == []
    fresh = Undoable(rows, "base")
    fresh.set(remaining)
    assert torch.equal(values(decoder), undone) and fresh.results == end
    fresh.set([])
    assert torch.equal(values(decoder), base)


def test_what_was_undone_last_leaves_what_was_before(decoder):
    rows = VectorRows(decoder)
    state = Undoable(rows, "base")
    state.do(random_change(rows, 1, 20))
    one = values(decoder)
    state.do(random_change(rows, 2, 20))  # 20 of 32 rows: some are shared
    assert state.shared_with(state.changes[0])[1] >= 8
    state.set(state.changes[:1])
    assert torch.equal(values(decoder), one)
    state.set([])


def test_the_difference_stays_where_an_earlier_edit_of_the_row_is_undone(decoder):
    rows = VectorRows(decoder)
    state, row = Undoable(rows, "base"), torch.tensor([3])
    base = rows.read(row)
    state.do(Change(row, base, base + 1))
    state.do(Change(row, base + 1, base + 3))
    state.set(state.changes[1:])
    assert torch.equal(rows.read(row), base + ((base + 3) - (base + 1)))
    state.set([])


def test_a_model_without_a_memory_has_no_rows():
    with pytest.raises(EditError, match="no bank of vectors to edit"):
        VectorRows(model().decoder)
