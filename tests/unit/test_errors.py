"""An error is one line, whatever names and values went into it."""

import pickle
import sys

import pytest

from memlm.errors import ConfigError, DataError, MissingDependencyError, counted
from memlm.extras import optional
from tests.told import one_error, one_line


def test_what_cannot_be_printed_is_escaped():
    assert str(DataError("a\nb\x1b[31m\u2028: 记忆 \ud800")) == "a\\nb\\x1b[31m\\u2028: 记忆 \\ud800"


def test_a_long_text_keeps_both_ends():
    text = str(DataError("corpus.jsonl:3: has a field " + "x" * 10_000 + "; mend it"))
    assert len(text) == 1500 and text.startswith("corpus.jsonl:3: has") and text.endswith("x; mend it")


def test_what_is_escaped_is_cut_after_that():
    assert len(str(DataError("\0" * 10_000))) == 1500


def test_a_list_of_problems_keeps_its_lines():
    assert str(ConfigError("c.yaml: 1 problem\n  x")) == "c.yaml: 1 problem\n  x"


def test_one_of_something_and_many():
    assert [counted(n, "run") for n in (0, 1, 2, 3000)] == ["0 runs", "1 run", "2 runs", "3,000 runs"]


def test_a_package_that_is_missing_or_broken_is_one_line_that_installs_it(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise ImportError('libthing.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "missing_package", None)
    for name in ("missing_package", "broken_package"):
        with pytest.raises(MissingDependencyError) as raised:
            optional(name, "tune", "memlm tune")
        one_line(raised.value, name, "memlm tune", "pip install 'memlm[tune]'")
    assert optional("json", "tune", "memlm tune").dumps([]) == "[]"


@pytest.mark.parametrize("told", ["", "a\nb", "\x1b[31m", "Traceback (most recent call last)", "x" * 1501, "no place"])
def test_the_oracle_refuses_what_is_no_line(told):
    with pytest.raises(AssertionError):
        one_line(told, "c.yaml")
    with pytest.raises(AssertionError):
        one_error(f"{told}\n")
    assert one_error("error: c.yaml: is empty\n", "c.yaml") == "c.yaml: is empty"


def test_what_is_missing_is_told_by_another_process_too():
    error = MissingDependencyError("swanlab", "swanlab", "trackers")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
