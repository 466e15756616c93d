"""An error is one line, whatever names and values went into it."""

from memlm.errors import ConfigError, DataError


def test_what_cannot_be_printed_is_escaped():
    assert str(DataError("a\nb\x1b[31m\u2028: 记忆 \ud800")) == "a\\nb\\x1b[31m\\u2028: 记忆 \\ud800"


def test_a_long_text_keeps_both_ends():
    text = str(DataError("corpus.jsonl:3: has a field " + "x" * 10_000 + "; mend it"))
    assert len(str(DataError("\n" * 1999))) == len(text) == 2000
    assert text.startswith("corpus.jsonl:3: has") and text.endswith("x; mend it")


def test_a_list_of_problems_keeps_its_lines():
    assert str(ConfigError("c.yaml: 1 problem\n  x")) == "c.yaml: 1 problem\n  x"
