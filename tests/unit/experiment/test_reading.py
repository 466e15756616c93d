import subprocess
import sys

import pytest
from fabricate import LOSSES, SEEDS, edit_record, loss_of

from memlm.errors import RunError
from memlm.experiment.reading import read_experiment, read_run


def test_reads_what_was_recorded(folder):
    experiment = read_experiment(folder)
    assert [run.name for run in experiment.runs] == [f"{v}-s{s}" for v in LOSSES for s in SEEDS]
    run = experiment.runs[-1]
    assert run.record.variant == "门控记忆"
    assert run.result("validation_loss") == loss_of("门控记忆", 2)
    assert run.result("quality.metrics.real.judge_nats") == 4.2
    assert run.layers == ["0", "1", "2", "3"]
    assert run.config["train"]["lr"] == 1e-3
    assert run.samples()[0].real.startswith("山里")


def test_a_result_that_is_no_finite_number_is_none(folder):
    edit_record(folder / "dense-s0", results={"validation_loss": float("nan"), "note": "text"})
    run = read_run(folder / "dense-s0")
    assert [run.result(path) for path in ("validation_loss", "note", "quality", "quality.score.x", "none")] == [
        None
    ] * 5


def test_only_a_cut_off_last_line_is_forgiven(folder):
    path = folder / "dense-s0" / "metrics.jsonl"
    whole = read_run(path.parent).metrics()
    path.write_text(path.read_text() + '{"step": 202, "tok')
    assert read_run(path.parent).metrics() == whole
    path.write_text('{"step": 1, "tok\n' + path.read_text())
    with pytest.raises(RunError, match=r"metrics\.jsonl:1: is not valid JSON"):
        read_run(path.parent).metrics()


def test_after_a_resume_the_later_value_counts(folder):
    path = folder / "dense-s0" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 2, "tokens": 4000, "train/loss": 1.5}\n')
    assert read_run(path.parent).series("train/loss")[0] == (4000, 1.5)


def test_broken_files_are_named(folder):
    (folder / "dense-s0" / "record.json").write_text('{"experiment": ')
    (folder / "dense-s1" / "config.yaml").unlink()
    edit_record(folder / "dense-s2", status="asleep")
    experiment = read_experiment(folder)
    assert "record.json:1: is not valid JSON" in experiment.absent["dense", 0]
    assert "config.yaml: there is no such file" in experiment.absent["dense", 1]
    assert "record.json: status: input should be" in experiment.absent["dense", 2]
    (folder / "experiment.json").write_text("[]")
    with pytest.raises(RunError, match=r"experiment\.json"):
        read_experiment(folder)
    with pytest.raises(RunError, match="no experiment here"):
        read_experiment(folder / "dense-s0")


def test_a_record_from_before_the_first_step_can_be_read(folder):
    edit_record(folder / "dense-s0", status="running", data=None, cost=None, results=None, finished=None)
    record_path = folder / "dense-s0" / "record.json"
    record_path.write_text(record_path.read_text().replace('"results": null', '"results": {}'))
    assert read_run(folder / "dense-s0").record.cost is None


def test_reading_comparing_and_reporting_need_no_torch():
    code = (
        "import sys, memlm.report.page, memlm.experiment.difference;"
        "sys.exit(bool({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
