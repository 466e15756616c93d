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


def step_price(group: Group, row: Row) -> float | None:
    """Returns the time of a training step as a multiple of the dense model's."""
    dense = group.rows.get("dense", {"status": "missing"})
    return dense["tokens_per_s"] / row["tokens_per_s"] if dense["status"] == "ok" else None


UNITS: dict[Quantity, str] = {milliseconds: "ms", times_dense: "× dense", step_price: "× dense"}


@dataclass(frozen=True)
class Target:
    """The most that a row should cost: its part, shape and name, the quantity and its limit."""

    part: str
    shape: str
    row: str
    quantity: Quantity
    limit: float


TARGETS = (
    Target("layers", "S", "gated_mlp, compiled", times_dense, 1.0),
    Target("layers", "S", "cross_attention, compiled", times_dense, 1.5),
    Target("layers", "S", "weighted_sum, compiled", times_dense, 1.0),
    Target("layers", "M8k", "weighted_sum, compiled", times_dense, 2.5),
    Target("steps", "S", "gated_mlp in every layer", step_price, 1.1),
    Target("steps", "S", "weighted_sum in layers 2, 5", step_price, 1.25),
    Target("stages", "S", "selection, forward", milliseconds, 0.035),
    Target("stages", "M8k", "selection, forward", milliseconds, 0.12),
    Target("stages", "M32k", "selection, forward", milliseconds, 0.40),
    Target("stages", "S", "lookup, forward, 16-bit values", milliseconds, 0.025),
    Target("stages", "M8k", "lookup, forward, 16-bit values", milliseconds, 0.735),
)
"""For an H100 80GB HBM3."""


def table(results: Results) -> Table:
    """Returns every target beside what was measured."""
    rows = [
        [Cell(f"{t.part} {t.shape}"), Cell(t.row), Cell(f"{t.limit:g} {UNITS[t.quantity]}"), *_met(t, results)]
        for t in TARGETS
    ]
    return Table(["Measured", "Row", "At most", "Found", "Met"], rows, labels=2, ends_in_text=True)


def _met(target: Target, results: Results) -> tuple[Cell, Cell]:
    group = results.groups.get(f"{target.part}/{target.shape}")
    row = group.rows.get(target.row) if group else None
    if group is None or row is None:
        return Cell(NOTHING), Cell("not measured")
    found = target.quantity(group, row) if row["status"] == "ok" else None
    if found is None:
        return Cell(NOTHING), Cell(row["status"] if row["status"] != "ok" else "no dense row")
    return Cell(f"{found:.3g} {UNITS[target.quantity]}"), Cell("yes" if found <= target.limit else "no")
