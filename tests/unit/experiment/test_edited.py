"""A run is opened as its user edited it; what is measured of it stays the checkpoint's."""

import json

import pytest
import torch
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.data.asking import edits
from memlm.data.world import World
from memlm.edit import log
from memlm.edit.lines import FOLDER, LINES
from memlm.edit.request import Request
from memlm.errors import EditError, RunError
from memlm.experiment.edited import open_edited
from memlm.experiment.reading import read_run
from memlm.experiment.trained import open_model
from memlm.storage import sha256
from tests.unit.edit.conftest import editing as editing
from tests.unit.edit.conftest import run as run
from tests.unit.edit.conftest import trained as trained  # fixtures are found by their names


@torch.inference_mode()
def logits(model, editing):
    """Returns what a model makes of the words in which the edit was learned."""
    return model(torch.tensor([editing.editor.tokenizer.encode(editing.editor.edits[0].prompts[0]).ids])).logits


@pytest.fixture
def edited(editing):
    """The editing of a run that has an edit in force."""
    (fact,) = edits(World(editing.finished.config.data.facts), 1)
    editing.editor.make(Request(fact.question.subject, fact.question.relation, fact.new_answer.strip()))
    editing.save()
    return editing


@pytest.mark.parametrize("values", ["device", "host", "mapped"])
def test_edits_are_in_force_wherever_values_are(run, edited, values):
    weights = run / "checkpoint" / "model.safetensors"
    before = sha256(weights)
    opened = open_edited(run, "cpu", values)
    assert [edit.id for edit in opened.edits] == [1]
    assert torch.equal(logits(opened.model, edited), logits(edited.editor.model, edited))
    assert sha256(weights) == before, "a mapped file is not written to"
    assert not torch.equal(logits(opened.model, edited), logits(open_model(run, "cpu", values)[0], edited))


def test_edits_are_in_force_in_8_bits(run, edited):
    rows = list(edited.editor.edits[0].rows)
    bank, (kept,) = open_edited(run, "cpu", "int8").model.decoder.banks[0], edited.editor.model.decoder.banks
    assert torch.allclose(bank.table()[rows], kept.table()[rows], atol=float(kept.table()[rows].abs().max()) / 127)
    assert not torch.equal(bank.table()[rows], open_model(run, "cpu", "int8")[0].decoder.banks[0].table()[rows])


def test_an_undone_edit_is_not_in_force(run, edited):
    log.write_log(run / FOLDER, log.Log())
    opened = open_edited(run, "cpu")
    assert not opened.edits
    assert torch.equal(logits(opened.model, edited), logits(open_model(run, "cpu")[0], edited))


def test_what_is_measured_is_the_checkpoint(run, edited):
    told = CliRunner().invoke(app, ["eval", str(run), "--json"], catch_exceptions=False)
    assert json.loads(told.stdout)[0]["loss"] == read_run(run).result("validation_loss")
    assert told.stderr == f"without the run's edits; memlm edit {run} --export DIR writes the edited model\n"


def test_what_is_exported_is_the_checkpoint(run, edited, tmp_path):
    for name in ("with", "without"):
        told = CliRunner().invoke(app, ["export", str(run), str(tmp_path / name)], catch_exceptions=False)
        assert ("without the run's edits" in told.stderr) == (name == "with")
        assert sha256(tmp_path / name / "model.safetensors") == sha256(run / "checkpoint" / "model.safetensors")
        log.write_log(run / FOLDER, log.Log())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda line: line | {"base": "0" * 64}, "edit 1 belongs to other weights"),
        (lambda line: line | {"result": "0" * 64}, "edit 1 leads to other rows than it says"),
        (lambda line: line | {"rows": [1]}, "the rows of edit 1 do not fit the model"),
        (lambda line: line | {"seal": "0" * 64}, "edit 1 does not fit its seal"),
    ],
)
def test_a_log_that_does_not_fit_is_refused_with_the_way_out(run, edited, damage, message):
    lines = run / FOLDER / LINES
    line = json.loads(lines.read_text())
    line.pop("seal", None)  # as an earlier version of memlm wrote it
    lines.write_text(json.dumps(damage(line)))
    for command in (["generate", str(run), "x"], ["chat", str(run)], ["serve", str(run)], ["inspect", str(run)]):
        with pytest.raises(EditError, match=f"{message}.*, or move .*edits away to open the run without its edits"):
            CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize("name", [FOLDER, f"{FOLDER}/{LINES}"])
def test_a_link_to_what_is_gone_is_refused(run, edited, name):
    (run / name).rename(run / "gone")
    (run / name).symlink_to(run / "moved on")
    with pytest.raises(EditError, match=rf"{name}: is a link to what is not there; move .*edits away to open the run"):
        open_edited(run, "cpu")


def test_a_file_in_the_place_of_the_log_is_refused(run, edited):
    (run / FOLDER).rename(run / "gone")
    (run / FOLDER).write_text("")
    for command in (["chat", str(run)], ["edit", str(run)]):
        with pytest.raises(EditError, match=r"edits: is a file, and no folder of edits; move .*edits away to open"):
            CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize("damage", ["file", "link"])
def test_what_is_in_the_place_of_the_log_is_told_by_who_leaves_it_out(run, edited, damage, tmp_path):
    (run / FOLDER).rename(run / "gone")
    (run / FOLDER).write_text("") if damage == "file" else (run / FOLDER).symlink_to(run / "moved on")
    what = {"file": "is a file, and no folder of edits", "link": "is a link to what is not there"}[damage]
    told = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "model")], catch_exceptions=False)
    way = f"move {run / FOLDER} away to open the run without its edits"
    assert told.stderr == f"without the run's edits: {run / FOLDER}: {what}; {way}\n"
    assert told.exit_code == 0 and (tmp_path / "model" / "config.json").exists(), "the checkpoint is what is exported"


def test_the_weights_are_hashed_once(run, edited, monkeypatch):
    hashed = []
    monkeypatch.setattr("memlm.experiment.edited.sha256", lambda _: pytest.fail("hashed again"), raising=False)
    monkeypatch.setattr("memlm.train.manifest.sha256", lambda path: hashed.append(path.name) or sha256(path))
    for n in (1, 0):  # edits, and an empty log, which needs no editor
        assert len(open_edited(run, "cpu").edits) == n and hashed.count("model.safetensors") == 1
        hashed.clear()
        log.write_log(run / FOLDER, log.Log())
        monkeypatch.setattr("memlm.experiment.edited.Editor", lambda *_: pytest.fail("there is nothing to apply"))


def test_links_lead_nowhere(run, edited, tmp_path):
    elsewhere = (run / FOLDER).rename(tmp_path / "elsewhere")
    (run / FOLDER).symlink_to(elsewhere)
    with pytest.raises(RunError, match="leads out of its folder"):
        open_edited(run, "cpu")
