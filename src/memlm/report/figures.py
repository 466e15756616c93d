"""The figures of a report, as SVG that goes straight into the page.

Text stays text, so the browser sets it in its own fonts (Chinese names included), and ink is ``currentColor``, so the
figures follow the page into dark mode. A variant has one colour everywhere.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from memlm.experiment.judge import Judgement
from memlm.experiment.reading import Experiment, Run
from memlm.report.tables import name

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; further variants repeat it with other dashes."""
DASHES = ("-", "--", ":")
_INK = "#010203"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "memlm",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def colour(variants: Sequence[str], variant: str) -> str:
    """Returns the colour of a variant: its place in the experiment decides."""
    return COLOURS[variants.index(variant) % len(COLOURS)]


def dash(variants: Sequence[str], variant: str) -> str:
    """Returns the line style of a variant, which tells those apart that share a colour."""
    return DASHES[variants.index(variant) // len(COLOURS) % len(DASHES)]


def swatch(variants: Sequence[str], variant: str) -> str:
    """Returns the CSS background that shows a variant's colour, striped where its line is dashed."""
    paint = colour(variants, variant)
    if dash(variants, variant) == DASHES[0]:
        return paint
    return f"repeating-linear-gradient(90deg, {paint} 0 3px, transparent 3px 5px)"


def curves(experiment: Experiment) -> str | None:
    """Draws validation and train loss over tokens, one line a variant; None if there is no line.

    A line is the mean over finished seeds, the band around it reaches from the lowest seed to the highest.
    """
    variants = experiment.plan.variants
    keys = {"evaluate/validation_loss": "Validation loss", "train/loss": "Train loss"}
    lines = {key: {v: _series(experiment.finished(v), key) for v in variants} for key in keys}
    if not any(series for by_variant in lines.values() for series in by_variant.values()):
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.7), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(1, 2), keys.items(), strict=True):
            axes.set(title=f"{title}, nats per token", xlabel="Tokens")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            for variant, series in lines[key].items():
                _band(axes, series, colour(variants, variant), dash(variants, variant))
            if key.startswith("evaluate/"):
                _entropy(axes, experiment)
        return _svg(figure, "Validation and train loss over tokens, one line a variant")


def usage(experiment: Experiment) -> str | None:
    """Draws the share of slots read, by layer and over training, one row a variant; None if no memory was measured."""
    variants = [v for v in experiment.plan.variants if any(run.layers for run in experiment.finished(v))]
    if not variants:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.6 * len(variants)), layout="constrained")
        rows = figure.subplots(len(variants), 2, squeeze=False, sharey=True, width_ratios=(2, 3))
        ends: list[Ends] = []
        for variant, (by_layer, over_time) in zip(variants, rows, strict=True):
            runs, paint = experiment.finished(variant), colour(experiment.plan.variants, variant)
            layers = list(dict.fromkeys(layer for run in runs for layer in run.layers))
            by_layer.set_title(variant, parse_math=False)
            _bars(by_layer, runs, layers, paint)
            ends.append(_over_time(over_time, runs, layers, paint))
        rows[0][0].set_ylim(0, min(1.04, rows[0][0].get_ylim()[1]))  # a dot at 100 % is whole
        rows[0][0].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
        for (_, over_time), where in zip(rows, ends, strict=True):
            _label(over_time, where)  # once the scale that all rows share is known
        rows[-1][0].set_xlabel("Layer")
        rows[-1][1].set_xlabel("Tokens")
        return _svg(figure, "Share of slots read, by layer and over training")


def claims(judgements: Sequence[Judgement]) -> str | None:
    """Draws the difference of every claim with its intervals and what the claim asks for, one axis a metric."""
    by_metric: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        if judgement.difference is not None:
            by_metric.setdefault(judgement.hypothesis.metric, []).append(judgement)
    if not by_metric:
        return None
    heights = [len(group) + 1.2 for group in by_metric.values()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.42 * sum(heights)), layout="constrained")
        rows = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (metric, group) in zip(rows, by_metric.items(), strict=True):
            axes.set_xlabel(f"Difference in {name(metric, False)}", parse_math=False)
            axes.set_yticks(range(len(group)), [judgement.hypothesis.name for judgement in group], parse_math=False)
            axes.set_ylim(len(group) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
            axes.axvline(0, color=_INK, linewidth=0.9, alpha=0.5)
            for place, judgement in enumerate(group):
                _claim(axes, place, judgement)
        return _svg(figure, "Difference of every claim, with its intervals")


Series = tuple[np.ndarray, np.ndarray]
"""A grid of tokens, and on it one row of values a seed."""
Ends = dict[str, tuple[float, float]]
"""Where the line of each layer ends."""


def _claim(axes: Axes, place: int, judgement: Judgement) -> None:
    found, documents = judgement.difference, judgement.documents
    if found is None:
        return
    axes.plot([judgement.bound] * 2, [place - 0.3, place + 0.3], color=COLOURS[1], linewidth=1.5, solid_capstyle="butt")
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [place] * 2, color=COLOURS[0], linewidth=4, alpha=0.45)
    if documents is not None and documents.low is not None and documents.high is not None:
        axes.plot([documents.low, documents.high], [place + 0.2] * 2, color=COLOURS[0], linewidth=1.2)
    axes.plot(found.mean, place, "o", color=COLOURS[0], markersize=5)


def _series(runs: Sequence[Run], key: str) -> Series | None:
    """Returns what the runs logged where all of them did; None if none logged it, or they share no tokens."""
    seeds = [np.array(points).T for points in (run.series(key) for run in runs) if points]
    if not seeds:
        return None
    first, last = max(tokens[0] for tokens, _ in seeds), min(tokens[-1] for tokens, _ in seeds)
    grid = np.unique(np.concatenate([tokens for tokens, _ in seeds]))
    grid = grid[(grid >= first) & (grid <= last)]
    if not len(grid):
        return None
    return grid, np.array([np.interp(grid, tokens, values) for tokens, values in seeds])


def _band(axes: Axes, series: Series | None, paint: str, style: str) -> None:
    if series is None:
        return
    grid, values = series
    marker = "o" if len(grid) < 30 else None
    axes.plot(grid, values.mean(0), color=paint, linestyle=style, marker=marker, markersize=3.5)
    if len(values) > 1:
        axes.fill_between(grid, values.min(0), values.max(0), color=paint, alpha=0.18, linewidth=0)


def _entropy(axes: Axes, experiment: Experiment) -> None:
    """Marks the text's unigram entropy where the curves reach it; a line far off would flatten them."""
    entropies = {run.record.data.unigram_entropy for run in experiment.finished() if run.record.data}
    low, high = axes.get_ylim()
    for entropy in entropies:
        if low <= entropy <= high:
            axes.axhline(entropy, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7)
            place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
            axes.annotate("unigram entropy", (1, entropy), xytext=(0, 3), fontsize=9, alpha=0.8, **place)


def _bars(axes: Axes, runs: Sequence[Run], layers: Sequence[str], paint: str) -> None:
    values = [[run.result(f"usage.{layer}.share_read") for run in runs] for layer in layers]
    known = [[value for value in row if value is not None] for row in values]
    axes.bar(layers, [float(np.mean(row)) if row else 0 for row in known], color=paint, alpha=0.55, width=0.6)
    for place, row in enumerate(known):
        axes.plot([place] * len(row), row, "o", color=paint, markersize=3.5)
    axes.grid(visible=False, axis="x")


def _over_time(axes: Axes, runs: Sequence[Run], layers: Sequence[str], paint: str) -> Ends:
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    ends: Ends = {}
    for place, layer in enumerate(layers):
        series = _series(runs, f"memory/{layer}/share_read")
        if series is None:
            continue
        grid, values = series
        mean = values.mean(0)
        axes.plot(grid, mean, color=paint, alpha=1 - 0.7 * place / max(1, len(layers) - 1))
        ends[layer] = (grid[-1], mean[-1])
    return ends


def _label(axes: Axes, ends: Ends) -> None:
    """Writes each line's layer at its end; lines that end close together share one label."""
    apart = 0.06 * axes.get_ylim()[1]
    groups: list[list[str]] = []
    for layer in sorted(ends, key=lambda layer: ends[layer][1]):
        if groups and ends[layer][1] - ends[groups[-1][0]][1] < apart:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    style = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    for group in groups:
        place = np.mean([ends[layer] for layer in group], axis=0)
        axes.annotate(", ".join(sorted(group, key=lambda layer: (len(layer), layer))), tuple(place), **style)


def svg(figure: Figure) -> str:
    """Returns a figure as the text of an SVG file, the same for the same figure."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser has glyphs that matplotlib's measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()


def _svg(figure: Figure, label: str) -> str:
    """Renders a figure, without what only a file of its own would need."""
    text = svg(figure)
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
