"""The lines of a log: any change of them is told, whichever part of an edit it is in."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from memlm.edit.lines import Edit, parse_lines, sealed_lines, superseded
from memlm.errors import EditError

BASE = "b" * 64
FIRST = Edit(1, "set", "Ada", "school", "Rome", "Bonn", ("Ada's school is",), (3, 5), BASE, "r" * 64, "c" * 64, 1)
EDITS = [
    FIRST,
    replace(FIRST, id=2, subject="Béa\u2028"),
    replace(FIRST, id=4, relation="club", answer="", kind="delete"),
]
DAMAGED = {
    "id": 7,
    "kind": "replace",
    "subject": "Bob",
    "relation": "town",
    "answer": "Paris",
    "old": "Rome",
    "prompts": ["Bob's school is"],
    "rows": [3, 6],
    "base": "0" * 64,
    "result": "0" * 64,
    "change": "0" * 64,
    "learned": 0,
    "seal": "0" * 64,
}


def parse(lines):
    return parse_lines(lines, Path("log"), BASE, "mend it")


def told(lines):
    return [json.loads(line) for line in lines.split("\n") if line]


def text(lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_lines_are_read_as_they_were_written_however_they_are_spaced():
    lines = sealed_lines(EDITS)
    assert parse(lines) == EDITS == parse(text(told(lines))) and parse("") == []
    assert list(told(lines)[0]) == list(DAMAGED), "each field is damaged below"


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_any_change_of_a_line_is_told_with_its_edit_and_how_to_mend_it(name, place):
    lines = told(sealed_lines(EDITS))
    number = lines[place]["id"] if name != "id" else 7
    lines[place][name] = DAMAGED[name]
    with pytest.raises(EditError, match=f"^log:{place + 1}: edit {number} does not fit its seal: .*; mend it$"):
        parse(text(lines))


def test_a_line_that_is_gone_moved_added_to_or_without_its_seal_is_told():
    first, second, third = told(sealed_lines(EDITS))
    unsealed = {name: value for name, value in second.items() if name != "seal"}
    for lines in ([first, third], [second, first, third], [first, {**second, "note": 1}, third], [first, unsealed]):
        with pytest.raises(EditError, match="does not fit its seal"):
            parse(text(lines))


def test_lines_of_an_earlier_version_are_read_and_get_seals_when_they_are_written():
    old = [{k: v for k, v in asdict(edit).items() if k != "learned"} for edit in EDITS]
    edits = parse(text(old))
    assert edits == [replace(edit, learned=None) for edit in EDITS]
    assert parse(sealed_lines(edits)) == edits and all("seal" in line for line in told(sealed_lines(edits)))
    for damaged, message in (
        ({"kind": "add"}, "log:1: kind: input should be 'set'"),
        ({"change": "../x"}, "log:1: change: string should match"),
        ({"color": 1}, "log:1: color: unexpected"),
        ({"base": "0" * 64}, "edit 1 belongs to other weights"),
        ({"id": 2}, "the numbers of its edits do not ascend"),
    ):
        with pytest.raises(EditError, match=message):
            parse(text([old[0] | damaged, *old[1:]]))


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", r"is no JSON \(EOF while parsing an object at column 1\); mend it"), ("7", "is no edit")],
)
def test_what_is_no_edit_is_told(line, message):
    with pytest.raises(EditError, match=f"^log:2: {message}"):
        parse(sealed_lines(EDITS[:1]) + line)


def test_seals_are_those_of_what_is_written_without_credentials(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "Rome-and-Bonn")
    edits = parse(sealed_lines([replace(FIRST, answer="Rome-and-Bonn")]))
    assert [edit.answer for edit in edits] == ["***"]


def test_a_later_edit_of_the_same_fact_supersedes():
    again = [*EDITS, replace(FIRST, id=5), replace(FIRST, id=6)]
    assert superseded(again) == {1: 6, 5: 6}
    assert superseded([*again[:-1], replace(FIRST, id=6, learned=0)]) == {1: 5}
    assert superseded([replace(FIRST, learned=0), replace(FIRST, id=2)]) == {1: 2}
    assert replace(FIRST, learned=0).is_missed and not replace(FIRST, learned=0, prompts=()).is_missed
    assert not replace(FIRST, learned=None).is_missed and not FIRST.is_missed
