"""The reports beside the records, and what the README quotes of them, are what the records give."""

from pathlib import Path

import pytest

from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment
from memlm.report.markdown import verdict

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "experiments").glob("*/experiment.json"))


def test_the_walk_finds_them():
    assert {"connection", "pays", "pays_first"} <= {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_report_has_the_verdicts_that_its_records_give(folder):
    report = (folder / "report.md").read_text(encoding="utf-8")
    for judgement in compare(read_experiment(folder)).judgements:
        assert verdict(judgement) in report, f"run: memlm report {folder.relative_to(ROOT)}"


@pytest.mark.parametrize("document", ["README.md", "README.zh-CN.md", "docs/findings.md"])
def test_the_figures_of_its_first_table_stand_in_the_report(document):
    report = (ROOT / "experiments" / "pays" / "report.md").read_text(encoding="utf-8")
    told = (ROOT / document).read_text(encoding="utf-8")
    table = next(part for part in told.split("\n\n") if part.startswith("| |"))
    known = {figure for row in rows(report) for figure in row}
    assert len(rows(table)) >= 5
    for _, *figures in rows(table)[2:]:
        assert set(figures) <= known


def rows(text):
    """Returns the cells of each line of the tables in Markdown."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
