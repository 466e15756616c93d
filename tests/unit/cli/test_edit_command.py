"""`memlm edit`, as a person runs it."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from memlm.cli import screen
from memlm.cli.edit import FACTS, _show
from memlm.cli.main import app
from memlm.data.asking import edits
from memlm.data.world import World
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
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


def test_a_fact_is_set_asked_for_packed_and_undone(run, edit, tmp_path):
    fact = next(edits(World(recorded_config(read_run(run)).data.facts), 1))
    subject, relation, answer = fact.question.subject, fact.question.relation, fact.new_answer.strip()
    assert "no edits; make one" in edit()
    shown = edit("--set", f"{subject} | {relation} | {answer}", "--ask", fact.question.prompt)
    assert "of 2 wordings" in shown and f"{fact.question.prompt}\n  edited: " in shown
    assert subject in edit() and answer in edit()
    assert "1 edits of the weights" in edit("--pack", tmp_path / "one.pack")
    assert "edit 1: undone; 0 edits left" in edit("--undo", 1)
    assert "1 edits applied" in edit("--apply", tmp_path / "one.pack")
    assert "with 1 edits" in edit("--export", tmp_path / "edited")
    assert "1 edits undone; the model is the checkpoint" in edit("--undo-all")
    assert "no edits; make one" in edit()


def test_without_requests_the_world_is_made_for_the_wordings_alone(edit, monkeypatch):
    made = []
    monkeypatch.setattr("memlm.experiment.world.World", lambda facts: made.append(facts) or World(facts))
    edit()
    assert len(made) == 1


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
    for options in (["--set", f"{subject} | {relation} | {answer}"], ["--trial", 1, "--way", "sparse memory"]):
        with pytest.raises(MemlmError, match="the values are bfloat16, which rounds edits"):
            edit(*options)
    assert "no edits; make one" in edit()


@pytest.mark.parametrize(("folder", "message"), [("nosuch", "there is no such folder"), (".", "is no run's folder")])
def test_a_wrong_folder_is_told_before_torch_is_imported(tmp_path, folder, message):
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
    what = {"id": 3, "subject": "s", "relation": "r", "old": "", "answer": "new", "rows": [1], "prompts": ["p", "q"]}
    _show(screen.output(), SimpleNamespace(edit=SimpleNamespace(**what), learned=learned, conflicts=[]), 100)
    shown = capsys.readouterr().out
    assert "edit 3: s | r: (nothing) -> new" in shown and f"in {learned} of 2 wordings" in shown
    assert ("no wording is answered as wanted; the edit stays, --undo 3 takes it back" in shown) == is_told
