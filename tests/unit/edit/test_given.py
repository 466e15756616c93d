"""When an answer counts as given: it is all that the model says, up to the end of a sentence."""

import pytest
import torch

from memlm.data.asking import edits
from memlm.data.world import World
from memlm.edit.request import Request
from memlm.edit.rows import Change


@pytest.fixture
def facts(editing):
    return list(edits(World(editing.finished.config.data.facts), 4))


@pytest.fixture
def told(editing, facts):
    """A question and what the base says to it, of several tokens, with the beginning of that."""
    for fact in facts:
        said = editing.editor.ask(fact.question.prompt)
        ids = editing.editor.tokenizer.encode(f" {said}").ids
        beginning = editing.editor.tokenizer.decode(ids[:-1]).strip()
        if beginning and editing.editor.tokenizer.encode(f" {beginning}").ids == ids[:-1]:
            return fact.question, said, beginning
    raise AssertionError("every answer is one token")


def test_the_beginning_of_what_is_said_is_not_given(editing, told, monkeypatch):
    question, said, beginning = told
    editor = editing.editor
    rows = torch.tensor([0])
    now = editor.rows.read(rows)
    monkeypatch.setattr("memlm.edit.editor.learn_rows", lambda *_: Change(rows, now, now))
    made = editor.make(Request(question.subject, question.relation, beginning, prompts=(question.prompt,)))
    assert made is not None and made.edit.learned == 0 and editor.ask(question.prompt) == said
    assert editor.make(Request(question.subject, question.relation, said, prompts=(question.prompt,))) is None
    assert editor.is_given(question.prompt, said) and editor.is_given(question.prompt, f"{said}.")
    assert not editor.is_given(question.prompt, beginning)


def test_an_answer_may_hold_ends_and_many_tokens(editing, told, monkeypatch):
    editor, prompt = editing.editor, told[0].prompt
    saying = []

    def says(text):
        saying[:] = editor.tokenizer.encode(f" {text}").ids

    def logits(hidden):
        return torch.eye(editor.tokenizer.get_vocab_size())[saying.pop(0)]

    monkeypatch.setattr(editor.model.decoder, "logits", logits)
    for text, wanted, is_given in (
        ("St. Louis. He is", "St. Louis", True),
        ("St. Louis. He is", "St. Louis.", True),
        ("St. Paul. He is", "St. Louis", False),
        ("St. Louis. He is", "St", True),
        ("abcdefghijklmnopqrs. And", "abcdefghijklmnopqrs", True),
        ("abcdefghijklmnopqrst. And", "abcdefghijklmnopqrs", False),
    ):
        says(text)
        assert editor.is_given(prompt, wanted) == is_given, (text, wanted)


def test_an_answer_that_is_given_already_is_not_taught_again(editing, facts):
    editor, asked = editing.editor, facts[0].question
    wanted = Request(asked.subject, asked.relation, facts[0].new_answer.strip())
    editor.make(wanted)
    rows = editor.rows.read(torch.arange(len(editor.rows)))
    assert editor.make(wanted) is None
    assert len(editor.edits) == 1 and torch.equal(editor.rows.read(torch.arange(len(editor.rows))), rows)
