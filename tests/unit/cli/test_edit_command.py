"""`memlm edit`, as a person runs it."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console
from typer.testing import CliRunner

from memlm.cli import screen
from memlm.cli.edit import FACTS, _show, _show_edits
from memlm.cli.edit_measures import _show_demonstration
from memlm.cli.main import app
from memlm.data.asking import edits
from memlm.data.world import World
from memlm.edit.demo import Demonstration, Shown
from memlm.edit.editor import Editor, Made
from memlm.edit.lines import Edit
from memlm.errors import MemlmError
from memlm.experiment.reading import read_run
from memlm.experiment.rerun import recorded_config
from tests.unit.edit.conftest import run as run
from tests.unit.edit.conftest import trained as trained


@pytest.fixture
def edit(run):
    def call(*arguments):
        result = CliRunner().invoke(app, ["edit", str(run), *map(str, arguments)], env={"COLUMNS": "200"})
        if isinstance(result.exception, MemlmError):
            raise result.exception
        assert result.exit_code == int("not learned: " in result.stdout), result.output
        return result.stdout

    return call


def test_a_fact_is_set_asked_for_packed_and_undone(run, edit, tmp_path):
    fact = next(edits(World(recorded_config(read_run(run)).data.facts), 1))
    subject, relation, answer = fact.question.subject, fact.question.relation, fact.new_answer.strip()
    assert "no edits; make one" in edit()
    shown = edit("--set", f"{subject} | {relation} | {answer}", "--ask", fact.question.prompt)
    assert "of 2 wordings" in shown and f"{fact.question.prompt}\n  edited: " in shown
    assert re.search(rf"│ 1 +│ {subject} +│ {relation} +│ .* +│ {answer} +│ \d of 2 +│ \d+ +│", edit())
    assert "1 edit of the weights" in edit("--pack", tmp_path / "one.pack")
    assert "edit 1: undone; 0 edits left" in edit("--undo", 1)
    applied = edit("--apply", tmp_path / "one.pack")
    assert applied.startswith("1 edit applied\n") and subject in applied and answer in applied
    assert "with 1 edit\n" in edit("--export", tmp_path / "edited")
    assert "1 edit undone; the model is the checkpoint" in edit("--undo-all")
    assert "no edits, so there was nothing to undo" in edit("--undo-all")
    assert "no edits; make one" in edit()


def test_edits_are_listed_without_torch_and_a_changed_line_is_told(run, edit):
    subject, relation, answer = edit("--facts").splitlines()[0].split(" | ")
    edit("--set", f"{subject} | {relation} | {answer}a")
    code = (
        "import sys; from memlm.cli.main import app; from memlm.errors import MemlmError\n"
        f"try: app(['edit', {str(run)!r}], standalone_mode=False)\n"
        "except MemlmError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    (run / "checkpoint" / "model.safetensors").write_bytes(b"")  # gigabytes, maybe, so the list does not read them
    call = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = call().stdout
    assert f"{answer}a" in told and told.endswith("False\n")
    lines = run / "edits" / "edits.jsonl"
    lines.write_text(lines.read_text().replace(f"{answer}a", f"{answer}o"))
    assert "edits.jsonl:1: edit 1 does not fit its seal" in call().stdout


def test_a_run_without_a_memory_lists_no_edits(run, edit):
    config = run / "config.yaml"
    text = config.read_text()
    config.write_text(re.sub(r"(?m)^  memory:\n(    .*\n)+", "  memory: null\n", text))
    assert text != config.read_text()
    with pytest.raises(MemlmError, match="memory has no memory to edit"):
        edit()


def made(number, **fields):
    told = {"prompts": ("p", "q"), "learned": 2, "answer": "new", "subject": "s"} | fields
    return Edit(id=number, kind="set", relation="r", old="", rows=(1,), base="", result="", change="0" * 64, **told)


def test_the_list_says_what_was_wanted_how_it_went_and_what_is_no_longer_so(capsys):
    edits = [made(1), made(2), made(3, subject="t", learned=None), made(4, subject="slot 1", prompts=())]
    edits.append(made(5, learned=0))
    _show_edits(Console(width=120), edits)
    head, *rows = [
        re.split(" *[┃│] *", line)[1:-1] for line in capsys.readouterr().out.splitlines() if "━" not in line
    ][:6]
    assert head == ["edit", "subject", "relation", "before", "wanted", "learned", "rows", "note"]
    assert [row[5] for row in rows] == ["2 of 2", "2 of 2", "unknown", "-", "0 of 2"]
    assert [row[7] for row in rows] == ["superseded by edit 2", "", "", "", "not learned"]
    _show_edits(Console(width=120), [made(1)])
    assert "note" not in capsys.readouterr().out


def test_undo_checks_all_numbers_before_it_takes_one_back(edit):
    subject, relation, answer = edit("--facts").splitlines()[0].split(" | ")
    edit("--set", f"{subject} | {relation} | {answer}a")
    with pytest.raises(MemlmError, match="--undo 1: is there 2 times; give it once"):
        edit("--undo", 1, "--undo", 1)
    with pytest.raises(MemlmError, match="edit 9: there is none; known: 1"):
        edit("--undo", 1, "--undo", 9)
    assert subject in edit()


def test_what_is_so_already_makes_no_edit_and_what_is_not_learned_ends_with_1(run, edit, monkeypatch):
    subject, relation, answer = edit("--facts").splitlines()[0].split(" | ")
    wanted = f"{subject} | {relation} | {answer}a"
    monkeypatch.setattr(Editor, "is_given", lambda *_: False)
    pack = run / "one.pack"
    result = CliRunner().invoke(app, ["edit", str(run), "--set", wanted, "--pack", str(pack), "--ask", "Ada"])
    assert result.exit_code == 1 and "the edit stays, --undo 1 takes it back" in result.stdout
    assert pack.exists() and "Ada\n  edited: " in result.stdout, "what else was asked for is done"
    assert "0 of 2" in edit() and "not learned" in edit()
    monkeypatch.setattr(Editor, "is_given", lambda *_: True)
    shown = edit("--set", wanted)
    assert shown == f"{subject} | {relation}: {answer}a is the answer already, in every wording; no edit was made\n"
    assert "│ 2 " not in edit()


def test_what_cannot_be_applied_or_written_is_told_before_anything_is_changed(run, edit, tmp_path):
    subject, relation, answer = edit("--facts").splitlines()[0].split(" | ")
    wanted = f"{subject} | {relation} | {answer}a"
    edit("--set", wanted, "--set", f"{subject} | {relation} | {answer}o")
    lines = (run / "edits" / "edits.jsonl").read_text()
    edit("--pack", tmp_path / "two.pack")
    (tmp_path / "no.pack").write_bytes(b"x")
    for options, message in (
        (["--undo-all", "--apply", tmp_path / "no.pack"], "no.pack: cannot be read"),
        (["--undo", 1, "--apply", tmp_path / "two.pack"], r"the run has edits \(1\); --undo-all takes them"),
        (["--set", wanted, "--undo-all", "--apply", tmp_path / "two.pack"], "--apply: needs a run without edits; make"),
        (["--set", wanted, "--pack", tmp_path / "two.pack"], "two.pack: is there already; give another name"),
        (["--set", wanted, "--export", tmp_path], "is there already; give another name"),
        (["--set", wanted, "--pack", tmp_path / "nodir" / "x.pack"], "nodir is no folder; make the folder first"),
    ):
        with pytest.raises(MemlmError, match=message):
            edit(*options)
        assert (run / "edits" / "edits.jsonl").read_text() == lines
    edit("--undo-all", "--apply", tmp_path / "two.pack")
    assert (run / "edits" / "edits.jsonl").read_text() == lines


def test_a_text_that_is_not_utf_8_is_told_before_anything_is_changed(edit, monkeypatch):
    subject, relation, answer = edit("--facts").splitlines()[0].split(" | ")
    wanted = ["--set", f"{subject} | {relation} | {answer}a"]
    monkeypatch.setattr("memlm.experiment.editing.open_editing", lambda *_, **__: 1 / 0)
    for option, text in (
        ("--ask", "caf\udce9"),
        ("--delete", "caf\udce9 | school"),
        ("--set", f"L\udcff | {relation} | x"),
        ("--replace", "1 | caf\udce9"),
    ):
        with pytest.raises(MemlmError, match=rf"^{option} '.*\\udc.*': is not UTF-8; write it in UTF-8$"):
            edit(*wanted, option, text)
    assert "no edits; make one" in edit()


def test_a_demonstration_is_summed_up_and_what_is_not_as_wanted_is_marked(capsys):
    good = Shown("question", "p", "new", "old", "new", "new", "old", 3, [], 5, 5)
    for others, marks in (([], 0), ([replace(good, after="bad", kept=4)], 3)):
        shown = Demonstration("run", [good, *others], 100, is_restored=True)
        _show_demonstration(screen.output(), shown)
        told = capsys.readouterr().out
        assert shown.summary in told and "Neighbours of an edit are" in told and told.count("!") == marks
    assert "! bad" in told and "! 4 of 5" in told and "!: not as wanted" in told


def test_the_world_is_made_once(edit, monkeypatch):
    wanted = edit("--facts").splitlines()[0]
    made = []
    monkeypatch.setattr("memlm.experiment.world.World", lambda facts: made.append(facts) or World(facts))
    edit("--set", wanted)
    assert len(made) == 1
    edit()
    assert len(made) == 1, "a list needs none"


def test_facts_are_listed_without_a_model_and_can_be_set(run, edit, monkeypatch):
    shutil.rmtree(run / "checkpoint")
    facts = edit("--facts").splitlines()
    assert len(facts) == FACTS and all(fact.count(" | ") == 2 and fact == fact.strip() for fact in facts)
    subject, relation, _ = facts[7].split(" | ")
    assert edit("--find", f"{relation} {subject}") == f"{facts[7]}\n"
    monkeypatch.setattr("memlm.experiment.world.world_of", lambda run: None)
    with pytest.raises(MemlmError, match="needs a run on a generated world"):
        edit("--facts")


def test_how_many_facts_there_are_is_told_beside_them(run):
    def told(*options):
        return CliRunner().invoke(app, ["edit", str(run), *options]).stderr

    assert re.fullmatch(r"20 of the \d+ facts that the text tells; --find WORDS lists others\n", told("--facts"))
    assert told("--find", "school") == "0 facts with these words\n"
    assert told("--find", "birthplace") == "the first 20 facts with these words; more words leave fewer\n"


def test_names_that_the_world_does_not_have_are_told(run, edit, tmp_path):
    subject, relation, answer = edit("--facts").splitlines()[0].split(" | ")
    with pytest.raises(MemlmError, match=r"unknown relation 'brithplace'\. Did you mean 'birthplace'\?"):
        edit("--set", f"{subject} | {relation} | {answer}", "--set", f"{subject} | brithplace | {answer}")
    assert "no edits; make one" in edit(), "nothing was made before all were read"
    misspelt = subject[:3] + subject[4] + subject[3] + subject[5:]
    line = {"subject": misspelt, "relation": relation, "answer": answer}
    (tmp_path / "edits.jsonl").write_text(json.dumps(line))
    shown = edit("--set", f"Ada | {relation} | {answer}", "--from", tmp_path / "edits.jsonl")
    assert "  note: no text of the run names 'Ada'\n" in shown
    assert f"names {misspelt!r}; if {subject!r} was meant, --undo 2 takes the edit back\n" in shown
    assert "note" not in edit("--set", f"{subject} | {relation} | {answer}")


def test_a_run_whose_values_have_16_bits_is_asked_and_not_edited(edit, monkeypatch):
    monkeypatch.setattr("memlm.bank.vectors.VectorBank.has_16_bits", True)
    assert "no edits; make one" in edit()
    assert "edited: " in edit("--ask", "Ada birthplace")
    subject, relation, answer = edit("--facts").splitlines()[0].split(" | ")
    for options in (["--set", f"{subject} | {relation} | {answer}a"], ["--trial", 1, "--way", "sparse memory"]):
        with pytest.raises(MemlmError, match="the values are bfloat16, which rounds edits"):
            edit(*options)
    assert "no edits; make one" in edit()


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nosuch", "there is no such folder"), (".", "is no run's folder"), ("file", "is a file, and no run's folder")],
)
def test_a_wrong_folder_is_told_before_torch_is_imported(tmp_path, folder, message):
    (tmp_path / "file").touch()
    code = (
        "import sys; from memlm.cli.main import app; from memlm.errors import MemlmError\n"
        f"try: app(['edit', {str(tmp_path / folder)!r}, '--set', 'a | b | c'], standalone_mode=False)\n"
        "except MemlmError as error: print(error, 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert message in told and told.endswith("e.g. runs/demo/gated_mlp-s0 False\n")


def test_a_mistake_is_one_clear_line(edit, tmp_path):
    with pytest.raises(MemlmError, match="has another form than"):
        edit("--set", "no bars")
    with pytest.raises(MemlmError, match="give one of --undo and --undo-all"):
        edit("--undo", 1, "--undo-all")
    (tmp_path / "no.pack").write_bytes(b"x")
    with pytest.raises(MemlmError, match="give a file that --pack wrote"):
        edit("--apply", tmp_path / "no.pack")


@pytest.mark.parametrize(("learned", "is_told"), [(0, True), (1, False)])
def test_an_edit_that_was_not_learned_is_told(learned, is_told, capsys):
    _show(screen.output(), Made(made(3, learned=learned), []), 100)
    shown = capsys.readouterr().out
    assert "edit 3: s | r: (nothing) -> new\n  1 row (1.00%), " in shown and f"in {learned} of 2 wordings" in shown
    assert ("no wording is answered as wanted; the edit stays, --undo 3 takes it back" in shown) == is_told
