"""Sound models pass: random valid configurations raise no fault, and none of their checks is left out unseen."""

import numpy as np
import pytest

from memlm.data.sampler import Sampler
from memlm.registry import FUSIONS, MEMORIES
from memlm.train.preflight import CHECKS, preflight
from tests.zoo.faults import evaluate
from tests.zoo.random_configs import random_config

QUICK = range(20)
LONG = range(20, 220)


def false_alarms(seeds) -> dict[int, list[str]]:
    alarms = {}
    for seed in seeds:
        model, train = random_config(seed)
        sampler = Sampler(np.arange(500, dtype=np.uint16), 1 + seed % 13, 1 + seed % 7, seed)
        report = preflight(model, train, evaluate_loss=evaluate, sampler=sampler, use_cache=False)
        assert {outcome.check for outcome in report.outcomes} == {*CHECKS, "data_order"}
        declared = {outcome.check for outcome in report.outcomes if outcome.status == "declared"}
        skipped = {outcome.reason for outcome in report.outcomes if outcome.status == "skipped"}
        if declared:
            skipped = {reason for reason in skipped if not any(check in reason for check in declared)}
        assert skipped <= ({"the model has no memory"} if model.memory is None else set())
        if report.faults:
            alarms[seed] = [str(fault) for fault in report.faults]
    return alarms


def test_random_configurations_raise_no_alarm(record_property):
    alarms = false_alarms(QUICK)
    record_property("reliability", {"what": "false alarms", "tried": len(QUICK), "good": len(QUICK) - len(alarms)})
    assert alarms == {}


@pytest.mark.torture
def test_many_random_configurations_raise_no_alarm(record_property):
    alarms = false_alarms(LONG)
    record_property("reliability", {"what": "false alarms", "tried": len(LONG), "good": len(LONG) - len(alarms)})
    assert alarms == {}


def test_the_random_configurations_are_of_every_kind():
    models = [random_config(seed)[0] for seed in QUICK]
    wired = [model for model in models if model.memory is not None]
    assert len(wired) < len(models)
    assert {model.fusion.type for model in wired} == set(FUSIONS.names())
    assert {model.memory.type for model in wired} == set(MEMORIES.names())
    assert {model.placement for model in wired} == {"replace", "parallel"}
    assert {model.shared_bank for model in wired} == {model.tie_embeddings for model in models} == {True, False}
    assert {model.experts is None for model in models} == {True, False}
    assert any(model.n_kv_heads not in (None, model.n_heads) for model in models)
    for field in ("query_norm", "key_norm"):
        assert any(not getattr(model.memory, field, True) for model in wired)
