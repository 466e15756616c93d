"""Figures of what edits do to a model, from the measures that `memlm edit` keeps in a run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memlm.report.figures import COLOURS, DASHES, STYLE, svg

Parts = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of measures by the name of a way to edit, or of another part."""

PANELS = {
    "efficacy": "Efficacy, %",
    "paraphrase": "Paraphrase, %",
    "neighbourhood": "Neighbourhood, %",
    "loss_change": "Held-out loss, change in %",
}


def trial(parts: Parts) -> str:
    """Draws what sequential edits do, over their number, one line a way; returns the text of an SVG file."""
    with mpl.rc_context({**STYLE, "font.size": 8, "axes.titlesize": 9}):
        figure = Figure(figsize=(10, 3), layout="constrained")
        for axes, (field, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            axes.set(title=title, xlabel="Sequential edits", xscale="log")
            _lines(axes, parts, "edits", field)
            if field != "loss_change":
                axes.set_ylim(-3, 103)
        return _svg(figure)


def stream(parts: Parts) -> str:
    """Draws what is learned against what is forgotten, set by set, one line a way; returns the text of an SVG file."""
    with mpl.rc_context({**STYLE, "font.size": 8, "axes.titlesize": 9}):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        both, learned, forgotten = figure.subplots(1, 3)
        both.set(title="Learned against forgotten", xlabel="Old facts forgotten, %", ylabel="New facts learned, %")
        _lines(both, parts, "forgotten", "learned", percent=("forgotten", "learned"))
        learned.set(title="New facts learned, %", xlabel="Sets of new facts")
        _lines(learned, parts, "set", "learned")
        forgotten.set(title="Old facts forgotten, %", xlabel="Sets of new facts")
        _lines(forgotten, parts, "set", "forgotten")
        for axes in (both, learned, forgotten):
            axes.set_ylim(-3, 103)
        both.set_xlim(-3, 103)
        return _svg(figure)


def abstention(parts: Parts) -> str:
    """Draws how often a model is wrong on the questions it is surest of, one line a score; the text of an SVG file."""
    rows = parts.get("risk", [])
    scores = [name for name in (rows[0] if rows else {}) if name != "coverage"]
    curves = {name: [{"coverage": row["coverage"], "wrong": row[name]} for row in rows] for name in scores}
    with mpl.rc_context({**STYLE, "font.size": 8, "axes.titlesize": 9}):
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set(title="Wrong answers, %", xlabel="Questions answered, the surest first, %", xlim=(0, 103))
        _lines(axes, curves, "coverage", "wrong", percent=("coverage", "wrong"))
        axes.set_ylim(bottom=-1)
        return _svg(figure)


FIGURES: dict[str, Callable[[Parts], str]] = {
    "edit-trial": trial,
    "edit-stream": stream,
    "edit-abstention": abstention,
}
"""What draws the measures in a folder of a run, by the folder's name."""


def _lines(axes: Axes, parts: Parts, x: str, y: str, percent: Sequence[str] | None = None) -> None:
    """Draws one field of the parts over another, as shares of 100 where they are named; ``y`` alone, if none are."""
    shares = (y,) if percent is None else percent
    for number, (name, rows) in enumerate(parts.items()):
        points = [
            [row[field] * (100 if field in shares else 1) for field in (x, y)]
            for row in rows
            if row[x] is not None and row[y] is not None
        ]
        if points:
            paint, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, color=paint, linestyle=dash)


def _svg(figure: Figure) -> str:
    """Returns a figure with its legend as the text of an SVG file, the same for the same measures."""
    known = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if known:
        figure.legend([*known.values()], [*known], loc="outside lower center", ncols=3, frameon=False)
    return svg(figure)
