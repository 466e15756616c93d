"""The reports beside the records, and what the README quotes of them, are what the records give."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment
from memlm.report.markdown import verdict

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "experiments").glob("*/experiment.json"))
TUNES = sorted(path.parent for path in (ROOT / "experiments").glob("*/*/tune.json"))


def test_the_walk_finds_them():
    assert {"connection", "pays", "pays_first"} <= {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_report_has_the_verdicts_that_its_records_give(folder):
    report = (folder / "report.md").read_text(encoding="utf-8")
    for judgement in compare(read_experiment(folder)).judgements:
        assert verdict(judgement) in report, f"run: memlm report {folder.relative_to(ROOT)}"


@pytest.mark.parametrize("folder", TUNES, ids=lambda folder: folder.name)
def test_a_tune_is_told_and_written_again_from_its_trials(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    written = [copy / "tuning.md", copy / "tuning.svg"]
    for path in written:
        path.unlink()
    told, listed = (CliRunner().invoke(app, [verb, str(copy)]) for verb in ("compare", "report"))
    assert (told.exit_code, listed.stdout.split()) == (0, list(map(str, written)))
    assert written[0].read_bytes() == (folder / "tuning.md").read_bytes() and "</svg>" in written[1].read_text()
    for figure in rows(written[0].read_text(encoding="utf-8"))[2][1:5]:
        assert figure.removeprefix("–") in told.stdout


@pytest.mark.parametrize("document", ["README.md", "README.zh-CN.md", "docs/findings.md"])
def test_the_figures_of_its_first_table_stand_in_the_report(document):
    report = (ROOT / "experiments" / "pays" / "report.md").read_text(encoding="utf-8")
    told = (ROOT / document).read_text(encoding="utf-8")
    table = next(part for part in told.split("\n\n") if part.startswith("| |"))
    known = {figure for row in rows(report) for figure in row}
    assert len(rows(table)) >= 5
    for _, *figures in rows(table)[2:]:
        assert set(figures) <= known


def test_what_joins_experiments_is_what_their_records_give():
    command = [sys.executable, "experiments/across.py"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    findings = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert len(rows(told)) == 13
    assert all(table.strip() in findings for table in told.split("\n\n")), "quote: python experiments/across.py"


def rows(text):
    """Returns the cells of each line of the tables in Markdown."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
