"""The facts of a generated world, listed and searched, and what is told of names that it does not have."""

import itertools
import json

import pytest

from memlm.config.facts import FactsConfig
from memlm.data.world import World
from memlm.edit.facts import strangers, told_facts
from memlm.edit.request import parse, read_requests
from memlm.errors import EditError
from tests.told import one_line

WORLD = World(FactsConfig(entities=30, values=16, untold_share=0.2))


def test_all_told_facts_are_listed_and_no_other():
    facts = list(told_facts(WORLD))
    nouns = [attribute.noun for attribute in WORLD.attributes]
    assert len(facts) == WORLD.n_told < 30 * len(nouns)
    for entity, column in itertools.product(range(30), range(len(nouns))):
        fact = f"{WORLD.name(entity)} | {nouns[column]} | {WORLD.value(entity, column)}"
        assert (fact in facts) == WORLD.told[entity, column]


def test_facts_are_found_by_words_in_any_order_and_case():
    first, last = WORLD.name(3).upper().split()
    expected = [fact for fact in told_facts(WORLD) if WORLD.name(3) in fact and "| mentor |" in fact]
    assert [fact for fact in told_facts(WORLD, f"mentor {last} {first}") if fact.startswith(WORLD.name(3))] == expected
    assert list(told_facts(WORLD, "mentor")) == [fact for fact in told_facts(WORLD) if "mentor" in fact]
    assert list(told_facts(WORLD, "nothing at all")) == []


def test_a_listed_fact_is_what_set_takes():
    fact = next(told_facts(WORLD))
    request = parse(fact, "set", WORLD)
    assert f"{request.subject} | {request.relation} | {request.answer}" == fact


def test_an_unknown_relation_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(EditError) as error:
        parse("Ada | birthpalce | Rome", "set", WORLD)
    told = one_line(error.value, "--set 'Ada | birthpalce | Rome': ", "Did you mean 'birthplace'?")
    assert "Known: birthplace, employer, instrument, mentor, school." in told
    with pytest.raises(EditError, match=r"--delete 'Ada \| hat': unknown relation 'hat'\. Known: "):
        parse("Ada | hat", "delete", WORLD)
    assert parse("Ada | hat | red", "set").relation == "hat", "without a world any relation may be asked for"
    path, line = tmp_path / "edits.jsonl", {"subject": "Ada", "relation": "school", "answer": "Rome"}
    path.write_text(f"{json.dumps(line)}\n{json.dumps(line | {'relation': 'shcool'})}\n")
    with pytest.raises(EditError, match=r"edits\.jsonl:2: unknown relation 'shcool'\. Did you mean 'school'\?"):
        read_requests(path, WORLD)
    path.write_text(json.dumps(line | {"relation": "hat", "prompts": ["Ada wears a hat from"]}))
    assert read_requests(path, WORLD)[0].relation == "hat", "it is asked for in words of its own"


def test_a_stranger_is_told_from_a_misspelt_name():
    name, unknown = WORLD.name(0), WORLD.name(30)
    misspelt = name[:3] + name[4] + name[3] + name[5:]
    assert strangers(WORLD, [name, misspelt, "Ada Lovelace", unknown, unknown]) == {
        misspelt: name,
        "Ada Lovelace": None,
        unknown: None,
    }
