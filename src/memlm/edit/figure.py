"""The figure of a trial: what edits do, over their number, way by way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

PANELS = {
    "efficacy": "efficacy, %",
    "paraphrase": "paraphrase, %",
    "neighbourhood": "neighbourhood, %",
    "loss_change": "held-out loss, change in %",
}


def draw_trial(trial: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Returns the figure of what `memlm.edit.trial.run_trial` returned."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasSVG(figure)
    for axes, (field, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name, measures in trial.items():
            known = [(each["edits"], 100 * each[field]) for each in measures if each[field] is not None]
            if known:
                axes.plot(*zip(*known, strict=True), marker="o", markersize=3, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("sequential edits")
        axes.set_title(label, fontsize=9)
        if field != "loss_change":
            axes.set_ylim(-3, 103)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(trial), fontsize=8)
    return figure
