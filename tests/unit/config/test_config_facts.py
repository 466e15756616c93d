"""Every error text of a generated world's settings."""

import pytest

from memlm.config.data import DataConfig
from memlm.config.facts import FactsConfig
from tests.unit.config.texts import NUMBER, at_least, text_with

FACTS = [
    ("wording: prosa", "wording = 'prosa'", "unknown value 'prosa'. Did you mean 'prose'? Known: prose, tuples."),
    ("entities: 2", "entities = 2", at_least(3)),
    ("entities: true", "entities = True", NUMBER),
    ("attributes: 1", "attributes = 1", at_least(2)),
    ("attributes: 13", "attributes = 13", "Input should be less than or equal to 12"),
    ("values: 1", "values = 1", at_least(2)),
    ("exposures: 0", "exposures = 0", at_least(1)),
    ("entities: 1M, exposures: 2001", "exposures = 2001", "entities * exposures may be at most 2,000,000,000"),
    ("zipf: -1", "zipf = -1", at_least(0)),
    ("templates: 0", "templates = 0", at_least(1)),
    ("templates: 49", "templates = 49", "the wording prose has 48"),
    ("wording: tuples, templates: 3", "templates = 3", "the wording tuples has 2"),
    ("facts_per_document: 0", "facts_per_document = 0", at_least(1)),
    ("facts_per_document: 6", "facts_per_document = 6", "an entity has 5 facts"),
    ("hops: 1, facts_per_document: 5", "facts_per_document = 5", "an entity has 4 facts"),
    ("hops: 0", "hops = 0", at_least(1)),
    ("unknown_share: 2", "unknown_share = 2", "Input should be less than or equal to 1"),
    ("untold_share: 0.6", "untold_share = 0.6", "Input should be less than or equal to 0.5"),
    ("seed: -1", "seed = -1", at_least(0)),
]


@pytest.mark.parametrize(("fields", "subject", "reason"), FACTS)
def test_a_setting_that_is_wrong_is_told_in_one_line(problems_of, fields, subject, reason):
    text = text_with("data", f"corpus: facts, facts: {{{fields}}}")
    assert problems_of(text) == [f"c.yaml:1  data.facts.{subject}  {reason}"]


def test_no_setting_is_without_a_test():
    subjects = " ".join(subject for _, subject, _ in FACTS)
    assert [name for name in FactsConfig.model_fields if name not in subjects] == []


def test_a_world_beside_other_text_leaves_the_shares_of_that_alone():
    assert DataConfig(corpus=["facts", "x"], validation_share=0.1, facts={"seed": 1}).has_facts
    assert not DataConfig(corpus="x").has_facts
