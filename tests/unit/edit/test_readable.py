"""A bank filled with a world's answers: the model gives what its entries say, and an edit of them changes that."""

import re
from dataclasses import replace

import pytest
import torch

from memlm.data.asking import edits
from memlm.edit.demo import demonstrate, page
from memlm.edit.request import Request
from memlm.encoder.base import NO_TOKEN
from memlm.errors import DataError
from memlm.evaluate.recall import answer, encode
from memlm.experiment.config import load_experiment
from memlm.experiment.editing import open_editing
from memlm.experiment.models import new_model
from memlm.experiment.run import run_experiment
from memlm.fill.facts import answer_slots

EXPERIMENT = """\
data:
  corpus: facts
  facts: {wording: tuples, entities: 16, attributes: 2, values: 6, hops: 1, exposures: 150}
  vocab_size: 376
  seq_len: 32
model: {d_model: 48, n_layers: 2, n_heads: 2}
train: {epochs: 1, batch_size: 8, lr: 6.0e-3}
evaluate: {tokens: 500, train_tokens: 500, samples: 0, questions: 4}
variants:
  memory:
    memory:
      type: ngram_hash
      orders: [3]
      n_heads: 2
      n_rows: 3000
      d_value: 48
      bank: {type: tokens, entry_length: 8, learned_share: 0.0, facts: true}
    fusion: {type: weighted_sum}
    placement: parallel
    layers: [1]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readable")
    (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return run_experiment(load_experiment(folder / "tiny.yaml", []), folder, progress=False) / "memory-s0"


@pytest.fixture
def editing(trained):
    return open_editing(trained)


@pytest.fixture
def facts(editing):
    return list(edits(editing.world(), 6))


def n_right(editing, questions):
    encoded = encode(questions, editing.editor.tokenizer, editing.editor.seq_len)
    return int(answer(editing.editor.model.decoder, encoded, 64).exact.sum())


def request(fact):
    return Request(fact.question.subject, fact.question.relation, fact.new_answer.strip())


def test_where_a_question_is_answered_its_answer_is_read(editing, facts):
    editor = editing.editor
    asked = [question for fact in facts for question in (fact.question, fact.paraphrase, *fact.neighbours)]
    right = 0
    for text in encode(asked, editor.tokenizer, 32):
        ((bank, slots),) = answer_slots(editor.model.decoder, [(text.ids, text.n_answer)])
        right += {tuple(bank.entry(slot)) for slot in slots} == {tuple(text.ids[-text.n_answer :])}
    assert right >= 0.9 * len(asked), "two facts may meet in a slot, though seldom"
    assert (editor.model.decoder.banks[0].tokens[:, 0] == NO_TOKEN).float().mean() > 0.5


def test_answers_come_from_entries(editing, facts):
    questions = [question for fact in facts for question in (fact.question, *fact.neighbours)]
    assert n_right(editing, questions) >= 0.9 * len(questions)
    editing.editor.model.decoder.banks[0].tokens.fill_(NO_TOKEN)
    assert n_right(editing, questions) <= 0.4 * len(questions), "without entries it can only guess among six values"


def test_a_fact_is_set_deleted_and_taken_back(editing, facts):
    editor, fact = editing.editor, facts[0]
    ids = torch.tensor([editor.tokenizer.encode(fact.question.prompt).ids])
    with torch.inference_mode():
        before = editor.model(ids).logits
    old = editor.ask(fact.question.prompt)
    made = editor.make(request(fact))
    assert editor.ask(fact.question.prompt) == fact.new_answer.strip() != old == made.edit.old
    assert 0 < len(made.edit.rows) <= 0.01 * len(editor.rows) and made.edit.learned >= 2
    deleted = editor.make(replace(request(fact), answer="", kind="delete"))
    assert editor.ask(fact.question.prompt) != fact.new_answer.strip()
    assert "shares" in deleted.conflicts[0]
    editor.undo_all()
    with torch.inference_mode():
        assert torch.equal(editor.model(ids).logits, before)


def test_edits_change_their_facts_and_spare_the_neighbours(editing, facts):
    shown = demonstrate(editing.editor, editing.world(), len(facts), "tiny/memory", lambda *_: None)
    assert shown.is_restored and sum(edit.after == edit.wanted for edit in shown.edits) >= len(facts) - 1
    assert sum(edit.kept for edit in shown.edits) >= 0.9 * sum(edit.neighbours for edit in shown.edits)
    for edit in shown.edits:
        assert sum(len(entry.slots) for entry in edit.entries) == edit.rows > 0
        assert {entry.after for entry in edit.entries} == {edit.wanted}
        assert any(entry.before == edit.before for entry in edit.entries)
        assert f"{edit.before} → {edit.wanted}<br>" in page(shown)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("entry_length: 8", "entry_length: 1", r"memory.bank.entry_length: '\w+' has \d tokens; raise it"),
        ("corpus: facts", "corpus: python-docs", r"memory.bank.facts: needs a generated world \(data.corpus: facts\)"),
    ],
)
def test_a_world_that_does_not_fill_the_bank_is_told(editing, tmp_path, old, new, message):
    text = re.sub("  facts: .*\n", "", EXPERIMENT) if "corpus" in old else EXPERIMENT.replace("values: 6", "values: 60")
    (tmp_path / "tiny.yaml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        new_model(load_experiment(tmp_path / "tiny.yaml", []), "memory", editing.editor.tokenizer)
