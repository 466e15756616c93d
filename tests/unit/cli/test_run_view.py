"""What the progress view tells of alarms."""

import io

from rich.console import Console

from memlm.cli.run import View
from tests.unit.fabricate import alarm

RESULTS = {"validation_loss": 4.0, "train_loss": 3.9, "tokens_per_s": 9e3, "peak_memory_gib": 1.0, "time_s": 60.0}


def view():
    seen = View(Console(file=io.StringIO(), width=60, highlight=False), total=2)
    seen.started("gated_mlp-s0", 20)
    return seen


def printed(seen):
    return seen.progress.console.file.getvalue().splitlines()


def test_alarms_that_begin_together_are_one_line_and_mark_the_progress():
    seen = view()
    seen.step(2, 5.0, 1000.0)
    for layer in (1, 2, 3, 5):
        seen.alarm("gated_mlp-s0", alarm("usage_collapse", f"layer {layer}", last_step=2))
    seen.step(4, 4.0, 1000.0)
    before, told, after = printed(seen)
    assert "⚠" not in before
    assert told.startswith("[1/2] gated_mlp-s0  ⚠ step 2: usage_collapse, layer 1: the weight lies on 13 effective")
    assert told.endswith("<&> (also layers 2–3, 5)")
    assert "loss 4.000  1,000 tokens/s  ⚠ usage_collapse layers 1–3, 5" in after


def test_alarms_of_the_same_layers_share_a_mark():
    seen = view()
    for name, layer in (("usage_collapse", 1), ("dead_slots", 1), ("gate_shut", 0)):
        seen.alarm("gated_mlp-s0", alarm(name, f"layer {layer}"))
    seen.step(2, 5.0, 1000.0)
    assert "⚠ usage_collapse, dead_slots layer 1  ⚠ gate_shut layer 0" in printed(seen)[-1]


def test_an_alarm_that_ceased_loses_its_mark():
    seen = view()
    seen.alarm("gated_mlp-s0", alarm("loss_spike", "training loss"))
    seen.alarm("gated_mlp-s0", alarm("dead_slots", "layer 0"))
    seen.step(2, 5.0, 1000.0)
    seen.alarm("gated_mlp-s0", alarm("loss_spike", "training loss", active=False))
    seen.step(4, 5.0, 1000.0)
    lines = printed(seen)
    assert len(lines) == 4
    assert lines[2].count("⚠ loss_spike training loss  ⚠ dead_slots layer 0") == 1
    assert "⚠ dead_slots layer 0" in lines[3] and "loss_spike" not in lines[3]


def test_alarms_of_the_last_step_are_told_and_do_not_reach_the_next_run():
    seen = view()
    seen.alarm("gated_mlp-s0", alarm("dead_slots", "layer 0"))
    seen.finished("gated_mlp-s0", RESULTS)
    seen.started("dense-s0", 20)
    seen.step(2, 5.0, 1000.0)
    told, done, step = printed(seen)
    assert "dead_slots, layer 0" in told and "validation 4.0000" in done and "⚠" not in step
