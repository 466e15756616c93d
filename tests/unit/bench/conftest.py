"""A setting on the CPU, sizes that take milliseconds, and fabricated results."""

import pytest
import torch

from memlm.bench.setting import Setting
from memlm.bench.shapes import Decoding, Growth, Models, Shape
from memlm.bench.store import Group, Results

MEMORY = {"type": "product_key", "n_keys": 8, "n_heads": 2, "top_k": 3, "d_key": 8, "d_value": 12}


@pytest.fixture(scope="session")
def setting():
    return Setting(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def shape():
    fused = {"memory": MEMORY, "fusion": {"type": "gated_mlp"}}
    return Shape(
        "small",
        tokens=40,
        d_model=16,
        d_ff=24,
        n_keys=9,
        n_heads=2,
        top_k=3,
        d_key=8,
        d_value=12,
        fusions={"gated_mlp": {}, "cross_attention": {"n_heads": 2}, "weighted_sum": {}},
        models=Models({"d_model": 16, "n_layers": 1, "n_heads": 2}, {"dense": {}, "fused": fused}, 50, 8, 2),
        growth=Growth((6, 9), (2, 3, 4), 9),
        decoding=Decoding(
            {
                "d_model": 16,
                "n_layers": 2,
                "n_heads": 2,
                "layers": [1],
                "fusion": {"type": "weighted_sum"},
                "placement": "parallel",
            },
            50,
            4,
            (1, 3),
        ),
    )


def timing(median):
    return {"median_ms": median, "min_ms": 0.9 * median, "max_ms": 1.5 * median, "runs": 20}


def layer(forward, both, error=0.001):
    times = {"forward": timing(forward), "forward_backward": timing(both)}
    return {"status": "ok", **times, "peak_gib": 0.5, "error": error}


def fabricated(name="NVIDIA H100 80GB HBM3", kind="cuda", commit="abc", started="2026-11-24T10:00:00+00:00"):
    """Results of one device, with one row of every kind that can be."""
    rates = {"bytes_per_s": 3e12, "flops_per_s": 8e14}
    model = {"status": "ok", "peak_gib": 6.0, "start_up_s": 31.0, "flops_per_token": 2e8, "parameters": 26_000_000}
    rows = {
        ("layers", "S"): {
            "dense FFN, eager": layer(0.4, 1.2),
            "dense FFN, compiled": layer(0.3, 1.0),
            "gated_mlp, compiled": layer(0.6, 0.9),
            "cross_attention, compiled": {"status": "wrong", "error": 0.7},
            "PEER-pytorch, eager": {"status": "not installed"},
        },
        ("stages", "S"): {
            "query projection": {"status": "ok", "bytes": 3e6, "flops": 8e9, "time": timing(0.02)},
            "selection, forward": {
                "status": "ok",
                "bytes": 6e6,
                "flops": 4e9,
                "time": timing(0.04),
                "reference": timing(1.6),
                "error": 0.001,
            },
            "lookup, forward": {"status": "out of memory"},
            "lookup, backward": {"status": "failed", "reason": "RuntimeError: no such kernel"},
        },
        ("steps", "S"): {
            "dense": {**model, "tokens_per_s": 1e6},
            "gated_mlp in every layer": {**model, "tokens_per_s": 8e5, "profile": {"gemm": 6.0, "others": 2.0}},
        },
        ("growth", "grown"): {
            "dense FFN": {"status": "ok", "time": timing(0.5), "peak_gib": 0.1},
            **{
                f"{slots} slots, {reads} reads": {
                    "status": "ok",
                    "slots": slots,
                    "reads": reads,
                    "time": timing(0.4 + slots / 1e6 + reads / 100),
                    "peak_gib": 0.2,
                }
                for slots, reads in [(1 << 14, 32), (1 << 16, 32), (1 << 20, 32), (1 << 20, 8), (1 << 20, 64)]
            },
        },
    }
    written = {"status": "ok", "time": timing(2.0), "tokens_per_s": 8e3, "values_gib": 2.0, "error": 0.0}
    moved = {"moved_bytes": 3e6, "host_bytes_per_s": 5e10}
    rows["decode", "decoded"] = {
        "device, graph, batch 16": written,
        "host, a quarter hot, graph, batch 16": {**written, "tokens_per_s": 6e3, "hit_rate": 0.9, **moved},
        "int8, graph, batch 16": {"status": "wrong", "error": 0.3, "values_gib": 1.0},
        "mapped, eager, batch 16": {**written, "hit_rate": 0.5, **moved, "host_bytes_per_s": None},
    }
    groups = {f"{p}/{s}": Group(p, s, started, f"sizes of {s}", rates, found) for (p, s), found in rows.items()}
    return Results({"name": name, "kind": kind}, commit, {"torch": "2.11.0"}, groups)
