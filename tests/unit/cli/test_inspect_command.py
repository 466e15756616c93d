"""`memlm inspect`, as a person runs it."""

import json
import re
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from memlm.cli import screen
from memlm.cli.inspect import _entry, _show_summaries
from memlm.cli.main import app
from memlm.errors import MemlmError, MissingDependencyError
from memlm.inspect.inspection import BankSummary
from tests.unit.inspect.conftest import runs as runs  # a fixture is found by its name


@pytest.fixture
def inspect(runs):
    def call(*arguments, name="shared"):
        line = ["inspect", str(runs.folder / f"{name}-s0"), "--tokens", "3k", *map(str, arguments)]
        result = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
        if isinstance(result.exception, MemlmError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


def test_a_run_is_summed_up(inspect):
    shown = inspect(name="apart")
    assert "bank 1: 64 slots" in shown and "read most: " in shown
    assert "reads counted in training text" in shown, "memlm compare tells usage on held-out text"


def test_a_text_is_shown_token_by_token(inspect):
    shown = inspect("ka lo", "--top", 2)
    reads = json.loads(inspect("ka lo", "--json"))
    assert "layer 0" in shown and "layer 1" in shown
    for head, weights in zip(reads["layers"][1]["slots"][0], reads["layers"][1]["weights"][0], strict=True):
        assert "  ".join(f"{slot}:{weight:.2f}" for slot, weight in list(zip(head, weights, strict=True))[:2]) in shown


def test_a_slot_is_shown_with_contexts_and_writer(inspect):
    (bank,) = json.loads(inspect("--json"))
    slot, reads = bank["most_read"][0]
    shown, card = inspect("--slot", slot), json.loads(inspect("--slot", slot, "--json"))
    assert f"slot {slot} of bank 0" in shown and f"read {reads:,} times" in shown and "«" in shown
    assert "the read that pulled hardest" in shown and card["writer"]["passage"]["token"]


def test_words_are_found(inspect):
    assert "«" in inspect("--find", "ka", "--top", 3)
    assert "no slot has these words" in inspect("--find", "zebra")


def test_entries_are_shown_beside_slots(inspect):
    reads = json.loads(inspect("ka lo", "--json", name="readable"))
    slot, weight = (reads["layers"][0][part][0][0][0] for part in ("slots", "weights"))
    entries = reads["layers"][0]["entries"]
    assert f"{slot}:{weight:.2f}{_entry(entries.get(str(slot)))}" in inspect("ka lo", name="readable")
    slot, entry = next((slot, entry) for slot, entry in entries.items() if entry.strip())
    found = inspect("--find", entry, "--top", 1, name="readable").splitlines()
    assert repr(entry)[1:-1] in found[0].partition(" reads)")[0]
    card = json.loads(inspect("--slot", slot, "--json", name="readable"))
    near, cosine = card["nearest_values"][0]
    shown = inspect("--slot", slot, name="readable")
    assert f"similar values: {near}{_entry(card['entries'].get(str(near)))} ({cosine:.2f})" in shown


def test_more_is_offered_if_there_is_more(inspect):
    n = len(json.loads(inspect("--find", "ka", "--top", 500, "--json")))
    assert "--top shows more" not in inspect("--find", "ka", "--top", n)
    *lines, last = inspect("--find", "ka", "--top", n - 1).splitlines()
    assert len(lines) == n - 1 and last == f"the first {n - 1}; --top shows more"
    assert len(json.loads(inspect("--find", "ka", "--top", n - 1, "--json"))) == n - 1


def test_heads_are_set_apart_where_entries_are_shown(inspect):
    shown = inspect("ka", "--top", 2, name="readable").splitlines()
    of_token = [line for line in shown if line.startswith("│")]
    is_empty = [not re.search(r"\d:", line) for line in of_token]
    assert is_empty == [False, False, True, False, False], "two slots a head, two heads"


def test_empty_slots_are_counted_and_not_listed(capsys):
    bank = BankSummary(0, 8, 3, [1], 9, {1: 3}, [(5, 2)], 1200, {5: "ka"})
    for each, line in (
        (bank, "read most, but for 1,200 empty slots: 5 'ka' (2)"),
        (replace(bank, most_read=[]), "read most, but for 1,200 empty slots: none"),
        (replace(bank, empty=0), "read most: 5 'ka' (2)"),
    ):
        _show_summaries(screen.output(), [each], 4)
        assert line in capsys.readouterr().out.splitlines()


def test_long_and_empty_entries_are_told_in_a_few_characters():
    assert _entry(None) == "" and _entry("") == " empty" and _entry(" ka") == " ' ka'"
    assert _entry("x" * 24) == f" {'x' * 24!r}" and _entry("x" * 25) == f" '{'x' * 23}…'"
    assert _entry("x" * 25, is_whole=True) == f" {'x' * 25!r}"


def test_a_mistake_is_one_clear_line(inspect):
    with pytest.raises(MemlmError, match="give one of TEXT, --slot, --find and --serve"):
        inspect("ka", "--slot", 3)
    with pytest.raises(MemlmError, match="slot 64: there is none"):
        inspect("--slot", 64)
    with pytest.raises(MemlmError, match="--tokens many: is no number of tokens"):
        inspect("--tokens", "many")


def test_the_page_says_what_it_needs(inspect, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'memlm\[serve\]'"):
        inspect("--serve")


def test_the_page_is_served_to_this_machine(inspect, monkeypatch):
    served = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: served.append((server.config.app, sockets[0])))
    shown = inspect("--serve")
    (app, _listener) = served[0]
    assert re.match(r"http://127\.0\.0\.1:\d+  ", shown) and type(app).__name__ == "FastAPI"
