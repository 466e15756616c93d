"""Stages: what they compare, count, and refuse to time."""

import pytest
import torch

from memlm.bench import stages
from memlm.bench.setting import TOLERANCES, Draw


@pytest.mark.parametrize("name", stages.STAGES)
def test_a_stage_has_a_time_and_is_compared_with_plain_torch(name, shape, setting):
    row = stages.measure(name, shape, setting)
    assert row["status"] == "ok"
    assert row["bytes"] > 0 and row["flops"] > 0 and row["time"]["median_ms"] > 0
    assert ("error" in row) == (name not in ("query projection", "AdamW, whole table"))
    assert "reference" not in row, "on a CPU the stage itself runs in plain torch"
    assert row.get("error", 0.0) <= TOLERANCES[torch.float32]


def test_bytes_and_operations_are_those_of_the_formulas(shape, setting):
    found = {
        name: (stage.bytes, stage.flops)
        for name, make in stages.STAGES.items()
        for stage in [make(shape, Draw(setting))]
    }
    n, d, heads, reads, width, slots, half, keys = 40, 16, 2, 6, 12, 81, 4, 9
    queries, table = 4 * n * heads * 2 * half, 4 * heads * 2 * keys * half
    assert found["query projection"] == (4 * n * d + 4 * heads * 8 * d + queries, 2 * n * d * heads * 8)
    assert found["selection, forward"] == (queries + table + n * reads * 12, 2 * n * heads * 2 * half * keys)
    assert found["selection, backward"] == (2 * (queries + table) + n * reads * 12, 4 * n * reads * 2 * half)
    assert found["lookup, forward"] == (4 * n * reads * width + n * reads * 12 + 4 * n * width, 2 * n * reads * width)
    halves = 2 * n * reads * width + n * reads * 12 + 2 * n * width
    assert found["lookup, forward, 16-bit values"] == (halves, 2 * n * reads * width)
    assert found["AdamW, whole table"] == (7 * 4 * slots * width, 14 * slots * width)
    wide, narrow = (found[f"AdamW, rows read{end}"] for end in ("", ", 16-bit values"))
    assert narrow == (wide[0] * 24 // 28, wide[1])
    unique = stages.lookup_backward(shape, Draw(setting)).bytes
    least = 4 * slots * width + 4 * n * width + 8 * n * reads + 2 * 4 * n * reads
    assert 0 < unique - least <= 4 * slots * width


@pytest.mark.parametrize(
    ("operation", "name", "fault"),
    [
        ("weighted_lookup", "lookup, forward", lambda op: lambda v, s, w: op(v, s.roll(1, 0), w)),
        ("weighted_lookup", "lookup, forward", lambda op: lambda v, s, w: op(v, s, w) * float("nan")),
        ("weighted_lookup", "lookup, backward", lambda op: lambda v, s, w: op(v, s, w.detach()) + 0 * w.sum()),
        ("weighted_lookup", "lookup, backward, Zipf", lambda op: lambda v, s, w: op(v * 1.01, s, w)),
        ("product_key_select", "selection, forward", lambda op: lambda q, k, n: op(q, k.flip(2), n)),
        (
            "product_key_select",
            "selection, forward",
            lambda op: lambda q, k, n: (op(q, k, n)[0].roll(1, 0), op(q, k, n)[1]),
        ),
        (
            "product_key_select",
            "selection, backward",
            lambda op: lambda q, k, n: (op(q, k, n)[0], op(q, k.detach(), n)[1] + 0 * k.sum()),
        ),
    ],
)
def test_a_wrong_result_has_no_time(operation, name, fault, shape, setting, monkeypatch):
    monkeypatch.setattr(stages, operation, fault(getattr(stages, operation)))
    row = stages.measure(name, shape, setting)
    assert row["status"] == "wrong" and row["error"] > TOLERANCES[torch.float32]
    assert "time" not in row and "reference" not in row


def test_another_slot_of_the_same_score_is_no_error(shape, setting, monkeypatch):
    operation = stages.product_key_select

    def twice(keys):
        return torch.cat([keys[:, :, :4], keys[:, :, :4], keys[:, :, 8:]], dim=2)

    def other_twin(query, keys, top_k):
        slots, scores = operation(query, keys, top_k)
        first = slots // 9
        return torch.where(first < 8, (first + 4) % 8, first) * 9 + slots % 9, scores

    addresses = stages._addresses
    monkeypatch.setattr(stages, "_addresses", lambda s, d: (lambda q, k: (q, twice(k)))(*addresses(s, d)))
    monkeypatch.setattr(stages, "product_key_select", other_twin)
    assert stages.measure("selection, forward", shape, setting)["status"] == "ok"


def test_zipf_reads_a_few_rows_often_and_every_row_exists(setting):
    slots = Draw(setting).zipf_slots(1000, 50, 100)
    counts = slots.flatten().bincount(minlength=1000).sort(descending=True).values
    assert slots.min() >= 0 and slots.max() < 1000
    assert counts[0] > 5 * counts[20] > 0
    assert counts[:10].sum() == pytest.approx(0.33 * 5000, rel=0.15)


def test_draws_repeat(shape, setting):
    first, second = (stages.lookup_forward(shape, Draw(setting)).call(2) for _ in range(2))
    assert torch.equal(first, second)
