"""The tables of timings, for the terminal and for docs/performance.md, from records alone. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from memlm.bench.store import Group
from memlm.report.tables import NOTHING, Cell, Table, compact, fixed, percent

Row = Mapping[str, Any]
DENSE = ("dense FFN, compiled", "dense FFN, eager", "dense FFN", "dense")
"""Rows that others are told as multiples of; the first that a group has."""


def layers(group: Group) -> Table:
    """Both times of each layer, and what multiple of the dense layer they are."""
    columns = ["Layer", "Forward, ms", "× dense", "Forward + backward, ms", "× dense", "Peak, GiB", "Error"]
    passes = ("forward", "forward_backward")
    rows = [
        [Cell(name), *(cell for each in passes for cell in _timed(group, row, each)), _gib(row), _error(row)]
        if row["status"] == "ok"
        else _failed(name, row, len(columns))
        for name, row in group.rows.items()
    ]
    return Table(columns, rows)


def stages(group: Group) -> Table:
    """The time of each stage, that of plain torch if it was taken, and how near it comes to what the device can do."""
    has_plain = any("reference" in row for row in group.rows.values())
    plain = ["Plain torch, ms", "Gain"] if has_plain else []
    columns = ["Stage", "ms", *plain, "MB", "Of copy rate", "GFLOP", "Of matmul rate", "Error"]
    rows = [
        [Cell(name), *_stage(group, row, has_plain)] if row["status"] == "ok" else _failed(name, row, len(columns))
        for name, row in group.rows.items()
    ]
    return Table(columns, rows)


def steps(group: Group) -> Table:
    """The speed of whole training steps."""
    columns = ["Model", "Tokens/s", "Of dense", "Peak, GiB", "Start-up, s", "Of matmul rate", "Parameters"]
    dense = _dense(group)
    rows = [
        [
            Cell(name),
            Cell(fixed(0)(row["tokens_per_s"])),
            Cell(percent(row["tokens_per_s"] / dense["tokens_per_s"]) if dense else NOTHING),
            _gib(row),
            Cell(fixed(1)(row["start_up_s"])),
            Cell(percent(row["tokens_per_s"] * row["flops_per_token"] / group.ceilings["flops_per_s"])),
            Cell(compact(row["parameters"])),
        ]
        if row["status"] == "ok"
        else _failed(name, row, len(columns))
        for name, row in group.rows.items()
    ]
    return Table(columns, rows)


def profile(row: Row) -> Table:
    """The kernels of a step that took longest."""
    total = sum(row["profile"].values())
    rows = [[Cell(_short(name)), Cell(fixed(2)(ms)), Cell(percent(ms / total))] for name, ms in row["profile"].items()]
    return Table(["Kernel", "ms", "Share"], rows)


def _short(kernel: str) -> str:
    """Returns the beginning of a kernel's name, which can be pages of template arguments."""
    return f"{kernel[:77]}..." if len(kernel) > 80 else kernel


def growth(group: Group) -> Table:
    """The time of a step of one layer over slots and over reads."""
    columns = ["Layer", "Step, ms", "× dense", "Peak, GiB"]
    rows = [
        [Cell(name), *_timed(group, row, "time"), _gib(row)]
        if row["status"] == "ok"
        else _failed(name, row, len(columns))
        for name, row in group.rows.items()
    ]
    return Table(columns, rows)


def decode(group: Group) -> Table:
    """The speed of writing by how the values are held, beside the same on the device in the same form."""
    columns = ["Values", "Tokens/s", "Of device", "Step, ms", "Hit rate", "Moved, MB a step", "On device, GiB", "Error"]
    rows = [
        [
            Cell(name),
            Cell(fixed(0)(row["tokens_per_s"])),
            Cell(_of_device(group, name)),
            time(row["time"]),
            Cell(percent(row["hit_rate"]) if "hit_rate" in row else NOTHING),
            _moved(row),
            Cell(fixed(2)(row["values_gib"])),
            _error(row),
        ]
        if row["status"] == "ok"
        else _failed(name, row, len(columns))
        for name, row in group.rows.items()
    ]
    return Table(columns, rows)


def _moved(row: Row) -> Cell:
    """Shows what a step moves, and beside it the least time that this takes."""
    if "moved_bytes" not in row:
        return Cell(NOTHING)
    moved, rate = row["moved_bytes"], row.get("host_bytes_per_s")
    return Cell(fixed(2)(moved / 1e6), f"(≥ {fixed(3)(1e3 * moved / rate)} ms)" if rate else "")


def _of_device(group: Group, name: str) -> str:
    form, batch = name.split(", ")[-2:]
    there = group.rows.get(f"device, {form}, {batch}", {})
    return percent(group.rows[name]["tokens_per_s"] / there["tokens_per_s"]) if "tokens_per_s" in there else NOTHING


TABLES: dict[str, Callable[[Group], Table]] = {
    "stages": stages,
    "layers": layers,
    "steps": steps,
    "growth": growth,
    "decode": decode,
}


def multiple(group: Group, row: Row, key: str) -> float | None:
    """Returns a time of a row as a multiple of the dense layer's in the same run; None without one."""
    dense = _dense(group)
    return None if dense is None else row[key]["median_ms"] / dense[key]["median_ms"]


def _dense(group: Group) -> Row | None:
    return next((group.rows[name] for name in DENSE if group.rows.get(name, {}).get("status") == "ok"), None)


def _timed(group: Group, row: Row, key: str) -> tuple[Cell, Cell]:
    times = multiple(group, row, key)
    return time(row[key]), Cell(NOTHING if times is None else fixed(2)(times))


def time(timing: Row) -> Cell:
    """Shows the median, and the extremes beside it."""
    form = fixed(3)
    return Cell(form(timing["median_ms"]), f"({form(timing['min_ms'])}–{form(timing['max_ms'])})")


def _stage(group: Group, row: Row, has_plain: bool) -> list[Cell]:
    seconds = 1e-3 * row["time"]["median_ms"]
    return [
        time(row["time"]),
        *(_beside_plain(row) if has_plain else []),
        Cell(fixed(1)(row["bytes"] / 1e6)),
        Cell(percent(row["bytes"] / seconds / group.ceilings["bytes_per_s"])),
        Cell(fixed(2)(row["flops"] / 1e9)),
        Cell(percent(row["flops"] / seconds / group.ceilings["flops_per_s"])),
        _error(row),
    ]


def _beside_plain(row: Row) -> list[Cell]:
    plain = row.get("reference")
    if plain is None:
        return [Cell(NOTHING), Cell(NOTHING)]
    return [time(plain), Cell(f"{plain['median_ms'] / row['time']['median_ms']:.3g} ×")]


def _gib(row: Row) -> Cell:
    return Cell(NOTHING if row["peak_gib"] is None else fixed(2)(row["peak_gib"]))


def _error(row: Row) -> Cell:
    return Cell(f"{row['error']:.1e}" if "error" in row else NOTHING)


def status(row: Row) -> str:
    """Says why a row has no time; a wrong result also says how wrong it is."""
    details = [row["reason"]] if "reason" in row else [f"error {row['error']:.2g}"] if "error" in row else []
    return row["status"] + "".join(f" ({detail})" for detail in details)


def _failed(name: str, row: Row, width: int) -> list[Cell]:
    return [Cell(name), Cell(status(row)), *[Cell(NOTHING)] * (width - 2)]
