"""What a command can refuse from a run's record is told before torch and transformers are imported."""

import sys

import pytest
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.errors import CheckpointError, RunError
from tests.unit.fabricate import fabricate

HEAVY = ("edited", "editing", "held_out", "inspecting", "trained")


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Calls a command where what loads models cannot be imported, and returns what it was refused with."""
    folder = fabricate(tmp_path)
    for module in (*(f"memlm.experiment.{name}" for name in HEAVY), "memlm.export.folder", "memlm.export.serve"):
        monkeypatch.setitem(sys.modules, module, None)

    def call(command, name, *arguments):
        return CliRunner().invoke(app, [command, str(folder / name), *arguments]).exception

    return call


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("inspect", []),
        ("eval", []),
        ("edit", ["--ask", "ka"]),
        ("generate", ["ka"]),
        ("chat", []),
        ("serve", []),
        ("export", ["out"]),
        ("lm-eval", ["task"]),
    ],
)
def test_a_record_without_its_checkpoint(refused, command, arguments):
    error = refused(command, "gated_mlp-s0", *arguments)
    assert isinstance(error, CheckpointError), repr(error)
    assert "gated_mlp-s0/checkpoint: holds no checkpoint" in str(error)


@pytest.mark.parametrize(("command", "purpose"), [("inspect", "inspect"), ("eval", "evaluate"), ("edit", "edit")])
def test_a_model_without_a_memory(refused, command, purpose):
    error = refused(command, "dense-s0", *(["--ask", "ka"] if command == "edit" else []))
    assert isinstance(error, RunError), repr(error)
    assert f"dense has no memory to {purpose}; give a run of a variant that has one" in str(error)
