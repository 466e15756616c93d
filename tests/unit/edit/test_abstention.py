"""Knowing what is known: scores, their AUROC and risk against plain counting, and what breaks an index."""

import itertools

import numpy as np
import pytest

from memlm.config.facts import FactsConfig
from memlm.data.asking import ask
from memlm.data.world import World
from memlm.edit.abstention import UNKNOWN, PairIndex, alias, auroc, measure, misspelt, risk
from memlm.experiment.editing import open_editing


def test_auroc_is_the_share_of_pairs_in_order():
    draw = np.random.default_rng(0)
    scores, known = draw.integers(0, 4, 30), draw.random(30) < 0.4
    pairs = itertools.product(scores[known], scores[~known])
    expected = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    assert auroc(scores, known) == pytest.approx(expected)


def test_risk_is_of_the_surest():
    scores, right = np.array([0.1, 0.9, 0.5, 0.7]), np.array([False, True, True, False])
    assert [risk(scores, right, share) for share in (0.25, 0.5, 1.0)] == [0, 0.5, 0.5]


def test_an_index_knows_told_pairs_letter_by_letter():
    world = World(FactsConfig(entities=40, values=16, untold_share=0.3, hops=1))
    index = PairIndex(world)
    asked = list(ask(world, 50))
    for question in asked:
        if question.kind == "paraphrase":
            assert index.names(question.prompt)
            assert not index.names(misspelt(question).prompt) and not index.names(alias(question).prompt)
            assert misspelt(question).answer == question.answer and len(alias(question).prompt) < len(question.prompt)
    unknown = [question for question in asked if question.kind == "unknown_entity"]
    assert unknown and not any(index.names(question.prompt) for question in unknown)


def test_a_model_is_measured(trained):
    editing = open_editing(trained / "memory-s0")
    editor = editing.editor
    found = measure(editor.model.decoder, editor.tokenizer, editor.seq_len, editing.world())
    told_apart = {row.pop("what"): row for row in found["auroc"]}
    assert {f"{kind.replace('_', ' ')}, as told" for kind in UNKNOWN} <= set(told_apart)
    assert told_apart["unknown entity, as told"]["index"] == told_apart["unknown entity, as told"]["both"] == 1
    assert told_apart["unknown entity, misspelt"]["index"] == 0.5
    risks = {row.pop("coverage"): row for row in found["risk"]}
    assert list(risks) == sorted(risks) and len(set(risks[1.0].values())) == 1
    assert all(0 <= value <= 1 for row in (*risks.values(), *told_apart.values()) for value in row.values())
