"""Every planted fault is caught under its name by who must catch it, and its sound twin passes."""

import re

import numpy as np
import pytest

from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.errors import PreflightError
from memlm.model.config import ModelConfig
from memlm.train.preflight import Report, preflight, require
from tests.zoo.collapse import train_and_watch
from tests.zoo.faults import FAULTS, Planted, evaluate

BY_PREFLIGHT = [planted for planted in FAULTS if planted.detector != "alarm"]
BY_ALARM = [planted for planted in FAULTS if planted.detector == "alarm"]
CHECK_OF = {"data": "data_order", "reload": "reload"}
"""Detectors that are one check of the preflight."""


def run(planted: Planted, evaluation=evaluate) -> Report:
    return preflight(
        ModelConfig.model_validate(planted.config),
        TrainConfig(steps=1),
        evaluate_loss=evaluation,
        sampler=Sampler(np.arange(101, dtype=np.uint16), 4, 3, seed=0),
        use_cache=False,
    )


@pytest.fixture(scope="module")
def caught():
    """What each fault was reported as."""
    return {}


@pytest.mark.parametrize("planted", BY_PREFLIGHT, ids=lambda planted: planted.name)
def test_a_planted_fault_is_caught_and_named(planted, monkeypatch, caught):
    planted.plant(monkeypatch)
    report = run(planted, planted.evaluate)
    assert {fault.fault for fault in report.faults} == {planted.fault, *planted.also}
    found = next(fault for fault in report.faults if fault.fault == planted.fault)
    assert found.module == planted.module
    if planted.detector in CHECK_OF:
        assert [outcome.check for outcome in report.outcomes if outcome.faults] == [CHECK_OF[planted.detector]]
    line = re.escape(f"  variant: {planted.fault} in {planted.module}: ")
    with pytest.raises(PreflightError, match=rf"^the preflight found \d faults?, nothing was trained\n(.*\n)*{line}"):
        require({"variant": report})
    caught[planted.name] = planted.fault


def test_how_many_were_caught(caught, record_property):
    record_property("reliability", {"what": "planted faults", "tried": len(BY_PREFLIGHT), "good": len(caught)})
    assert len(BY_PREFLIGHT) >= 12
    assert len(caught) == len(BY_PREFLIGHT)


@pytest.mark.parametrize("planted", BY_ALARM, ids=lambda planted: planted.name)
def test_a_fault_that_shows_later_raises_its_alarm(planted):
    assert planted.fault in {alarm.name for alarm in train_and_watch(has_norms=False)}
    assert planted.fault not in {alarm.name for alarm in train_and_watch(has_norms=True)}


TWINS = {str(planted.config): planted for planted in FAULTS if planted.name != "a fusion that ignores the memory"}


@pytest.mark.parametrize("planted", TWINS.values(), ids=lambda planted: planted.name)
def test_the_sound_twin_passes(planted):
    report = run(planted)
    assert report.faults == []
    assert {outcome.status for outcome in report.outcomes} == {"passed"}
