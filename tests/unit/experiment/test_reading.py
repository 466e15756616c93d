import json
import subprocess
import sys
from pathlib import Path

import pytest
from fabricate import LOSSES, SEEDS, edit_record, loss_of, write_json

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


@pytest.mark.parametrize("other", [{"variant": "gated_mlp"}, {"seed": 7}, {"experiment": "another"}])
def test_a_run_in_the_place_of_another_is_not_taken_for_it(folder, other):
    edit_record(folder / "dense-s0", **other)
    experiment = read_experiment(folder)
    assert len(experiment.runs) == 11
    assert experiment.absent["dense", 0].startswith("is not there: its folder holds ")


@pytest.mark.parametrize(("field", "values"), [("seeds", [0, 1, 1]), ("variants", ["dense", "dense"])])
def test_a_plan_that_counts_a_run_twice_is_refused(folder, field, values):
    path = folder / "experiment.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {field: values})
    with pytest.raises(RunError, match="names a variant or a seed twice"):
        read_experiment(folder)


def test_losses_of_documents(folder):
    found = read_run(folder / "gated_mlp-s1").documents()
    assert len(found.documents) == len(found.tokens) == len(found.nats["memory_off_loss"]) == 30
    (folder / "dense-s0" / "documents.json").unlink()
    assert read_run(folder / "dense-s0").documents() is None, "recorded before there were any"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"tokens": [40', '"tokens": [0', "tokens.0: input should be greater than or equal to 1"),
        ('"tokens": [40', '"tokens": [4, 40', "needs a name, tokens and losses for each document"),
        ('"tokens": [40', '"tokens": [90', "validation_loss adds up to"),
        ('"validation_loss": [', '"validation_loss": [NaN, ', "nats.validation_loss.0: input should be"),
        ('"validation_loss": [', '"validation_loss": ["x", ', "nats.validation_loss.0: input should be"),
    ],
)
def test_damaged_losses_of_documents_are_one_line(folder, old, new, reason):
    path = folder / "dense-s0" / "documents.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RunError) as caught:
        read_run(folder / "dense-s0").documents()
    assert reason in str(caught.value) and str(path) in str(caught.value)


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
        read_experiment(folder.parent)


def test_where_an_experiment_is_wanted_a_run_leads_to_it(folder, monkeypatch):
    monkeypatch.chdir(folder / "dense-s0")
    for run in (folder / "dense-s0", Path()):
        with pytest.raises(RunError) as refused:
            read_experiment(run)
        assert str(refused.value) == f"{run}: is a single run; give the folder of its experiment: {folder}"
    (folder / "experiment.json").unlink()
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


ODD_METRICS = {
    "[1]": "is no line of metrics (it needs the numbers step and tokens)",
    '{"step": 3}': "is no line of metrics (it needs the numbers step and tokens)",
    '{"step": 1e999, "tokens": 1}': "is no line of metrics (it needs the numbers step and tokens)",
    "[" * 100_000: "is not valid JSON: it nests too deep",
}


@pytest.mark.parametrize("line", ODD_METRICS)
def test_a_line_of_metrics_is_an_object_with_its_place(folder, line):
    path = folder / "dense-s0" / "metrics.jsonl"
    path.write_text(f"{line}\n" + path.read_text())
    with pytest.raises(RunError) as caught:
        read_run(path.parent).series("train/loss")
    assert str(caught.value) == f"{path}:1: {ODD_METRICS[line]}"


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1" + "0" * 400, '"x"', "[1]", "true", "null"])
def test_what_is_no_finite_number_is_in_no_series(folder, value):
    path = folder / "dense-s0" / "metrics.jsonl"
    whole = read_run(path.parent).series("train/loss")
    path.write_text(path.read_text() + f'{{"step": 999, "tokens": 9999, "train/loss": {value}}}\n')
    assert read_run(path.parent).series("train/loss") == whole


BROKEN_RECORDS = {
    "[" * 100_000: "is JSON that cannot be read: it nests too deep",
    '{"experiment": "\\ud800"}': "is JSON that cannot be read: 'utf-8' codec can't encode",
    '{"seed": ' + "9" * 5000 + "}": "is JSON that cannot be read: Exceeds the limit",
}


@pytest.mark.parametrize("text", BROKEN_RECORDS)
def test_json_that_no_parser_likes_is_one_line(folder, text):
    path = folder / "dense-s0" / "record.json"
    path.write_text(text)
    with pytest.raises(RunError) as caught:
        read_run(path.parent)
    assert str(caught.value).startswith(f"{path}: {BROKEN_RECORDS[text]}")


@pytest.mark.parametrize("usage", [5, "x", ["0"], None])
def test_usage_that_is_no_mapping_is_none(folder, usage):
    edit_record(folder / "dense-s0", results={"usage": usage})
    assert read_run(folder / "dense-s0").layers == []


def test_numbers_of_a_record_are_finite(folder):
    edit_record(folder / "dense-s0", cost={"flops_per_token": float("inf")})
    with pytest.raises(RunError, match=r"record\.json: cost\.flops_per_token: input should be a finite number"):
        read_run(folder / "dense-s0")


def test_a_spoiled_configuration_has_its_line(folder):
    path = folder / "dense-s0" / "config.yaml"
    path.write_text("model: {}\ndata: [\n")
    with pytest.raises(RunError) as caught:
        read_run(path.parent)
    assert str(caught.value).startswith(f"{path}:3: is not valid YAML: ")
