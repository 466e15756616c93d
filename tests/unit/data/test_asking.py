"""Questions: right under the world, of the kind they say, and where the answer stands in no text it stands in none."""

import json

import pytest

from memlm.config.data import DataConfig
from memlm.config.evaluate import EvaluateConfig
from memlm.config.facts import FactsConfig
from memlm.data.asking import ask, edits, question_set
from memlm.data.facts import train_documents
from memlm.data.questions import KINDS, Question, read_questions
from memlm.data.wording import WORDINGS
from memlm.data.world import World
from memlm.errors import DataError

OF_A_WORLD = set(KINDS) - {"file"}


@pytest.fixture(scope="module", params=WORDINGS)
def known(request):
    settings = {"entities": 60, "values": 16, "exposures": 7, "hops": 3, "untold_share": 0.1}
    return World(FactsConfig(wording=request.param, **settings))


@pytest.fixture(scope="module")
def text(known):
    return "\n".join(document.text for document in train_documents(known))


def asked(known, limit=10**6):
    by_kind = {}
    for question in ask(known, limit):
        by_kind.setdefault(question.kind, []).append(question)
    return by_kind


def facts(known):
    """What is true of everybody, told or not: (name, noun) -> value."""
    return {
        (known.name(entity), attribute.noun): known.value(entity, column)
        for entity in range(len(known.values))
        for column, attribute in enumerate(known.attributes)
    }


def stated(question, known, text):
    return f"{question.prompt}{question.answer}{known.wording.end}" in text


def test_every_kind_is_asked_up_to_the_limit(known):
    every, few = asked(known), asked(known, 3)
    assert every.keys() == few.keys() == OF_A_WORLD
    assert {len(questions) for questions in few.values()} == {3}
    assert len(every["seen"]) == len(every["paraphrase"]) == known.n_told
    seen, paraphrase = ([(q.subject, q.relation) for q in few[kind]] for kind in ("seen", "paraphrase"))
    assert seen == paraphrase, "the same facts are asked in both"
    assert len(every["unknown_attribute"]) == known.told.size - known.n_told
    assert len(every["unknown_entity"]) == known.config.n_unknown * known.config.n_facts
    for kind, questions in every.items():
        assert len({(q.subject, q.relation) for q in questions}) == len(questions), kind
        assert few[kind] == questions[:3] or kind == "paraphrase", kind


def test_every_answer_is_right(known):
    truth = facts(known)
    for kind, questions in asked(known).items():
        for question in questions:
            *through, noun = question.relation.split()
            subject, answer = question.subject, question.answer.removeprefix(" ")
            if kind == "reversed":
                assert truth[answer, noun] == subject
                continue
            for step in through:
                subject = truth[subject, step]
            assert truth[subject, noun] == answer
            assert question.subject in question.prompt
            assert question.n_values == (59 if noun == "mentor" else 16)


def test_only_seen_questions_stand_in_the_text(known, text):
    for kind, questions in asked(known).items():
        found = [stated(question, known, text) for question in questions]
        assert all(found) if kind == "seen" else not any(found), kind


def test_nothing_else_in_the_text_tells_what_is_unknown(known, text):
    columns = {attribute.noun: column for column, attribute in enumerate(known.attributes)}
    for kind in ("unknown_entity", "unknown_attribute"):
        for question in asked(known)[kind]:
            column = columns[question.relation]
            for template in known.templates[column].train:
                assert known.prompt(template, question.subject, column) + question.answer not in text


def test_reversed_questions_have_one_answer(known):
    values = known.values[: known.config.entities]
    for question in asked(known)["reversed"]:
        column = [attribute.noun for attribute in known.attributes].index(question.relation)
        holders = [e for e in range(len(values)) if known.value(e, column) == question.subject]
        assert [f" {known.name(holder)}" for holder in holders] == [question.answer]


def test_edits_change_one_fact_to_another_value(known):
    truth = facts(known)
    found = list(edits(known, 50, n_neighbours=3))
    assert len(found) == 50 and found == list(edits(known, 50, n_neighbours=3))
    for edit in found:
        subject, relation = edit.question.subject, edit.question.relation
        assert edit.question.answer == edit.paraphrase.answer == f" {truth[subject, relation]}"
        assert edit.paraphrase.prompt != edit.question.prompt
        column = [attribute.noun for attribute in known.attributes].index(relation)
        possible = {f" {known.spell(value, column)}" for value in range(60 if relation == "mentor" else 16)}
        assert edit.new_answer in possible - {edit.question.answer, f" {subject}"}
        assert len({neighbour.subject for neighbour in edit.neighbours} - {subject}) == 3
        for neighbour in edit.neighbours:
            assert neighbour.relation == relation
            assert neighbour.answer == f" {truth[neighbour.subject, relation]}"


def test_what_an_experiment_asks(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"text": "The sky is blue.", "answer": "blue"}\n', encoding="utf-8")
    data = DataConfig(corpus="facts", facts={"entities": 20})
    both = question_set(data, EvaluateConfig(questions=5, question_file=str(path)))
    assert both.n_facts == World(data.facts).n_told
    assert both.questions[-1] == Question("The sky is", " blue", "file")
    assert {question.kind for question in both.questions} == set(KINDS) - {"three_hop"}
    assert not question_set(DataConfig(corpus="x"), EvaluateConfig())
    assert not question_set(data, EvaluateConfig(questions=0))
    assert both.fingerprint() != question_set(data, EvaluateConfig(questions=5)).fingerprint()


def test_questions_of_a_file(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows = [
        {
            "text": "成语“残汤剩饭”的意思是：指吃剩的饭菜。",
            "answer": "指吃剩的饭菜",
            "subject": "残汤剩饭",
            "relation": "m",
        },
        {"text": "Paris, I mean Paris.", "answer": "Paris", "lang": "en"},
        {"text": "a b", "answer": "b"},
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    first, second, third = read_questions(path, 10)
    assert first == Question("成语“残汤剩饭”的意思是：", "指吃剩的饭菜", "file", "残汤剩饭", "m")
    assert (second.prompt, second.answer) == ("Paris, I mean", " Paris"), "the last place where the answer stands"
    assert read_questions(path, 2) == [first, second] and third.answer == " b"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); mend it"),
        ("[]", "a question needs the texts 'text' and 'answer'; mend it"),
        ('{"text": "a"}', "a question needs the texts 'text' and 'answer'; mend it"),
        ('{"text": "a", "answer": " "}', "a question needs the texts 'text' and 'answer'; mend it"),
        ('{"text": "a b", "answer": "c"}', "no text goes before the answer 'c' in it; mend it"),
        ('{"text": "a \\ud800 b", "answer": "b"}', "has a lone surrogate, which UTF-8 cannot hold; mend it"),
        ('{"text": "a b", "answer": "a"}', "no text goes before the answer 'a' in it; mend it"),
    ],
)
def test_questions_that_are_none(tmp_path, line, reason):
    path = tmp_path / "q.jsonl"
    path.write_text('{"text": "a\u2028b", "answer": "b"}\n\n' + line, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_questions(path, 10)
    assert str(caught.value) == f"{path}:3: {reason}", "lines are counted as editors do, blank ones too"


def test_files_that_hold_no_question(tmp_path):
    path = tmp_path / "q.jsonl"
    with pytest.raises(DataError, match=r"cannot be read \(No such file.*\); mend evaluate.question_file"):
        read_questions(path, 10)
    path.write_bytes(b"{}\n\xff")
    with pytest.raises(DataError, match=r"q\.jsonl:2: is not UTF-8 \(byte 3 of the file\); mend it"):
        read_questions(path, 10)
    path.write_text("\n")
    with pytest.raises(DataError, match=r"has no question; mend evaluate\.question_file"):
        read_questions(path, 10)
