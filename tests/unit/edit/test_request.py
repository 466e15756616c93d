"""What a person asks for: one form on the command line, lines of a file, and the wordings made of it."""

import pytest
import torch
from safetensors.torch import save_file

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
        '{"subject": "Ada", "relation": "school", "answer": "Rome", "prompts": ["Ada\u2028studies in"]}\n\n'
        '{"subject": "Ada", "relation": "club", "kind": "delete"}\n'
    )
    first, second = read_requests(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors begin a file
    assert read_requests(path) == [first, second]
    assert plain_wordings(first) == ["Ada\u2028studies in"] and second.kind == "delete"
    assert "Ada's club is" in plain_wordings(second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"subject": "Ada"}', ":1: relation: field required"),
        ('{"subject": "Ada", "relation": "x"}', ":1: answer: a set needs one"),
        ('{"subject": "Ada", "relation": "x", "answer": "y", "kind": "delete"}', ":1: answer: a set needs one"),
        ('\n{"subject": "Ada", "relation"', ":2: is no JSON (EOF while parsing an object at column 29); give {"),
        ("[" * 10_000, ":1: is no JSON (recursion limit"),
        ("7", ":1: asks for no edit; give {"),
        ('{"subject": "Ada", "relation": "x", "anwser": "y"}', "unknown field 'anwser'. Did you mean 'answer'?"),
        (
            '{"subject": "Ada", "relation": "x", "answer": "y", "promts": []}',
            ":1: unknown field 'promts'. Did you mean",
        ),
        ('{"kind": "replace", "slot": 1, "txt": "y"}', "unknown field 'txt'. Did you mean 'text'? Known: kind, slot"),
        (
            '{"slot": 3, "text": "x"}',
            """:1: a line of "kind": "set" has no 'slot', one of "kind": "replace" has; mend it""",
        ),
        ('{"kind": "replace", "subject": "x"}', """has no 'subject', one of "kind": "set" has"""),
        ('{"kind": "delet"}', ":1: kind: unknown kind 'delet'. Did you mean 'delete'?"),
        ('{"kind": []}', ":1: kind: unknown kind '[]'"),
        ('{"subject": 1, "relation": "x", "answer": "y"}', ":1: subject: input should be a valid string; mend it"),
        ("", "asks for no edit"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "edits.jsonl"
    path.write_text(text)
    with pytest.raises(EditError) as error:
        read_requests(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file_of_lines_is_told_with_what_to_give(tmp_path):
    for path, message in ((tmp_path / "none.jsonl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(EditError, match=rf"cannot be read \({message}.*\); give a file with lines such as"):
            read_requests(path)
    (tmp_path / "binary").write_bytes(b'{"subject": \xff\xfe')
    with pytest.raises(EditError, match=r"is not UTF-8 \(byte 12\); give lines such as"):
        read_requests(tmp_path / "binary")
    save_file({"x": torch.zeros(1)}, tmp_path / "a.pack", metadata={"edits": ""})
    with pytest.raises(EditError, match="what --pack wrote is given to --apply"):
        read_requests(tmp_path / "a.pack")


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
