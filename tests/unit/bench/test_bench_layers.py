"""Layers, training steps and growth on the CPU."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from memlm.bench import growth, layers, peers, steps
from memlm.bench.setting import TOLERANCES, Setting
from memlm.kernels.choice import VARIABLE
from memlm.train import optimizer


def test_a_cpu_compiles_nothing_and_a_gpu_everything_of_ours(shape, setting):
    assert [f"{f.layer}, {f.form}" for f in layers.forms(shape, setting)] == [
        "dense FFN, eager",
        "gated_mlp, eager",
        "cross_attention, eager",
        "weighted_sum, eager",
        "weighted_sum, 16-bit values, eager",
        "weighted_sum, 16-bit values, float32 gradient, eager",
        "product-key-memory, eager",
        "PEER-pytorch, eager",
    ]
    on_gpu = [tuple(f) for f in layers.forms(shape, Setting(torch.device("cuda"), torch.bfloat16))]
    assert on_gpu[:4] == [
        ("dense FFN", "eager"),
        ("dense FFN", "compiled"),
        ("gated_mlp", "compiled"),
        ("gated_mlp", "compiled, plain torch"),
    ]


@pytest.mark.parametrize("layer", ["dense FFN", "gated_mlp", "cross_attention", "weighted_sum"])
def test_a_layer_has_both_times(layer, shape, setting):
    row = layers.measure(layer, "eager", shape, setting)
    assert row["status"] == "ok" and row["error"] <= TOLERANCES[torch.float32]
    assert row["forward"]["median_ms"] > 0 and row["forward_backward"]["median_ms"] > 0


@pytest.mark.parametrize(
    ("values", "dtype"), [("16-bit values", "bfloat16"), ("16-bit values, float32 gradient", "float32")]
)
def test_a_layer_of_16_bits_is_measured_with_the_gradient_of_its_name(values, dtype, shape, setting):
    row = layers.measure(f"weighted_sum, {values}", "eager", shape, setting)
    assert row["status"] == "ok" and row["error"] <= TOLERANCES[torch.float32]
    bank = layers.MemoryLayer(shape, "weighted_sum", values).bank
    assert bank.values.dtype == torch.bfloat16
    assert bank.compact.carrier.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("fusion", ["gated_mlp", "cross_attention", "weighted_sum"])
def test_a_layer_compiles_in_one_piece(fusion, shape):
    torch.compiler.reset()
    layer = layers.MemoryLayer(shape, fusion)
    hidden = torch.randn(1, shape.tokens, shape.d_model)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(hidden), layer(hidden))


def test_a_layer_that_is_not_what_plain_torch_gives_has_no_time(shape, setting, monkeypatch):
    forward = layers.MemoryLayer.forward

    def fast_and_wrong(self, hidden):
        factor = 1.0 if os.environ.get(VARIABLE) == "reference" else 1.01
        return factor * forward(self, hidden)

    monkeypatch.setattr(layers.MemoryLayer, "forward", fast_and_wrong)
    row = layers.measure("weighted_sum", "eager", shape, setting)
    assert row["status"] == "wrong" and row["error"] == pytest.approx(0.01, rel=0.1)
    assert "forward" not in row
    assert layers.measure("weighted_sum", "eager, plain torch", shape, setting)["status"] == "ok"


def test_a_wrong_gradient_is_seen(shape, setting, monkeypatch):
    forward = layers.MemoryLayer.forward

    def detached(self, hidden):
        is_plain = os.environ.get(VARIABLE) == "reference"
        return forward(self, hidden if is_plain else hidden.detach() + 0 * hidden)

    monkeypatch.setattr(layers.MemoryLayer, "forward", detached)
    assert layers.measure("gated_mlp", "eager", shape, setting)["status"] == "wrong"


class Foreign(nn.Module):
    """A package's layer: takes whatever sizes it is given, and has a parameter that gets no gradient."""

    def __init__(self, dim, **sizes):
        super().__init__()
        self.linear, self.idle, self.sizes = nn.Linear(dim, dim), nn.Parameter(torch.zeros(2)), sizes

    def forward(self, hidden):
        return self.linear(hidden)


@pytest.mark.parametrize(
    ("name", "package", "sizes"),
    [
        ("product-key-memory", "product_key_memory", {"heads": 2, "num_keys": 9, "topk": 3, "dim_head": 4}),
        (
            "PEER-pytorch",
            "PEER_pytorch",
            {"heads": 2, "num_experts": 81, "num_experts_per_head": 3, "dim_key": 4, "non_competing_scores": False},
        ),
    ],
)
def test_other_packages_are_timed_if_they_are_there(name, package, sizes, shape, setting, monkeypatch):
    found = {}
    monkeypatch.setattr(peers, "_package", found.get)
    assert layers.measure(name, "eager", shape, setting) == {"status": "not installed"}
    found[package] = SimpleNamespace(PKM=Foreign, PEER=Foreign)
    assert peers.PEERS[name](shape).sizes == sizes
    row = layers.measure(name, "eager", shape, setting)
    assert row["status"] == "ok" and "error" not in row


@pytest.mark.parametrize(
    ("name", "package"), [("product-key-memory", "product_key_memory"), ("PEER-pytorch", "PEER_pytorch")]
)
def test_the_packages_take_the_sizes_that_they_are_given(name, package, shape):
    pytest.importorskip(package)
    hidden = torch.randn(1, shape.tokens, shape.d_model)
    assert peers.PEERS[name](shape)(hidden).shape == hidden.shape


def test_a_step_is_that_of_the_training_loop(shape, setting):
    dense, fused = (steps.measure(variant, shape.models, setting) for variant in ("dense", "fused"))
    assert dense["status"] == fused["status"] == "ok"
    assert dense["tokens_per_s"] > 0 and dense["start_up_s"] >= 0
    assert fused["parameters"] - dense["parameters"] > 64 * 12, "the bank is one of the parameters"
    assert dense["flops_per_token"] > 6 * 50 * 16


def test_a_profile_adds_up_the_calls_of_a_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "KERNELS", 1)
    calls = [("gemm", 2000), ("gemm", 1000), ("copy", 500), ("fill", 100)]
    events = [{"cat": "kernel", "name": name, "dur": dur} for name, dur in calls] + [{"cat": "cpu_op", "name": "mm"}]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"traceEvents": events}))
    assert steps._profile(trace) == pytest.approx({"gemm": 3.0, "others": 0.6})
    assert steps._profile(tmp_path / "none.json") == {}


def test_growth_goes_through_slots_and_reads(shape, setting):
    points = growth.points(shape)
    assert list(points) == [
        "dense FFN",
        "36 slots, 6 reads",
        "81 slots, 6 reads",
        "81 slots, 4 reads",
        "81 slots, 8 reads",
    ]
    row = growth.measure("36 slots, 6 reads", shape, setting)
    assert (row["status"], row["slots"], row["reads"]) == ("ok", 36, 6) and row["time"]["median_ms"] > 0
    assert growth.measure("dense FFN", shape, setting)["status"] == "ok"


def test_a_growing_layer_is_updated(shape, setting, monkeypatch):
    kept = []
    build = growth.build_optimizer
    monkeypatch.setattr(growth, "build_optimizer", lambda layer, config: kept.append(layer) or build(layer, config))
    torch.manual_seed(0)
    before = layers.MemoryLayer(growth.points(shape)["36 slots, 6 reads"], "weighted_sum").bank.values.clone()
    growth.measure("36 slots, 6 reads", shape, setting)
    assert not torch.equal(kept[0].bank.values, before)
    assert kept[0].bank.values.grad is None


@pytest.mark.parametrize("part", ["growth", "layers"])
def test_a_bank_that_is_read_in_part_is_measured_as_it_is_trained(part, shape, setting, monkeypatch):
    """Four sets of inputs read more rows than the list of one step has room for."""
    monkeypatch.setattr(optimizer, "COMPACT_SIZE", 1)
    monkeypatch.setattr(optimizer, "COMPACT_SHARE", 1.0)
    shape = replace(shape, tokens=4, n_keys=16, n_heads=1, top_k=2)
    kept = []
    give = layers.give_compact_gradient
    monkeypatch.setattr(layers, "give_compact_gradient", lambda bank, *a, **k: kept.append(bank) or give(bank, *a, **k))
    if part == "layers":
        assert layers.measure("weighted_sum", "eager", shape, setting)["status"] == "ok"
    else:
        monkeypatch.setattr(growth, "points", lambda _shape: {"one": shape})
        assert growth.measure("one", shape, setting)["status"] == "ok"
    assert len(kept[0].compact.carrier) == 8 < kept[0].n_slots
