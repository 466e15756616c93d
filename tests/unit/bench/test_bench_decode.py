"""Decoding with the values elsewhere, on the CPU."""

import pytest
import torch

from memlm.bench import decode
from memlm.bench.decode import Decoders, decoders
from memlm.bench.setting import Setting
from memlm.offload import HostBank


def test_a_gpu_captures_all_but_what_the_host_sends(shape, setting):
    assert [each.name for each in decoders(shape, setting)] == [f"{values}, eager" for values in decode.HOLDERS]
    assert [each.name for each in decoders(shape, Setting(torch.device("cuda"), torch.bfloat16))] == [
        "device, graph",
        "host, graph",
        "host, a quarter hot, graph",
        "int8, graph",
        "device, eager",
        "mapped, eager",
    ]


@pytest.mark.parametrize("values", decode.HOLDERS)
def test_every_kind_has_its_speed(values, shape, setting):
    kind = Decoders(values, False, shape)
    rows = [kind.measure(batch, setting) for batch in shape.decoding.batches]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert (rows[0]["error"] > 0) == (values == "int8")
    row_bytes = 4 * shape.d_value
    for row, batch in zip(rows, shape.decoding.batches, strict=True):
        assert row["tokens_per_s"] == pytest.approx(1e3 * batch / row["time"]["median_ms"])
        if "hit_rate" in row:
            moved = (1 - row["hit_rate"]) * batch * shape.n_reads * row_bytes
            assert row["moved_bytes"] == pytest.approx(moved) and 0 < row["hit_rate"] < 1
    assert ("hit_rate" in rows[0]) == (values not in ("device", "int8"))
    assert kind._built is None, "the next kind needs the room"
    if values == "int8":
        assert rows[0]["values_gib"] * 2**30 == shape.n_slots * (shape.d_value + 4)


def test_a_bank_that_gives_other_rows_has_no_speed(shape, setting, monkeypatch):
    monkeypatch.setitem(decode.HOLDERS, "host", lambda values, device: HostBank(values.roll(1, 0), device))
    row = Decoders("host", False, shape).measure(1, setting)
    assert row["status"] == "wrong" and row["error"] > 0.5 and "tokens_per_s" not in row
