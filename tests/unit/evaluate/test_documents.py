"""Losses by document: every evaluated token counts once, in the document that it lies in."""

import hashlib

import numpy as np
import pytest

from memlm.evaluate.documents import Coverage
from memlm.evaluate.loss import spread_sequences, spread_starts

END, SEQ_LEN = 0, 10


def text(lengths, unfinished=0):
    """Documents of these lengths, each with its end mark."""
    draw = np.random.default_rng(0)
    parts = [np.append(draw.integers(1, 50, size=length - 1), END) for length in lengths]
    return np.concatenate([*parts, draw.integers(1, 50, size=unfinished)]).astype(np.uint16)


def by_hand(ids, starts):
    """Which document each target lies in, by walking through the text."""
    number, of = 0, []
    for token in ids:
        of.append(number)
        number += token == END
    return [[of[start + 1 + place] for place in range(SEQ_LEN)] for start in starts]


@pytest.mark.parametrize("max_tokens", [10**6, 60])
@pytest.mark.parametrize("unfinished", [0, 7])
def test_tokens_lie_where_the_text_says(max_tokens, unfinished):
    ids = text([3, 25, 1, 12, 80, 2, 2, 31, 40], unfinished)
    starts = spread_starts(len(ids), SEQ_LEN, max_tokens)
    coverage = Coverage.of(ids, END, starts, SEQ_LEN)
    expected = np.array(by_hand(ids, starts))
    known = np.unique(expected)
    assert (known[coverage.places] == expected).all()
    assert coverage.tokens.tolist() == [(expected == number).sum() for number in known]
    losses = np.random.default_rng(1).normal(5, 1, size=expected.shape).astype(np.float32)
    assert coverage.sums(losses) == pytest.approx([losses[expected == n].sum(dtype=float) for n in known], abs=1e-3)
    assert sum(coverage.sums(losses)) == pytest.approx(losses.sum(dtype=float), abs=0.01)


def test_a_name_is_that_of_the_whole_document_wherever_it_is_cut():
    ids = text([30, 45, 60])
    few = Coverage.of(ids, END, np.array([60]), SEQ_LEN)
    every = Coverage.of(ids, END, spread_starts(len(ids), SEQ_LEN, 10**6), SEQ_LEN)
    assert (few.names, few.tokens.tolist()) == ([every.names[1]], [10])
    assert few.names == [hashlib.blake2b(ids[30:75].astype(np.uint32).tobytes(), digest_size=6).hexdigest()]
    wider = Coverage.of(ids.astype(np.uint32), END, np.array([60]), SEQ_LEN)
    assert wider.names == few.names, "the width of the integers is no part of the text"


def test_a_text_without_an_end_mark_is_one_document():
    ids = text([], 100)
    coverage = Coverage.of(ids, END, spread_starts(len(ids), SEQ_LEN, 10**6), SEQ_LEN)
    assert coverage.tokens.tolist() == [len(spread_sequences(ids, SEQ_LEN, 10**6)) * SEQ_LEN]


def test_a_record_of_four_hundred_documents_is_small():
    import json

    ids = text([1800] * 400)
    coverage = Coverage.of(ids, END, spread_starts(len(ids), SEQ_LEN, 10**6), SEQ_LEN)
    losses = np.random.default_rng(1).normal(5, 1, size=coverage.places.shape)
    record = coverage.as_record(dict.fromkeys(["validation_loss", "memory_off_loss", "memory_shuffled_loss"], losses))
    assert len(json.dumps(record, separators=(",", ":"))) < 50_000
