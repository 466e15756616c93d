"""The preflight as a whole: what it leaves out, remembers and declares, and that the run to come does not notice it."""

import json
import logging
from typing import Literal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from memlm.config.train import TrainConfig
from memlm.data.cache import default_cache
from memlm.data.sampler import Sampler
from memlm.errors import PreflightError
from memlm.memory.product_key import ProductKeyConfig, ProductKeyMemory
from memlm.model.config import ModelConfig
from memlm.registry import MEMORIES
from memlm.train.preflight import CHECKS, Fault, Outcome, Report, preflight, remembered, require, runner
from memlm.train.preflight.order import data_order
from memlm.train.preflight.shrink import shrunken
from memlm.train.preflight.trace import first_difference, trace, whole

DENSE = ModelConfig(d_model=32, n_layers=1, n_heads=2)
MEMORY = {"type": "product_key", "n_keys": 64, "n_heads": 4, "top_k": 8, "d_key": 64, "d_value": 64}
STEPS = TrainConfig(steps=1)
LEAK = Fault("future_leak", "decoder.blocks.1.memory", "logits by up to 0.3", "use each token's own state")


@pytest.fixture
def quick(monkeypatch):
    """Leaves two checks; the second counts how often it is run."""
    runs = []
    entries = {
        "determinism": CHECKS["determinism"],
        "context": runner.Entry(lambda subject: runs.append(subject) or []),
    }
    monkeypatch.setattr(runner, "CHECKS", entries)
    return runs


def test_a_refusal_is_one_line_for_each_fault():
    report = Report((Outcome("causality", "failed", 0.1, "", (LEAK,)), Outcome("loss", "passed")))
    require({"sound": Report((Outcome("loss", "passed"),))})
    with pytest.raises(PreflightError) as caught:
        require({"gated": report, "other": report})
    assert caught.value.exit_code == 3
    line = "future_leak in decoder.blocks.1.memory: logits by up to 0.3; use each token's own state"
    assert str(caught.value) == f"the preflight found 2 faults, nothing was trained\n  gated: {line}\n  other: {line}"
    with pytest.raises(
        PreflightError, match=r"^the preflight found 1 fault, nothing was trained\n  gated: future_leak"
    ):
        require({"gated": report})


def test_a_report_survives_json():
    report = Report((Outcome("causality", "declared", 0.1, "future_leak: meant", (LEAK,)), Outcome("loss", "passed")))
    assert Report.from_dict(json.loads(json.dumps(report.as_dict()))) == report
    assert report.faults == [] and report.seconds == pytest.approx(0.1)


def test_a_check_is_left_out_by_name_only_and_the_report_says_so(quick):
    train = TrainConfig(steps=1, skip_checks=["context", "data_order"])
    sampler = Sampler(np.arange(100), 4, 3, 0)
    outcomes = {o.check: o for o in preflight(DENSE, train, sampler=sampler, use_cache=False).outcomes}
    assert quick == []
    for check in ("context", "data_order"):
        assert (outcomes[check].status, outcomes[check].reason) == ("skipped", "left out by train.skip_checks")
    assert outcomes["determinism"].status == "passed"
    outcomes = {o.check: o for o in preflight(DENSE, STEPS, use_cache=False).outcomes}
    assert outcomes["context"].status == "passed" and len(quick) == 1
    assert (outcomes["data_order"].status, outcomes["data_order"].reason) == ("skipped", "no sampler was given")


def test_a_model_that_passed_is_remembered_until_anything_changes(quick, monkeypatch):
    first = preflight(DENSE, STEPS)
    again = preflight(DENSE, TrainConfig(steps=9, lr=0.1))
    assert not first.remembered and again.remembered and len(quick) == 1
    assert again.outcomes == first.outcomes
    for model, train in [
        (DENSE.model_copy(update={"d_model": 64}), STEPS),
        (DENSE, TrainConfig(steps=1, skip_checks=["loss"])),
    ]:
        assert not preflight(model, train).remembered
    assert not preflight(DENSE, STEPS, evaluate_loss=lambda model, sequences: 0.0).remembered
    monkeypatch.setattr(remembered, "_code", lambda: ["other code"])
    assert not preflight(DENSE, STEPS).remembered
    monkeypatch.setattr(remembered.metadata, "version", lambda name: "3.0")
    assert not preflight(DENSE, STEPS).remembered
    monkeypatch.setenv("MEMLM_KERNELS", "reference")
    assert not preflight(DENSE, STEPS).remembered


def test_what_failed_is_not_remembered(quick, monkeypatch):
    monkeypatch.setitem(runner.CHECKS, "context", runner.Entry(lambda subject: quick.append(subject) or [LEAK]))
    model = DENSE.model_copy(update={"d_model": 96})
    for _ in range(2):
        assert [fault.fault for fault in preflight(model, STEPS).faults] == ["future_leak"]
    assert len(quick) == 4, "a fault counts only if a second draw shows it too"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"checks": [{}]}', '{"checks": [{"check": "loss", "faults": [3]}]}'])
def test_a_damaged_file_is_told_and_made_again(text, quick, caplog):
    model = DENSE.model_copy(update={"d_model": 128})
    preflight(model, STEPS)
    key = remembered.key(model, STEPS, torch.device("cpu"), False)
    path = default_cache() / "preflight" / f"{key}.json"
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert not preflight(model, STEPS).remembered
    assert f"{path} is damaged" in caplog.text and "the preflight is run again" in caplog.text
    assert preflight(model, STEPS).remembered


def test_a_fault_that_one_draw_shows_and_another_does_not_is_chance(monkeypatch):
    entries = {"context": runner.Entry(lambda subject: [LEAK] if subject.seed == 0 else [])}
    monkeypatch.setattr(runner, "CHECKS", entries)
    assert preflight(DENSE, STEPS, use_cache=False).faults == []


def test_a_check_says_nothing_after_one_that_it_builds_on(monkeypatch):
    entries = {"loss": runner.Entry(lambda _subject: [LEAK]), "overfit": runner.Entry(lambda _: [LEAK], ("loss",))}
    monkeypatch.setattr(runner, "CHECKS", entries)
    outcome = preflight(DENSE, STEPS, use_cache=False).outcomes[1]
    assert (outcome.status, outcome.reason) == ("skipped", "says nothing after what loss found")


def test_the_run_to_come_does_not_notice():
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True, mixed_precision="bf16")
    state, random, n_threads = dict(AcceleratorState._shared_state), torch.get_rng_state(), torch.get_num_threads()
    assert preflight(DENSE, STEPS, use_cache=False).faults == []
    assert dict(AcceleratorState._shared_state) == state
    assert torch.equal(torch.get_rng_state(), random) and torch.get_num_threads() == n_threads
    AcceleratorState._reset_state(reset_partial_state=True)


class NormedConfig(ProductKeyConfig):
    """Normalises queries over the batch, as Lample et al. do."""

    type: Literal["normed"]

    @property
    def expected_to_break(self):
        reason = "batch statistics, as in arXiv:1907.05242"
        meant = ("future_leak_in_training", "batch_dependence_in_training", "train_eval_mismatch")
        return dict.fromkeys(meant, reason)

    def build(self, d_model):
        return NormedMemory(self, d_model)


class NormedMemory(ProductKeyMemory):
    def __init__(self, config, d_model):
        super().__init__(config, d_model)
        self.norm = nn.BatchNorm1d(d_model)

    def addresses(self, hidden):
        return super().addresses(self.norm(hidden.flatten(0, 1)).view_as(hidden))


def test_what_is_declared_is_measured_and_no_fault(monkeypatch):
    monkeypatch.setitem(MEMORIES._classes, "normed", NormedConfig)
    fields = {"memory": MEMORY | {"type": "normed"}, "fusion": {"type": "gated_mlp"}}
    model = DENSE.model_validate(DENSE.model_dump(exclude_unset=True) | fields)
    report = preflight(model, STEPS, use_cache=False)
    assert report.faults == []
    declared = {outcome.check: outcome for outcome in report.outcomes if outcome.status == "declared"}
    assert set(declared) == {"train_eval_parity", "causality_in_training", "batch_invariance_in_training"}
    outcome = declared["causality_in_training"]
    assert outcome.reason == "future_leak_in_training: batch statistics, as in arXiv:1907.05242"
    assert outcome.faults[0].module == "decoder.blocks.0.memory.norm"
    passed = {outcome.check for outcome in report.outcomes if outcome.status == "passed"}
    assert {"causality", "cached_generation", "gradients", "overfit", "reload"} <= passed


@pytest.mark.parametrize(
    ("layers", "n_layers", "small", "n_small"),
    [
        ("all", 12, "all", 3),
        ("all", 1, "all", 1),
        ([2, 5, 8], 12, [1, 2], 4),
        ([5], 12, [1], 3),
        ([11], 12, [1], 2),
        ([0, 1, 2], 4, [0, 1, 2], 4),
        (list(range(11)), 12, [0, 1, 2], 4),
    ],
)
def test_a_small_copy_has_the_memory_in_like_places(layers, n_layers, small, n_small):
    config = ModelConfig(n_layers=n_layers, layers=layers, memory=MEMORY, fusion={"type": "gated_mlp"})
    copy = shrunken(config)
    assert (copy.layers, copy.n_layers) == (small, n_small)


def test_a_small_copy_is_wired_like_the_original():
    config = ModelConfig(
        d_model=480,
        n_layers=9,
        n_heads=12,
        n_kv_heads=3,
        d_ff=1000,
        experts={"n_experts": 16, "top_k": 1},
        tie_embeddings=False,
        memory=MEMORY | {"query_norm": False},
        fusion={"type": "cross_attention", "n_heads": 6},
        placement="parallel",
        layers=[0, 4],
        shared_bank=False,
    )
    small = shrunken(config)
    assert (small.n_heads, small.n_kv_heads, small.d_model, small.d_ff) == (4, 2, 32, 64)
    assert (small.experts.n_experts, small.experts.top_k, small.tie_embeddings) == (4, 1, False)
    assert (small.placement, small.shared_bank, small.layers) == ("parallel", False, [0, 2])
    assert (small.memory.n_slots, small.memory.n_reads, small.memory.query_norm) == (64, 6, False)
    assert shrunken(small) == small


def test_a_width_that_suits_the_fusion_is_found():
    wiring = {"memory": MEMORY, "fusion": {"type": "cross_attention", "n_heads": 3}}
    assert shrunken(ModelConfig(d_model=768, n_heads=8, **wiring)).d_model == 36


def test_the_first_place_of_a_difference_is_the_caller_or_the_called():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, shift):
            return self.second(self.first(x) + shift)

    model, x = Model(), torch.ones(1, 2)
    assert first_difference(trace(model, x, 0.0), trace(model, x, 0.0), whole, whole) is None
    found = first_difference(trace(model, x, 0.0), trace(model, x, 1.0), whole, whole)
    assert found is not None and found.module == "model", "the model itself added the shift, before its second layer"
    before = trace(model, x, 0.0)
    nn.init.zeros_(model.first.weight)
    found = first_difference(before, trace(model, x, 0.0), whole, whole)
    assert found is not None and found.module == "first" and str(found).startswith("logits by up to ")


def changed(**methods):
    return type("Changed", (Sampler,), methods)(np.arange(10_001, dtype=np.uint16), 8, 6, 0)


@pytest.mark.parametrize(
    ("methods", "evidence"),
    [
        ({"batch": lambda self, index: Sampler.batch(self, 0)}, "of the first 384 sequences of an epoch had been"),
        ({"batch": lambda self, index: Sampler.batch(self, index // 2)}, "had been given before"),
        ({"sequence": lambda self, position: position % self.n_sequences}, "repeats the order of the first (380"),
        (
            {"batch": lambda self, index: Sampler.batch(self, np.random.default_rng().integers(99))},
            "the same batch was not the same when asked for again",
        ),
        (
            {"batch": lambda self, index: np.delete(Sampler.batch(self, index), 4, axis=1)},
            "a batch's rows are not runs of seq_len + 1 tokens that follow each other",
        ),
    ],
)
def test_an_order_that_repeats_itself_is_told(methods, evidence):
    (fault,) = data_order(changed(**methods))
    assert evidence in fault.evidence and fault.module == "data.sampler"


@pytest.mark.parametrize(
    ("n_tokens", "seq_len", "batch_size"), [(9, 8, 1), (20, 8, 16), (100, 9, 4), (10_001, 8, 6), (10**8, 512, 64)]
)
def test_the_real_order_is_sound_whatever_the_sizes(n_tokens, seq_len, batch_size):
    tokens = np.broadcast_to(np.uint16(0), (n_tokens,))  # takes no memory
    assert data_order(Sampler(tokens, seq_len, batch_size, seed=1)) == []
