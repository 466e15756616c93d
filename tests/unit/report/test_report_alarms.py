"""Alarms in a report and in the comparison."""

import io

import pytest
from fabricate import alarm, edit_record
from rich.console import Console

from memlm.cli.compare import print_comparison
from memlm.errors import RunError
from memlm.experiment.reading import read_experiment, read_run
from memlm.report import alarms
from memlm.report.page import write_report


@pytest.fixture
def alarmed(folder):
    for seed in (0, 1):
        layers = [alarm("usage_collapse", f"layer {n}", step=20 - 10 * seed) for n in (1, 2, 3)]
        edit_record(folder / f"gated_mlp-s{seed}", alarms=layers)
    edit_record(folder / "cross_attention-s0", alarms=[alarm("usage_collapse", "layer 0")])
    gap = alarm("train_eval_gap", "validation loss", value=-4.84, threshold=1.0, active=False)
    edit_record(folder / "dense-s2", alarms=[gap], status="failed")
    return folder


def compared(folder):
    console = Console(file=io.StringIO(), width=200, soft_wrap=True)
    print_comparison(console, folder)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (["layer 3"], "layer 3"),
        (["layer 2", "layer 10", "layer 1", "layer 2"], "layers 1–2, 10"),
        (["validation loss", "training loss"], "training loss, validation loss"),
        (["training loss", "layer 0"], "layer 0, training loss"),
        (["layer x", "layer 0", "layer -1"], "layer 0, layer -1, layer x"),
        (["layer " + "9" * 5000], "layer " + "9" * 5000),
    ],
)
def test_places_are_joined(where, text):
    assert alarms.places(where) == text


def test_a_report_without_alarms_says_so_in_one_line(folder):
    for path in write_report(folder):
        text = path.read_text(encoding="utf-8")
        assert text.count("No alarms in 12 runs.") == 1
        assert "train.alarms" not in text
    assert "No alarms in 12 runs.\n" in compared(folder)


def test_a_report_shows_each_alarm_of_a_variant_in_one_row(alarmed):
    told = (
        "Alarms: train_eval_gap in dense-s2 (validation loss); usage_collapse in cross_attention-s0 (layer 0), "
        "gated_mlp-s0, gated_mlp-s1 (layers 1–3)."
    )
    assert f"{told}\n" in compared(alarmed)
    page, text = (path.read_text(encoding="utf-8") for path in write_report(alarmed))
    assert told in page and "&lt;&amp;&gt;" in page
    gap, _, collapse = [line for line in text.splitlines() if line.startswith(("| train", "| usage"))]
    assert gap.startswith(
        r"| train\_eval\_gap | dense seed 2 | validation loss 0 of 1 to the end | 20 | −4.84 | 1.00 |"
    )
    assert collapse.startswith(r"| usage\_collapse | gated\_mlp seeds 0, 1 | layers 1–3 6 of 6 to the end | 10 | 0.3 %")
    assert "13 effective slots" in collapse and len(text.split("## Alarms")) == 2


def test_runs_older_than_alarms_are_not_called_silent(folder):
    edit_record(folder / "dense-s0", alarms=None)
    assert alarms.sentence(read_experiment(folder)) == "No alarms in 11 runs. Not recorded in 1 run."
    for run in folder.glob("*-s*"):
        edit_record(run, alarms=None)
    assert alarms.sentence(read_experiment(folder)) == "Alarms were not recorded."


def test_a_broken_alarm_is_one_clear_line(folder):
    edit_record(folder / "dense-s0", alarms=[{"name": "loss_spike"}])
    with pytest.raises(RunError, match=r"record\.json: alarms\.0\.where: field required$"):
        read_run(folder / "dense-s0")


def test_usage_shows_the_update_share_where_it_was_recorded(folder):
    _, text = write_report(folder)
    assert "| Update share | Reads a slot |" in text.read_text(encoding="utf-8")
    for record in folder.glob("*/record.json"):
        record.write_text(
            record.read_text(encoding="utf-8").replace("update_share", "of_another_day"), encoding="utf-8"
        )
    _, text = write_report(folder)
    assert "Update share |" not in text.read_text(encoding="utf-8")
