"""Opening a run: its contexts are found once, and what does not fit is refused."""

import shutil

import pytest
import torch

from memlm.edit.lines import FOLDER as EDITS
from memlm.edit.lines import LINES, ROWS
from memlm.edit.request import Replacement
from memlm.errors import CheckpointError, EditError, RunError
from memlm.experiment import finished, inspecting
from memlm.experiment.editing import open_editing
from memlm.inspect.store import FOLDER, SUMMARY, TENSORS
from memlm.train import writers
from tests.unit.inspect.conftest import TOKENS, Runs


@pytest.fixture
def copied(runs, tmp_path) -> Runs:
    shutil.copytree(runs.folder / "shared-s0", tmp_path / "shared-s0")
    shutil.copytree(runs.folder / "readable-s0", tmp_path / "readable-s0")
    shutil.copytree(runs.folder / "dense-s0", tmp_path / "dense-s0")
    for name in ("shared-s0", "readable-s0"):
        shutil.rmtree(tmp_path / name / FOLDER, ignore_errors=True)
    return Runs(tmp_path)


@pytest.fixture
def passes(monkeypatch):
    """Counts how often the training text is gone through."""
    found, real = [], inspecting.find_contexts
    monkeypatch.setattr(inspecting, "find_contexts", lambda *arguments: found.append(1) or real(*arguments))
    return found


def test_the_text_is_gone_through_once(copied, passes):
    first, again = copied.open("shared"), copied.open("shared")
    assert len(passes) == 1
    for name, tensor in vars(first.contexts[0]).items():
        assert torch.equal(tensor, vars(again.contexts[0])[name]), name
    copied.open("shared", TOKENS // 2)
    assert len(passes) == 2, "other tokens are other contexts"


@pytest.mark.parametrize("name", [SUMMARY, TENSORS])
@pytest.mark.parametrize("content", [b"", b"{}", b'{"fingerprint": 3}'])
def test_damaged_contexts_are_made_again(copied, passes, name, content):
    first = copied.open("shared")
    (copied.folder / "shared-s0" / FOLDER / name).write_bytes(content)
    again = copied.open("shared")
    assert len(passes) == 2 and torch.equal(first.contexts[0].reads, again.contexts[0].reads)


def test_an_edit_changes_what_a_slot_holds_and_no_context(copied, passes):
    first = copied.open("readable")
    editing = open_editing(copied.folder / "readable-s0")
    editing.editor.make(Replacement(3, "ka lo"))
    editing.save()
    edited = copied.open("readable")
    assert len(passes) == 1, "an edit costs no pass over the text"
    assert edited.card(0, 3).entry == "ka lo" != first.card(0, 3).entry
    assert edited.card(0, 3).edits == [1] and edited.card(0, 4).edits == [] and edited.overview()["edits"] == 1
    shutil.rmtree(copied.folder / "readable-s0" / FOLDER)
    again = copied.open("readable")
    assert len(passes) == 2 and again.card(0, 3).entry == "ka lo"
    for name, tensor in vars(first.contexts[0]).items():
        assert torch.equal(tensor, vars(again.contexts[0])[name]), "contexts are the checkpoint's"


@pytest.mark.parametrize("damaged", [LINES, ROWS])
def test_a_damaged_log_is_told_before_the_text_is_gone_through(copied, passes, damaged):
    run = copied.folder / "readable-s0"
    editing = open_editing(run)
    editing.editor.make(Replacement(3, "ka lo"))
    editing.save()
    part = run / EDITS / damaged
    (part if damaged == LINES else next(part.iterdir())).write_text("{}")
    with pytest.raises(EditError, match=r"restore it, or move .* away"):
        copied.open("readable")
    assert not passes


def test_progress_comes_to_its_end(copied):
    told = []
    inspecting.open_inspection(copied.folder / "shared-s0", TOKENS, lambda done, total: told.append((done, total)))
    assert told[0][0] == 0 and told[-1][0] == told[-1][1] == TOKENS // 16 * 16


def test_without_recorded_writers_there_are_none(copied):
    shutil.rmtree(copied.folder / "shared-s0" / writers.FOLDER)
    inspection = copied.open("shared")
    assert inspection.card(0, 3).writer is None and not inspection.overview()["writers_recorded"]


def test_what_cannot_be_inspected_is_refused(copied, runs):
    with pytest.raises(RunError, match="dense has no memory to inspect"):
        copied.open("dense")
    with pytest.raises(
        RunError, match="is an experiment; give the folder of one of its runs: apart-s0, dense-s0, readable-s0, shared"
    ):
        inspecting.open_inspection(runs.folder, TOKENS, lambda _done, _total: None)
    shutil.rmtree(copied.folder / "shared-s0" / "checkpoint")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        copied.open("shared")


def test_a_record_without_its_model_is_told_before_any_text_is_prepared(copied, monkeypatch):
    shutil.rmtree(copied.folder / "shared-s0" / "checkpoint")
    monkeypatch.setattr(finished, "prepare", lambda *_args, **_options: pytest.fail("text was prepared"))
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        copied.open("shared")


@pytest.mark.parametrize("name", [FOLDER, f"{FOLDER}/{TENSORS}", writers.FOLDER, f"{writers.FOLDER}/{writers.FILE}"])
def test_links_lead_nowhere(copied, tmp_path_factory, name):
    copied.open("shared")
    link = copied.folder / "shared-s0" / name
    elsewhere = link.rename(tmp_path_factory.mktemp("elsewhere") / link.name)
    link.symlink_to(elsewhere)
    with pytest.raises(RunError, match="leads out of its folder"):
        copied.open("shared")


def test_a_folder_that_cannot_be_written_costs_the_next_pass_only(copied, monkeypatch, caplog):
    def full(*_arguments, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memlm.inspect.store.save_file", full)
    assert copied.open("shared").contexts[0].reads.sum() > 0
    assert "cannot be written" in caplog.text
