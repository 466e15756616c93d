"""The figures of docs/performance.md, as SVG files, from records alone. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from memlm.bench.store import Group, Results
from memlm.bench.tables import Row
from memlm.report.figures import COLOURS, STYLE, svg

MARKERS = "osD^vPX*<>dp1+hx"


def growth(results: Results) -> str | None:
    """Draws a layer's step over slots and over reads, and the dense layer's; None if it was not measured."""
    groups = results.of("growth")
    if not groups:
        return None
    rows = groups[0].rows
    sound = [row for row in rows.values() if row["status"] == "ok"]
    grown = [row for row in sound if "slots" in row]
    if not grown:
        return None
    dense = next((row["time"]["median_ms"] for row in sound if "slots" not in row), None)
    # Each series holds fixed what most rows have in common.
    reads, slots = (Counter(row[key] for row in grown).most_common(1)[0][0] for key in ("reads", "slots"))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _series(left, [row for row in grown if row["reads"] == reads], "slots", dense)
        _series(right, [row for row in grown if row["slots"] == slots], "reads", dense)
        left.set(title=f"{reads} reads a token", xlabel="Slots", ylabel="Forward, backward and update, ms")
        right.set(title=f"{slots:,} slots", xlabel="Reads a token")
        left.set_yscale("log")
        return svg(figure)


def roofline(results: Results) -> str | None:
    """Draws each stage at its operations a byte and a second, beneath the device's limits; None if none ran."""
    groups = [group for group in results.of("stages") if any(row["status"] == "ok" for row in group.rows.values())]
    if not groups:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots()
        names = list(dict.fromkeys(name for group in groups for name in group.rows))
        for group, colour in zip(groups, COLOURS, strict=False):
            _points(axes, group, names, colour)
        _roof(axes, groups[-1])
        axes.set(xscale="log", yscale="log", xlabel="Operations a byte", ylabel="Operations a second")
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        for place, name in enumerate(names):
            axes.plot([], [], MARKERS[place % len(MARKERS)], color="#555555", label=name)
        for group, colour in zip(groups, COLOURS, strict=False):
            axes.plot([], [], "s", color=colour, label=group.shape)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
        return svg(figure)


def _series(axes: Axes, rows: Sequence[Row], key: str, dense: float | None) -> None:
    rows = sorted(rows, key=lambda row: row[key])
    places = [row[key] for row in rows]
    middle, low, high = ([row["time"][f"{name}_ms"] for row in rows] for name in ("median", "min", "max"))
    axes.plot(places, middle, "o-", color=COLOURS[0], markersize=4)
    axes.fill_between(places, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
    axes.set_xscale("log", base=2)
    if dense is not None:
        axes.axhline(dense, color=COLOURS[1], linestyle="--")
        axes.annotate("dense FFN", (places[0], dense), xytext=(0, 3), textcoords="offset points", fontsize=9)


def _points(axes: Axes, group: Group, names: Sequence[str], colour: str) -> None:
    for name, row in group.rows.items():
        if row["status"] == "ok":
            marker = MARKERS[names.index(name) % len(MARKERS)]
            rate = row["flops"] / (1e-3 * row["time"]["median_ms"])
            axes.plot(row["flops"] / row["bytes"], rate, marker, color=colour, markersize=7, alpha=0.85)


def _roof(axes: Axes, group: Group) -> None:
    """Draws what copying at full rate would give, up to the rate of matrix products."""
    copied, multiplied = group.ceilings["bytes_per_s"], group.ceilings["flops_per_s"]
    low, high = axes.get_xlim()
    intensity = np.geomspace(max(low, 0.03), max(high, 2 * multiplied / copied), 200)
    axes.plot(intensity, np.minimum(intensity * copied, multiplied), color="#555555", linewidth=1.2)
