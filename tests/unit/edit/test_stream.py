"""Sets of new facts, one after the other: what is learned, and what of the old is forgotten."""

from dataclasses import replace

import pytest

from memlm.config.facts import FactsConfig
from memlm.data.asking import new_facts
from memlm.data.facts import train_documents
from memlm.data.world import World
from memlm.edit.finetune import Tuning
from memlm.edit.methods import Full
from memlm.edit.stream import WAYS, run_stream
from memlm.errors import EditError
from memlm.experiment.editing import open_editing


@pytest.fixture(scope="module")
def subject(trained):
    subject = open_editing(trained / "memory-s0").subject(1)
    return replace(subject, background=subject.background[:32])


def test_new_facts_are_of_entities_that_no_text_names():
    world = World(FactsConfig(entities=30, values=16, exposures=2))
    facts = list(new_facts(world, 100))
    assert len(facts) == 3 * 5 and len({(f.question.subject, f.question.relation) for f in facts}) == 15
    text = " ".join(document.text for document in train_documents(world))
    for fact in facts:
        assert fact.question.subject not in text and fact.new_answer == fact.question.answer == fact.paraphrase.answer
        assert fact.question.prompt != fact.paraphrase.prompt


def test_every_way_is_asked_after_every_set(subject):
    results = run_stream(subject, 2, Tuning(steps=2, near=4), lambda *_: None)
    assert list(results) == list(WAYS)
    for rows in results.values():
        assert [(row["set"], row["facts"]) for row in rows] == [(1, 2), (2, 4)]
        for row in rows:
            assert all(0 <= row[field] <= 1 for field in ("latest", "learned", "forgotten"))


def test_nothing_is_forgotten_without_a_step(subject):
    (row,) = run_stream(subject, 1, Tuning(steps=0, near=4), lambda *_: None, {"full": (Full, False)})["full"]
    assert row["forgotten"] == 0


def test_the_course_of_a_way_is_told_from_its_start(subject):
    told = []
    run_stream(subject, 2, Tuning(steps=0, near=4), lambda *what: told.append(what), {"full": (Full, False)})
    assert told == [("full: reading text to spare", 32, 32), *(("full", number, 2) for number in (0, 1, 2))]


def test_what_trains_long_learns_and_forgets(subject):
    fast = type("Fast", (Full,), {"rate": 3e-3})
    ways = {"fast": (fast, False)}
    (row,) = run_stream(subject, 1, Tuning(steps=60, sure=0.95, near=4), lambda *_: None, ways)["fast"]
    assert row["latest"] == row["learned"] >= 0.5 and row["forgotten"] > 0


def test_more_sets_than_facts_are_refused(subject):
    with pytest.raises(EditError, match="the world has 4 facts of unknown entities, too few for 5 sets"):
        run_stream(subject, 5, Tuning(), lambda *_: None)
