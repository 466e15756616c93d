"""Tables in a terminal, and where there is none."""

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from memlm.cli import screen
from memlm.cli.main import app

RECORD = Path(__file__).parents[3] / "experiments" / "wiring"
FRAME = tuple("┏┃┡│└")
HEADS = ["variant", "layer", *(f"measure {i} of many" for i in range(8)), "记忆"]
ROWS = [[f"variant_{i}", "0", *(f"{1000 * i + j:,} ± 0.00{j}" for j in range(8)), "读"] for i in range(1, 3)]


def shown(width, rows=ROWS):
    console = Console(file=io.StringIO(), width=width, soft_wrap=True)
    screen.show_table(console, HEADS, rows, "a title", labels=2)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [48, 80, 120])
def test_a_table_that_is_too_wide_comes_in_parts_and_no_cell_is_cut(width):
    text = shown(width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert text.count("a title") == 1 and text.count("variant_2") == text.count("┏") > 1
    assert "…" not in text
    assert all(cell in text for row in ROWS for cell in row), "values this short are not even broken"
    assert all(len(re.findall(f"measure {i} ", text)) == 1 for i in range(8))


def test_texts_are_shown_as_they_are(capsys):
    for console in (screen.output(), screen.beside()):
        console.print("a :heart: b")
    assert capsys.readouterr() == ("a :heart: b\n", "a :heart: b\n")


def test_a_table_that_fits_is_whole():
    text = shown(400)
    assert text.count("┏") == 1 and all(head in text for head in HEADS)


def test_a_word_that_is_longer_than_the_screen_is_folded():
    name = "a" * 90
    text = shown(80, [[name, *ROWS[0][1:]]])
    assert sum(line.count("a") for line in text.splitlines() if "─" not in line) >= 90 and "…" not in text


def test_the_widest_column_gives_way_first_and_a_table_of_labels_is_whole():
    console = Console(file=io.StringIO(), width=60, soft_wrap=True)
    path = "model.memory." + "x" * 40
    screen.show_table(console, ["what", "here", "there"], [["section", path, "0.25"], ["other", "1", "2"]], labels=3)
    text = console.file.getvalue()
    assert max(map(cell_len, text.splitlines())) == 60 and text.count("┏") == 1
    assert "│ section │" in text and "│ 0.25  │" in text and "│ other   │ 1 " in text
    assert text.count("x") == 40


def test_lines_of_a_cell_are_broken_only_if_they_must_be():
    console = Console(file=io.StringIO(), width=60, soft_wrap=True)
    lines = ["1:0.5  2:0.25  3:0.125  4:0.062", "5:0.5  6:0.25  7:0.125  8:0.062"]
    screen.show_table(console, ["token", "layer 0", "layer 1"], [["a", "\n".join(lines), "\n".join(lines)]])
    text = console.file.getvalue()
    assert [text.count(line) for line in lines] == [2, 2] and text.count("┏") == 2


def test_numbers_end_at_the_right():
    console = Console(file=io.StringIO(), width=60, soft_wrap=True)
    screen.show_table(console, ["name", "ms"], [["a", "1.5"], ["b", "1,000.5"]], numbers=[1])
    assert "│ a    │     1.5 │" in console.file.getvalue()


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_bar_for_each_stage_where_somebody_sees_it(monkeypatch, is_watched):
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    monkeypatch.setattr(screen, "beside", lambda: console)
    monkeypatch.setattr(screen, "shows_bars", lambda: is_watched)
    with screen.stages() as tell:
        for done in range(3):
            tell("reading", done, 2)
        tell("writing", 1, 4)
    last = console.file.getvalue().rpartition("reading")[2]
    assert ("100%" in last and "writing" in last and "25%" in last) is is_watched
    assert bool(console.file.getvalue().strip()) is is_watched


def test_the_time_that_is_left_is_told_of_long_steps_too(monkeypatch):
    console, now = Console(file=io.StringIO(), width=100, force_terminal=True), [0.0]
    console.get_time = lambda: now[0]
    monkeypatch.setattr(screen, "beside", lambda: console)
    monkeypatch.setattr(screen, "shows_bars", lambda: True)
    with screen.stages() as tell:
        for done in range(3):
            tell("learning", done, 5)
            now[0] += 100
    assert "ETA \x1b[36m0:05:00" in console.file.getvalue().rpartition("learning")[2]


def test_every_table_is_shown_by_the_screen():
    modules = Path(screen.__file__).parent.glob("*.py")
    assert [module.name for module in modules if "rich.table" in module.read_text("utf-8")] == ["screen.py"]


@pytest.mark.parametrize("width", [60, 80])
def test_what_differs_stands_side_by_side(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    runs = [RECORD / name for name in ("gated_mlp-replace-learned-s0", "dense-gated_mlp-parallel-s1")]
    text = CliRunner().invoke(app, ["diff", *map(str, runs)], catch_exceptions=False).stdout
    assert max(map(cell_len, text.splitlines())) <= width and "…" not in text and text.count("┏") == 1
    assert re.search(r"parameters +│ 14223620 +│ 7997696", text)


def test_what_is_piped_has_no_edge(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    done = CliRunner().invoke(app, ["compare", str(RECORD)], catch_exceptions=False)
    assert "…" not in done.stdout
    usage = done.stdout[done.stdout.index("Usage") :].splitlines()
    assert "Variant" in usage[2] and "KL from uniform, nats" in usage[2] and "Reads a slot" in usage[2]
    assert longest_sentence(done.stdout) in range(90, screen.PROSE + 1)


def test_a_width_that_is_asked_for_holds(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["compare", str(RECORD)], catch_exceptions=False)
    framed = [line for line in done.stdout.splitlines() if line[:1] in FRAME]
    assert framed and max(map(cell_len, framed)) <= 80 and "…" not in done.stdout
    assert longest_sentence(done.stdout) in range(70, 81)
    assert "The unigram entropy of the held-out text is 7.505 nats;" in done.stdout


def longest_sentence(output):
    """Width of the longest line that is in no table; a path is never broken."""
    lines = [line for line in output.splitlines() if line[:1] not in FRAME and not line.startswith("report:")]
    return max(map(cell_len, lines))


def test_sentences_are_broken_between_words():
    console = Console(file=io.StringIO(), width=10, soft_wrap=True)
    screen.show_prose(console, "wide 记忆 words [red]here[/]", "bold", indent=2)
    screen.show_prose(console, "end")
    assert console.file.getvalue() == "  wide\n  记忆\n  words\n  [red]her\n  e[/]\nend\n"
