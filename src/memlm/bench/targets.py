"""What the timings should be, and what they are. Free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memlm.bench.store import Group, Results
from memlm.bench.tables import Row, multiple
from memlm.report.tables import NOTHING, Cell, Table

Quantity = Callable[[Group, Row], float | None]


def milliseconds(_group: Group, row: Row) -> float:
    """Returns the time of a stage."""
    return row["time"]["median_ms"]


def times_dense(group: Group, row: Row) -> float | None:
    """Returns forward and backward as a multiple of the dense layer's."""
    return multiple(group, row, "forward_backward")


def tokens(_group: Group, row: Row) -> float:
    """Returns the speed of training."""
    return row["tokens_per_s"]


def gib(_group: Group, row: Row) -> float:
    """Returns the peak of memory."""
    return row["peak_gib"]


def of_copy(group: Group, row: Row) -> float:
    """Returns the rate of a stage as a share of a copy's."""
    return row["bytes"] / (1e-3 * row["time"]["median_ms"]) / group.ceilings["bytes_per_s"]


UNITS: dict[Quantity, str] = {
    milliseconds: "ms", times_dense: "× dense", tokens: "tokens/s", gib: "GiB", of_copy: "of copy rate",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What a row should cost: its part, shape and name, the quantity and its limit, the most unless ``is_least``."""

    part: str
    shape: str
    row: str
    quantity: Quantity
    limit: float
    is_least: bool = False


DEVICE = "H100 80GB HBM3"
"""What the targets are for."""
TARGETS = (
    Target("stages", "S", "selection, forward", milliseconds, 0.035),
    Target("stages", "M8k", "selection, forward", milliseconds, 0.12),
    Target("stages", "M32k", "selection, forward", milliseconds, 0.40),
    Target("stages", "M8k", "lookup, forward, 16-bit values", of_copy, 0.97, is_least=True),
    Target("stages", "L8k", "lookup, forward, 16-bit values", of_copy, 0.97, is_least=True),
    Target("stages", "M8k", "lookup, backward, 16-bit, compact", milliseconds, 1.0),
    Target("stages", "L8k", "lookup, backward, 16-bit, compact", milliseconds, 1.6),
    Target("stages", "L8k", "AdamW, rows read", milliseconds, 9.0),
    Target("layers", "S", "gated_mlp, compiled", times_dense, 1.2),
    Target("layers", "S", "cross_attention, compiled", times_dense, 1.5),
    Target("layers", "M8k", "weighted_sum, compiled", times_dense, 2.8),
    Target("layers", "M8k", "weighted_sum, 16-bit values, compiled", times_dense, 2.8),
    Target("layers", "M32k", "weighted_sum, compiled", times_dense, 2.3),
    Target("layers", "M32k", "weighted_sum, 16-bit values, compiled", times_dense, 2.3),
    Target("steps", "S", "dense", tokens, 1.6e6, is_least=True),
    Target("steps", "S", "gated_mlp in every layer", tokens, 1.4e6, is_least=True),
    Target("steps", "S", "gated_mlp in every layer", gib, 8.0),
)


def table(results: Results) -> Table:
    """Returns the targets beside what was found."""
    rows = [[Cell(f"{t.part} {t.shape}"), Cell(t.row), Cell(_limit(t)), *_met(t, results)] for t in TARGETS]
    return Table(["Measured", "Row", "Target", "Found", "Met"], rows, labels=2, ends_in_text=True)


def _met(target: Target, results: Results) -> tuple[Cell, Cell]:
    group = results.groups.get(f"{target.part}/{target.shape}")
    row = group.rows.get(target.row) if group else None
    if group is None or row is None:
        return Cell(NOTHING), Cell("not measured")
    found = target.quantity(group, row) if row["status"] == "ok" else None
    if found is None:
        return Cell(NOTHING), Cell(row["status"] if row["status"] != "ok" else "no dense row")
    is_met = found >= target.limit if target.is_least else found <= target.limit
    return Cell(_shown(found, target)), Cell("yes" if is_met else "no")


def _limit(target: Target) -> str:
    return f"{'≥' if target.is_least else '≤'} {_shown(target.limit, target)}"


def _shown(value: float, target: Target) -> str:
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{number} {UNITS[target.quantity]}"
