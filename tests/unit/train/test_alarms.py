"""Every alarm on a true case and on its sound twin."""

import json
import math
import re

import numpy as np
import pytest

from memlm.config.alarms import AlarmsConfig
from memlm.train.alarms import MIN_STEPS, WINDOW, Alarms, reachable_slots
from tests.zoo.collapse import train_and_watch

NOISE = np.random.default_rng(0).normal(scale=0.1, size=10_000)
FALL = [2.0 + 6.0 * math.exp(-n / 30) for n in range(300)]
"""A loss as it falls in training."""


def names(alarms):
    return [(alarm.name, alarm.where) for alarm in alarms]


def after_steps(losses, **thresholds):
    """Every alarm of a run with these losses."""
    alarms = Alarms(AlarmsConfig(**thresholds))
    return [alarm for n in range(1, len(losses) + 1) for alarm in alarms.after_step(n, losses[:n])], alarms


def usage(layer=2, **changes):
    """A layer of 4,096 slots that is used well."""
    sound = {"share_read": 0.6, "effective_slots": 1000.0, "n_slots": 4096, "reads": 200_000, "update_share": 0.1}
    return {f"memory/{layer}/{name}": value for name, value in (sound | changes).items()}


def evaluated(metrics, losses=(), step=100, **thresholds):
    return Alarms(AlarmsConfig(**thresholds)).after_evaluation(step, metrics, list(losses))


def test_a_sound_layer_is_silent():
    assert evaluated(usage()) == []


@pytest.mark.parametrize(
    ("name", "fault", "twin", "text"),
    [
        ("usage_collapse", {"effective_slots": 40.0}, {"effective_slots": 42.0}, r"40 effective slots of the 4,096 .*"),
        ("dead_slots", {"share_read": 0.09}, {"share_read": 0.11}, r"369 slots were read of the 4,096 .*91\.0% dead"),
        ("gate_shut", {"update_share": 0.0009}, {"update_share": 0.0011}, r"by 0\.0009 of its norm .*threshold 0\.001"),
    ],
)
def test_usage_alarms_fire_below_their_threshold_and_can_be_off(name, fault, twin, text):
    (alarm,) = evaluated(usage(layer=11, **fault))
    assert (alarm.name, alarm.where, alarm.step) == (name, "layer 11", 100)
    assert alarm.threshold == getattr(AlarmsConfig(), name)
    assert re.search(text, alarm.message) and "\n" not in alarm.message
    assert evaluated(usage(**twin)) == []
    assert evaluated(usage(**fault), **{name: None}) == []


def test_few_reads_are_not_dead_slots():
    few = usage(reads=400, share_read=370 / 4096, effective_slots=300.0)
    assert evaluated(few) == [], "400 reads cannot reach more than 400 of 4,096 slots"
    assert names(evaluated(usage(share_read=370 / 4096))) == [("dead_slots", "layer 2")]


def test_reachable_slots_are_those_of_even_reads():
    rng = np.random.default_rng(0)
    drawn = np.mean([len(set(rng.integers(0, 500, size=700))) for _ in range(400)])
    assert reachable_slots(500, 700) == pytest.approx(drawn, rel=0.01)
    assert reachable_slots(500, 1) == pytest.approx(1)


def test_uneven_use_and_unread_slots_are_different_faults():
    uneven = usage(share_read=0.9, effective_slots=10.0)
    sparse = usage(share_read=0.05, effective_slots=200.0)
    assert names(evaluated(uneven)) == [("usage_collapse", "layer 2")]
    assert names(evaluated(sparse)) == [("dead_slots", "layer 2")]


def test_a_loss_spike_fires_in_a_quiet_run_and_names_its_size():
    quiet = [2.0 + noise for noise in NOISE[:200]]
    begun, _ = after_steps([*quiet, 4.1, 4.0, 3.9])
    assert names(begun) == [("loss_spike", "training loss")]
    assert begun[0].step == 202, "one odd batch is no spike, two in a row are"
    assert begun[0].value > begun[0].threshold == 6
    assert re.search(r"4\.000 is 2\.\d\d nats above the recent median .*lower train\.lr", begun[0].message)
    assert after_steps([*quiet, 4.1, 4.0, 3.9], loss_spike=None)[0] == []


@pytest.mark.parametrize(
    "losses",
    [
        [2.0 + noise for noise in NOISE],
        [2.0 + noise for noise in np.random.default_rng(1).standard_t(3, size=10_000) * 0.1],
        FALL,
        [loss + noise for loss, noise in zip(FALL, NOISE, strict=False)],
        [*[2.0 + noise for noise in NOISE[:100]], 5.0, *(2.0 + noise for noise in NOISE[100:200])],
        [*[2.0 + noise / 1000 for noise in NOISE[:200]], 2.2, 2.2, 2.2],
        [9.0] * MIN_STEPS + [9.2, 9.3],
        [8.0] * (MIN_STEPS - 1) + [12.0, 12.0],
    ],
    ids=["noise", "heavy tails", "fall", "noisy fall", "one odd batch", "under the floor", "flat", "too few steps"],
)
def test_no_spike_in_a_sound_run(losses):
    assert after_steps(losses)[0] == []


def test_a_spike_ceases_after_a_quiet_window_and_may_begin_again():
    quiet = [2.0 + noise for noise in NOISE[: 2 * WINDOW]]
    begun, alarms = after_steps([*quiet, 4.0, 4.0, *quiet, 4.0, 4.0])
    assert [alarm.step for alarm in begun] == [2 * WINDOW + 2, 4 * WINDOW + 4]
    (entry,) = alarms.history
    assert (entry["step"], entry["last_step"], entry["count"], entry["active"]) == (130, 260, 2, True)
    _, alarms = after_steps([*quiet, 4.0, 4.0, *quiet])
    assert not alarms.history[0]["active"]


def test_a_step_that_is_not_finite_is_told_and_counted():
    losses = [5.0] * 30 + [math.nan]
    (alarm,), alarms = after_steps(losses)
    assert (alarm.name, alarm.where, alarm.value, alarm.threshold, alarm.step) == (
        "non_finite", "training loss", 1, 0, 31,
    )  # fmt: skip
    assert re.search(r"the step was not taken \(1 so far, 0 allowed\); lower train\.lr", alarm.message)
    assert alarms.must_end(losses) and not alarms.must_end(losses[:-1])
    lenient = Alarms(AlarmsConfig(non_finite=2))
    assert [lenient.must_end([math.inf] * n) for n in (1, 2, 3)] == [False, False, True]


def test_left_out_steps_do_not_disturb_the_other_alarms():
    losses = [2.0 + noise for noise in NOISE[:100]]
    losses[50:60] = [math.nan] * 10
    begun, _ = after_steps([*losses, 4.0, 4.0], non_finite=100)
    assert names(begun) == [("non_finite", "training loss"), ("loss_spike", "training loss")]
    assert evaluated({"evaluate/validation_loss": 2.1}, [*losses, math.nan]) == []


@pytest.mark.parametrize(
    ("training", "validation", "text"),
    [
        (2.84, 7.68, r"7\.680 is 4\.84 nats above the recent training loss 2\.840 .*compare train_subset_loss"),
        (2.43, 1.99, None),
        (3.0, 3.9, None),
        (3.0, 1.9, r"1\.900 is 1\.10 nats below .*held-out text is easier"),
    ],
)
def test_a_gap_between_training_and_validation(training, validation, text):
    metrics, losses = {"evaluate/validation_loss": validation}, [training] * 200
    begun = evaluated(metrics, losses)
    assert names(begun) == ([("train_eval_gap", "validation loss")] if text else [])
    if text:
        assert begun[0].value == pytest.approx(validation - training)
        assert re.search(text, begun[0].message)
        assert evaluated(metrics, losses, train_eval_gap=None) == []
        assert evaluated(metrics, losses[: MIN_STEPS - 1]) == [], "too early to tell"


def test_the_normal_fall_of_the_loss_is_no_gap():
    for n in range(1, len(FALL)):
        assert evaluated({"evaluate/validation_loss": FALL[n]}, FALL[:n]) == [], n


def test_a_held_out_loss_that_is_not_finite_is_an_alarm():
    (alarm,) = evaluated({"evaluate/validation_loss": math.nan}, [2.0] * 50)
    assert (alarm.name, alarm.where) == ("non_finite", "validation loss")
    assert "held-out loss is not finite while training goes on" in alarm.message


def test_an_alarm_is_told_when_it_begins_and_kept_with_its_course():
    alarms = Alarms(AlarmsConfig())
    bad, good = usage(effective_slots=10.0), usage()
    told = [len(alarms.after_evaluation(step, metrics, [])) for step, metrics in enumerate([good, bad, bad, good, bad])]
    assert told == [0, 1, 0, 0, 1]
    assert alarms.changed == alarms.history
    (entry,) = alarms.history
    assert (entry["step"], entry["last_step"], entry["count"], entry["active"]) == (1, 4, 3, True)
    alarms.after_evaluation(5, good, [])
    assert not entry["active"] and alarms.changed == [entry]
    alarms.after_evaluation(6, good, [])
    assert alarms.changed == []


def test_each_layer_has_its_own_alarm():
    begun = evaluated(usage(0) | usage(3, effective_slots=5.0) | usage(10, effective_slots=5.0))
    assert names(begun) == [("usage_collapse", "layer 3"), ("usage_collapse", "layer 10")]


def test_a_resumed_run_raises_what_an_uninterrupted_one_does():
    quiet = [2.0 + noise for noise in NOISE[:100]]
    losses = [*quiet, 4.0, 4.0, math.nan, *quiet, 4.0, 4.0]
    metrics = [usage(effective_slots=5.0 if 60 < step < 160 else 900.0) for step in range(len(losses))]

    def watch(alarms, steps):
        for n in steps:
            yield from alarms.after_step(n, losses[:n])
            if n % 20 == 0:
                yield from alarms.after_evaluation(n, metrics[n], losses[:n])

    whole = Alarms(AlarmsConfig(non_finite=9))
    expected = list(watch(whole, range(1, len(losses) + 1)))
    assert len(expected) == 4
    for cut in range(1, len(losses), 7):
        first = Alarms(whole.config)
        before = list(watch(first, range(1, cut + 1)))
        second = Alarms(whole.config, json.loads(json.dumps(first.history, allow_nan=False)))
        assert before + list(watch(second, range(cut + 1, len(losses) + 1))) == expected
        assert second.history == whole.history


def test_a_quiet_loss_that_jumps_can_be_written_as_json():
    _, alarms = after_steps([2.0] * 50 + [3.0, 3.0])
    assert json.loads(json.dumps(alarms.history, allow_nan=False))[0]["name"] == "loss_spike"


def test_unequal_keys_collapse_without_norms_and_not_with_them():
    """A real training; see tests/zoo/collapse.py."""
    assert train_and_watch(has_norms=True) == []
    assert names(train_and_watch(has_norms=False)) == [("usage_collapse", "layer 1"), ("dead_slots", "layer 1")]
