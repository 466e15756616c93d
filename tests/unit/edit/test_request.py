"""What a person asks for: one form on the command line, lines of a file, and the wordings made of it."""

import pytest

from memlm.config.facts import FactsConfig
from memlm.data.asking import edits
from memlm.data.world import World
from memlm.edit.request import MOST_PROMPTS, Request, parse, plain_wordings, read_requests, world_wordings
from memlm.errors import EditError


def test_the_forms_of_the_command_line():
    assert parse("Ada  | school|  Rome ", "set") == Request("Ada", "school", "Rome")
    assert parse("Ada | school", "delete") == Request("Ada", "school", kind="delete")
    with pytest.raises(EditError, match=r"--set 'Ada \| school': has another form than 'subject \| relation \| new"):
        parse("Ada | school", "set")
    with pytest.raises(EditError, match="--delete"):
        parse("Ada |", "delete")


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "edits.jsonl"
    path.write_text(
        '{"subject": "Ada", "relation": "school", "answer": "Rome", "prompts": ["Ada\u2028studies in"], "id": 3}\n\n'
        '{"subject": "Ada", "relation": "club", "kind": "delete"}\n'
    )
    first, second = read_requests(path)
    assert plain_wordings(first) == ["Ada\u2028studies in"] and second.kind == "delete"
    assert "Ada's club is" in plain_wordings(second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"subject": "Ada"}', ":1: relation: field required"),
        ('{"subject": "Ada", "relation": "x"}', ":1: answer: a set needs one"),
        ('{"subject": "Ada", "relation": "x", "answer": "y", "kind": "delete"}', ":1: answer: a set needs one"),
        ("{", ":1: the line: invalid json"),
        ("", "asks for no edit"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "edits.jsonl"
    path.write_text(text)
    with pytest.raises(EditError) as error:
        read_requests(path)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(EditError, match="cannot be read"):
        read_requests(tmp_path / "none.jsonl")


def test_a_world_is_asked_in_its_training_templates_alone():
    world = World(FactsConfig(entities=30, values=16))
    wordings = world_wordings(world)
    for edit in edits(world, 20):
        prompts = wordings(Request(edit.question.subject, edit.question.relation, "x"))
        assert len(set(prompts)) == MOST_PROMPTS and edit.paraphrase.prompt not in prompts
        column = [attribute.noun for attribute in world.attributes].index(edit.question.relation)
        trained = {world.prompt(t, edit.question.subject, column) for t in world.templates[column].train}
        assert set(prompts) <= trained
    assert wordings(Request("Ada", "hat", "x")) == plain_wordings(Request("Ada", "hat", "x"))
