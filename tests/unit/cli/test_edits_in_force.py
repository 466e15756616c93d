"""The commands that open a run's model open it with its edits in force, and say so beside their results."""

import json

import pytest
from transformers.cli.serving import response, server
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.data.asking import edits
from memlm.data.world import World
from memlm.edit.request import Request
from memlm.experiment.edited import open_edited
from memlm.experiment.editing import open_editing
from memlm.export import serve
from tests.unit.edit.conftest import QUICK
from tests.unit.edit.conftest import run as run
from tests.unit.edit.conftest import trained as trained  # fixtures are found by their names

GREEDY = ("--temperature", "0", "--max-new-tokens", "4")


@pytest.fixture
def fact(run):
    """A fact that the run's user has given another answer."""
    editing = open_editing(run, QUICK)
    (fact,) = edits(World(editing.finished.config.data.facts), 1)
    editing.editor.make(Request(fact.question.subject, fact.question.relation, fact.new_answer.strip()))
    editing.save()
    return fact


def test_generate_and_chat_give_the_new_answer(run, fact, monkeypatch):
    asked, answer = fact.question.prompt, fact.new_answer
    for command, piped in ((["generate", str(run), asked], None), (["generate", str(run)], asked)):
        result = CliRunner().invoke(app, [*command, *GREEDY], input=piped, catch_exceptions=False)
        assert result.stdout.startswith(answer) and result.stderr == told(run)
    # The edit was learned in a text that goes on in the same line.
    monkeypatch.setattr("memlm.experiment.trained.CHAT_TEMPLATE", "{{ messages[0]['content'] }}")
    result = CliRunner().invoke(app, ["chat", str(run), *GREEDY], input=f"{asked}\n", catch_exceptions=False)
    assert result.stdout.startswith(answer) and result.stderr == told(run)


def test_the_server_is_given_the_edited_model(run, fact, monkeypatch):
    given, library = [], serve.transformers  # not that of a plain import: peft, if it is imported between, changes it
    for place, name in ((library, "MemlmForCausalLM"), (response, "ResponseHandler"), (server, "build_server")):
        monkeypatch.setattr(place, name, getattr(place, name, None), raising=False)
    monkeypatch.setattr(
        "memlm.export.serve.Serve",
        lambda force_model, **_: given.append(library.MemlmForCausalLM.from_pretrained(force_model)),
    )
    result = CliRunner().invoke(app, ["serve", str(run), "--port", "0"], catch_exceptions=False)
    assert result.stderr == told(run) and "model 'memory-s0'" in result.stdout
    (served,), right = given, open_edited(run).model
    assert all(map(lambda a, b: a.equal(b), served.state_dict().values(), right.state_dict().values()))
    assert served.generation_config.do_sample, "OpenAI's defaults stand in the folder that is served"


def test_inspect_shows_the_slots_as_they_are_now(run, fact):
    (edit,) = open_editing(run).editor.edits
    line = ["inspect", str(run), "--tokens", "3k", "--slot", str(edit.rows[0])]
    shown = CliRunner().invoke(app, line, catch_exceptions=False)
    assert "changed by edit 1\n" in shown.stdout
    assert shown.stderr == told(run)[:-1] + "; counts and contexts are the checkpoint's\n"
    card = json.loads(CliRunner().invoke(app, [*line, "--json"], catch_exceptions=False).stdout)
    values = open_edited(run, "cpu").model.decoder.banks[0].table()
    assert card["edits"] == [1] and card["value_norm"] == pytest.approx(float(values[edit.rows[0]].norm()))


def told(run):
    return f"with 1 edit in force (memlm edit {run} lists it)\n"
