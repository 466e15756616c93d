"""What an inspection says of reads, contexts, writers and neighbours, against a count by hand."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from memlm.errors import RunError
from memlm.evaluate.loss import spread_starts
from memlm.inspect.contexts import TOP
from memlm.inspect.passage import AFTER, BEFORE
from tests.tolerances import FLOAT32
from tests.unit.inspect.conftest import MARKUP, TOKENS


def every_read(inspection, bank):
    """Yields (slot, layer, weight, position) of each read of the text that was gone through, one sequence at a time."""
    T, decoder = inspection.sampler.seq_len, inspection.model.decoder
    for start in spread_starts(len(inspection.sampler.tokens), T, TOKENS).tolist():
        ids = torch.from_numpy(inspection.sampler.tokens[start : start + T].astype(np.int64))[None]
        with torch.inference_mode():
            reads = decoder(ids).reads
        for layer, read in reads.items():
            if decoder.bank_of(layer) is not decoder.banks[bank]:
                continue
            for t in range(T):
                pairs = zip(read.slots[0, t].flatten().tolist(), read.weights[0, t].flatten().tolist(), strict=True)
                yield from ((slot, layer, weight, start + t) for slot, weight in pairs)


@pytest.mark.parametrize(("name", "bank"), [("shared", 0), ("apart", 1)])
def test_contexts_are_the_highest_weights_of_all_reads(name, bank, request):
    inspection = request.getfixturevalue(name)
    contexts = inspection.contexts[bank]
    counts, weights, best = Counter(), defaultdict(float), defaultdict(dict)
    for slot, layer, weight, position in every_read(inspection, bank):
        counts[layer, slot] += 1
        weights[layer, slot] += weight
        best[slot][position] = max(best[slot].get(position, 0), weight)
    for row, layer in enumerate(contexts.layers.tolist()):
        assert contexts.reads[row].tolist() == [counts[layer, slot] for slot in range(contexts.n_slots)]
        expected = torch.tensor([weights[layer, slot] for slot in range(contexts.n_slots)])
        torch.testing.assert_close(contexts.weight[row], expected, **FLOAT32)
    for slot in range(contexts.n_slots):
        expected = sorted(best[slot].values(), reverse=True)[:TOP]
        known = contexts.top_position[slot] >= 0
        assert known.sum() == len(expected)
        torch.testing.assert_close(contexts.top_weight[slot][known], torch.tensor(expected), **FLOAT32)
        positions = contexts.top_position[slot][known].tolist()
        assert len({*positions}) == len(positions), "a place is told twice"
        for position, weight in zip(positions, expected, strict=True):
            assert best[slot][position] == pytest.approx(weight, rel=1e-3)


def test_a_text_is_told_token_by_token_with_the_reads_of_each(shared):
    text = "ka lo好mi\n"
    found = shared.read(text)
    assert "".join(found.tokens) == text and "" in found.tokens, "a character of several tokens stands in its first"
    ids = torch.tensor([shared.tokenizer.encode(text, add_special_tokens=False).ids])
    for layer, read in shared.model.decoder(ids).reads.items():
        (told,) = (each for each in found.layers if each.layer == layer)
        assert told.bank == 0 and told.slots == read.slots[0].tolist()
        torch.testing.assert_close(torch.tensor(told.weights), read.weights[0].detach())


def test_layers_with_their_own_banks_are_told_apart(apart):
    assert [(layer.layer, layer.bank) for layer in apart.read("ka").layers] == [(0, 0), (1, 1)]
    assert [summary.layers for summary in apart.summaries()] == [[0], [1]]


def test_an_edit_stands_on_the_card_of_a_slot_of_its_bank_alone(apart):
    edited = replace(apart, edits={1: [apart.bank(0).n_slots + 3]})
    assert edited.card(1, 3).edits == [1] and edited.card(0, 3).edits == []


@pytest.mark.parametrize(
    ("text", "message"), [("", "the text is empty"), ("ka " * 400, "was trained on 16; give a part")]
)
def test_a_text_that_cannot_be_read_is_one_clear_line(shared, text, message):
    with pytest.raises(RunError, match=message):
        shared.read(text)


def test_a_card_adds_up(shared):
    usage = shared.usage(0)
    slot = int(usage.argmax())
    card = shared.card(0, slot)
    assert card.rank == 1 and sum(card.reads.values()) == usage[slot] and card.share == usage[slot] / usage.sum()
    assert (card.row, card.column) == divmod(slot, 8)
    assert usage.sum() == sum(int(shared.usage(0, layer).sum()) for layer in (0, 1))
    assert card.value_norm == pytest.approx(float(shared.bank(0).values[slot].detach().norm()))
    weights = [place.weight for place in card.places]
    assert weights == sorted(weights, reverse=True) and 0 < card.mean_weight <= weights[0]


def test_passages_are_the_text_around_a_position_within_its_sequence(shared):
    T, ids = shared.sampler.seq_len, shared.sampler.tokens
    for place in (place for slot in range(20) for place in shared.card(0, slot).places):
        position = place.passage.position
        start = max(position - BEFORE, position // T * T)
        whole = shared.tokenizer.decode(ids[start : position + 1 + AFTER].tolist(), skip_special_tokens=False)
        assert place.passage.text in whole and len(place.passage.text) >= len(whole) - 2
        token = shared.tokenizer.decode([int(ids[position])], skip_special_tokens=False)
        assert place.passage.token == token or "\ufffd" in token


@pytest.mark.parametrize("name", ["shared", "apart"])
def test_writers_are_training_tokens_of_the_step_that_is_told(name, request):
    inspection = request.getfixturevalue(name)
    T, told = inspection.sampler.seq_len, 0
    for bank in range(len(inspection.contexts)):
        for slot in range(inspection.bank(bank).n_slots):
            writer = inspection.card(bank, slot).writer
            if writer is None:
                continue
            told += 1
            first = (writer.step - 1) * 8  # 4 sequences, accumulated twice
            of_step = [inspection.sampler.sequence(row) for row in range(first, first + 8)]
            assert writer.passage.position // T in of_step
            assert writer.first_read <= writer.step <= writer.last_read <= 6 and writer.pull > 0
    assert told > 20


def test_nearest_are_nearest(shared):
    values = shared.bank(0).values.detach()
    card = shared.card(0, 11)
    cosines = F.cosine_similarity(values, values[11][None])
    cosines[11] = -2
    assert card.nearest_values[0] == (int(cosines.argmax()), pytest.approx(float(cosines.max()), abs=1e-6))
    memory = shared.model.decoder.blocks[0].memory
    keys = F.rms_norm(memory.keys.detach(), (8,))  # [H, 2, M, C]
    slots = torch.cat([keys[:, 0].repeat_interleave(8, dim=1), keys[:, 1].repeat(1, 8, 1)], dim=-1)  # [H, S, 2C]
    expected = F.cosine_similarity(slots, slots[:, 11:12], dim=-1).mean(0)
    torch.testing.assert_close(memory.key_similarity(11).detach(), expected, **FLOAT32)
    expected[11] = -2
    assert card.nearest_keys[0][0][0] == int(expected.argmax())


def test_search_finds_words_in_contexts_the_most_read_first(shared):
    usage = shared.usage(0)
    expected = [
        slot
        for slot in np.argsort(-usage.astype(int), kind="stable").tolist()
        if any("ka" in place.passage.text.casefold() for place in shared.card(0, slot).places)
    ]
    hits = shared.search(0, "KA", most=500)
    assert expected and [hit.slot for hit in hits] == expected
    assert all("ka" in hit.passage.text.casefold() and hit.reads == usage[hit.slot] for hit in hits)
    assert shared.search(0, "KA", most=2) == hits[:2]
    assert shared.search(0, "zebra") == []


def test_a_bank_that_has_entries_is_told_by_them(shared, monkeypatch):
    words = shared.tokenizer.encode("zebra crossing", add_special_tokens=False).ids
    monkeypatch.setattr(shared.bank(0), "entry", lambda slot: words if slot == 5 else [])
    assert shared.card(0, 5).entry == "zebra crossing" and shared.card(0, 6).entry == ""
    (hit,) = shared.search(0, "Zebra")
    assert hit.slot == 5 and hit.entry == "zebra crossing" and hit.passage == shared.card(0, 5).places[0].passage


def test_entries_with_the_words_come_before_contexts(shared, monkeypatch):
    rare = int(shared.usage(0).argmin())
    words = shared.tokenizer.encode("ka", add_special_tokens=False).ids
    monkeypatch.setattr(shared.bank(0), "entry", lambda slot: words if slot == rare else [])
    hits = shared.search(0, "KA", most=500)
    assert hits[0].slot == rare and hits[0].entry == "ka" and rare not in [hit.slot for hit in hits[1:]]
    assert hits[1:] and all(hit.entry == "" and "ka" in hit.passage.text.casefold() for hit in hits[1:])
    assert shared.search(0, "KA", most=1) == hits[:1]


def test_entries_stand_beside_the_slots_that_are_named(shared, monkeypatch):
    words = shared.tokenizer.encode("zebra", add_special_tokens=False).ids
    assert shared.read("ka").layers[0].entries == shared.card(0, 7).entries == shared.summaries()[0].entries == {}
    most = shared.overview()["slot"]
    assert most == int(shared.usage(0).argmax()) == shared.summaries()[0].most_read[0][0]
    monkeypatch.setattr(shared.bank(0), "entry", lambda slot: [] if slot == most else words)
    told = {slot: "" if slot == most else "zebra" for slot in range(64)}
    for layer in shared.read("ka lo").layers:
        assert layer.entries == {s: told[s] for of_token in layer.slots for head in of_token for s in head}
    card, (summary,) = shared.card(0, 7), shared.summaries(3)
    near = dict([*card.nearest_values, *(pair for pairs in card.nearest_keys.values() for pair in pairs)])
    assert card.entries == {s: told[s] for s in near}
    assert summary.entries == {s: told[s] for s, _ in summary.most_read}


def test_slots_of_empty_entries_are_left_out_of_lists(shared, monkeypatch):
    words = shared.tokenizer.encode("zebra", add_special_tokens=False).ids
    before, ((most, _), second) = shared.card(0, 7), shared.summaries(2)[0].most_read
    gone = {most, before.nearest_values[0][0], before.nearest_keys[0][0][0]} - {second[0]}
    monkeypatch.setattr(shared.bank(0), "entry", lambda slot: [] if slot in gone else words)
    (summary,) = shared.summaries(1)
    assert summary.most_read == [second] and summary.empty == 1 and shared.overview()["slot"] == second[0]
    card = shared.card(0, 7)
    for now, then in ((card.nearest_values, before.nearest_values), (card.nearest_keys[0], before.nearest_keys[0])):
        kept = [pair for pair in then if pair[0] not in gone]
        assert now[: len(kept)] == kept and len(kept) < len(now) == len(then) and not gone & {s for s, _ in now}
    monkeypatch.setattr(shared.bank(0), "entry", lambda slot: words if slot in (7, 30, 50) else [])
    assert {slot for slot, _ in shared.card(0, 7).nearest_values} == {30, 50}, "however far away they are"
    monkeypatch.setattr(shared.bank(0), "entry", lambda slot: [])
    (summary,) = shared.summaries(1)
    assert summary.most_read == [] and summary.empty == (shared.usage(0) > 0).sum()
    assert shared.overview()["slot"] is None


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda i: i.card(0, 64), "slot 64: there is none; bank 0 has the slots 0 to 63"),
        (lambda i: i.card(0, -1), "slot -1: there is none"),
        (lambda i: i.card(2, 0), "bank 2: there is none; .* has the banks 0 to 0"),
        (lambda i: i.usage(0, 7), "layer 7 does not read bank 0; these do: 0, 1"),
        (lambda i: i.search(0, " "), "nothing to look for"),
    ],
)
def test_what_is_not_there_is_one_clear_line(shared, ask, message):
    with pytest.raises(RunError, match=message):
        ask(shared)


def test_a_readable_bank_shows_its_entries(runs):
    readable = runs.open("readable")
    bank = readable.bank(0)
    text = readable.text.tokenizer.decode(bank.entry(3), skip_special_tokens=True)
    assert readable.card(0, 3).entry == text
    assert readable.card(0, bank.n_slots - 1).entry is None
    bank.replace([3], [readable.text.tokenizer.encode(MARKUP).ids[:5]])
    words = readable.text.tokenizer.decode(bank.entry(3))
    assert 3 in [hit.slot for hit in readable.search(0, words) if hit.entry == words]
