"""The commands in docs/reproducing.md, one after the other, on a small experiment in the place of the demo."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.experiment.rerun import LOSS_TOLERANCE, QUALITY_TOLERANCE
from tests.tolerances import GOLDEN

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reproducing.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"^    (memlm .*)$", DOCUMENT, flags=re.M)]


def test_the_document_tells_the_three_commands():
    assert [command[1] for command in COMMANDS] == ["run", "rerun", "diff"]


def test_every_command_works_and_the_rerun_agrees(experiment_yaml, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    experiment_yaml.rename(tmp_path / "configs" / "demo.yaml")
    monkeypatch.chdir(tmp_path)
    told = [
        CliRunner().invoke(app, command[1:], catch_exceptions=False, env={"COLUMNS": "160"}) for command in COMMANDS
    ]
    assert [done.exit_code for done in told] == [0, 0, 0]
    assert "agrees bit for bit" in told[1].output
    differing = set(re.findall(r"[\w.]+_(?:loss|nats)\b", told[2].output))
    assert differing == set(), "memlm diff shows a loss that rerun called equal"


def test_how_golden_files_are_changed_is_told():
    assert re.search(r"^    pytest tests/golden --update-golden$", DOCUMENT, flags=re.M)


def test_the_tolerances_are_those_of_the_code():
    text = " ".join(DOCUMENT.split())
    for told in (f"{LOSS_TOLERANCE * 100:g} %", f"{QUALITY_TOLERANCE:g} point of 10"):
        assert f"within {told}" in text
    assert re.search(r"numbers within (\S+), because CPUs differ", text)[1] == f"{GOLDEN:.0e}".replace("e-0", "e-")
