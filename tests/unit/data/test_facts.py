"""Generated worlds: the same from the same settings, every fact as often as asked, nothing held out in training."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer

from memlm.config.data import DataConfig
from memlm.config.facts import N_ATTRIBUTES, N_TEMPLATES, FactsConfig
from memlm.data.facts import held_out_documents, train_documents
from memlm.data.prepare import prepare
from memlm.data.wording import ATTRIBUTES, MENTOR, WORDINGS, templates
from memlm.data.world import World


def world(**fields):
    return World(FactsConfig(**({"entities": 40, "values": 16, "exposures": 7, "untold_share": 0.1} | fields)))


@pytest.fixture(
    params=[
        {},
        {"facts_per_document": 2, "zipf": 1.0},
        {"templates": 3, "hops": 1, "unknown_share": 1.0},
        {"wording": "tuples"},
        {"wording": "tuples", "facts_per_document": 1, "zipf": 0.5, "attributes": 12},
    ],
    ids=str,
)
def some(request):
    return world(**request.param)


def statements(documents):
    """Every statement by itself, without its end."""
    return Counter(said.strip(" .;") for document in documents for said in re.split("[.;]", document.text)[:-1])


def every_statement(world, kind):
    """What can be said of known entities in the templates of a kind, and which fact it is."""
    return {
        f"{world.prompt(template, world.name(entity), column)} {world.value(entity, column)}": (entity, column)
        for entity in range(world.config.entities)
        for column in range(world.config.n_facts)
        for template in getattr(world.templates[column], kind)
    }


def test_every_told_fact_is_stated_as_often_as_asked_in_training_templates_alone(some):
    meaning = every_statement(some, "train")
    stated, used = np.zeros(some.told.shape, dtype=int), {}
    for said, times in statements(train_documents(some)).items():
        stated[meaning[said]] += times
        used.setdefault(meaning[said], []).append(times)
    assert (stated == some.told * some.exposures[:, None]).all()
    assert not some.told.all()
    for (entity, column), times in used.items():
        n_templates = len(some.templates[column].train)
        assert len(times) == min(n_templates, some.exposures[entity]), "each template comes before one comes twice"
        assert max(times) - min(times) <= 1
    assert not meaning.keys() & every_statement(some, "held_out").keys()


def test_no_text_speaks_of_unknown_entities(some):
    unknown = range(some.config.entities, some.config.entities + some.config.n_unknown)
    names = {some.name(entity) for entity in unknown}
    documents = [*train_documents(some), *held_out_documents(some, "validation"), *held_out_documents(some, "judge")]
    assert len(names) == some.config.n_unknown > 0
    assert not any(name in document.text for document in documents for name in names)


def test_held_out_text_states_told_facts_once_in_held_out_templates(some):
    meaning = every_statement(some, "held_out")
    for split in ("validation", "judge"):
        documents = list(held_out_documents(some, split))
        assert {document.split for document in documents} == {split}
        facts = Counter(meaning[said] for said in statements(documents).elements())
        assert facts == Counter(zip(*map(np.ndarray.tolist, np.nonzero(some.told)), strict=True))


def test_the_same_settings_give_the_same_world_and_text(some):
    again = World(some.config)
    assert again.fingerprint() == some.fingerprint()
    assert list(train_documents(again)) == list(train_documents(some))


@pytest.mark.parametrize("change", [{"seed": 1}, {"exposures": 8}, {"templates": 2}, {"zipf": 1.0}, {"hops": 3}])
def test_other_settings_give_another_hash_and_another_text(change):
    one, other = world(), world(**change)
    assert one.fingerprint() != other.fingerprint()
    assert change == {"hops": 3} or list(train_documents(one)) != list(train_documents(other))


def test_a_world_stays_as_it_is_until_its_version_is_raised():
    known = world()
    assert known.fingerprint()[:22] == "facts 42373d4156f7f620"
    assert next(train_documents(known)).text.startswith("Neighbours agree that Bicugi Dodobi, asked about the instrum")


def test_words_are_equally_long_and_names_differ(some):
    n_all = some.config.entities + some.config.n_unknown
    names = [some.name(entity) for entity in range(n_all)]
    values = [some.spell(value, 0) for value in range(some.config.values)]
    assert len(set(names)) == n_all and {len(name) for name in names} == {13}
    assert len(set(values)) == some.config.values and {len(value) for value in values} == {6}


def test_values_are_drawn_evenly_and_mentors_are_others():
    large = world(entities=4000, values=8, unknown_share=0.5)
    counts = np.bincount(large.values[:, 0], minlength=8)
    assert abs(counts / counts.sum() - 1 / 8).max() < 0.02
    mentors = large.values[:, -1]
    assert (mentors != np.arange(6000)).all() and mentors.max() < 4000
    assert large.n_values(0) == 8 and large.n_values(large.config.n_facts - 1) == 3999


def test_exposures_follow_the_rank():
    exposures = world(entities=1000, exposures=50, zipf=1.0).exposures
    assert exposures.mean() == pytest.approx(50, rel=0.02)
    assert exposures[0] / exposures[9] == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("wording", WORDINGS)
def test_templates_hold_out_frames_that_other_attributes_use(wording):
    config = FactsConfig(wording=wording, attributes=N_ATTRIBUTES)
    each = [templates(config, column) for column in range(config.n_facts)]
    assert {len(found.train) for found in each} == {N_TEMPLATES[wording]}
    assert len(ATTRIBUTES) == N_ATTRIBUTES
    for found in each:
        assert not set(found.train) & set(found.held_out) and len(set(found.train)) == len(found.train)
        elsewhere = {template for other in each for template in other.train}
        assert set(found.held_out) <= elsewhere
    assert templates(config, config.attributes).train[0] and MENTOR.noun == "mentor"


def test_an_entity_is_rarely_told_of_twice_in_a_row():
    """No more often than in a text whose documents are shuffled as a whole."""
    told = world(facts_per_document=1, zipf=1.0, exposures=30)
    names = [document.where for document in train_documents(told)]
    share = told.exposures * told.told.sum(1) / len(names)
    assert sum(a == b for a, b in pairwise(names)) / len(names) < share @ share + 0.01


def test_a_world_becomes_tokens_with_the_splits_that_it_says(tmp_path):
    settings = {"entities": 40, "values": 16, "exposures": 7, "facts_per_document": 1, "templates": 1}
    config = DataConfig(corpus="facts", facts=settings, vocab_size=300, seq_len=16)
    data = prepare(config, tmp_path, progress=False)
    known = World(config.facts)
    assert data.counts["train/documents"] == 7 * known.n_told, "repetition is no duplicate"
    assert data.counts["validation/documents"] == data.counts["judge/documents"] == known.n_told
    text = Tokenizer.from_file(str(data.tokenizer)).decode(data.train.ids.tolist(), skip_special_tokens=False)
    written = text.removesuffix("<|end|>").split("<|end|>")
    assert written == [document.text for document in train_documents(known)]
    other = config.model_copy(update={"facts": FactsConfig(**(settings | {"seed": 1}))})
    assert prepare(other, tmp_path, progress=False).fingerprint != data.fingerprint


def test_a_world_may_stand_beside_other_text(corpus, tmp_path):
    config = DataConfig(corpus=["facts", str(corpus)], facts={"entities": 20, "exposures": 3}, vocab_size=300)
    counts = prepare(config, tmp_path, progress=False).counts
    assert counts["train/documents"] + counts["validation/documents"] + counts["judge/documents"] == 20 * 5 + 300
    assert counts["train/documents"] > 20 * 3 + 200
