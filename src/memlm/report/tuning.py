"""The table and the picture of a tune, from its trials alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memlm.experiment.trials import Trial, Tune
from memlm.report.figures import STYLE, colour, dash, svg
from memlm.report.markdown import table as as_markdown
from memlm.report.tables import NOTHING, Cell, Table, compact, fixed
from memlm.storage import write_text

PICTURE = "tuning.svg"


def write_tuning(tune: Tune) -> list[Path]:
    """Writes ``tuning.md`` and the picture into the tune's folder; returns where they are."""
    plan = tune.plan
    trials = f"{plan.trials} trials of {plan.steps:,} steps ({compact(plan.tokens)} tokens) for every variant"
    parts = [
        f"# Learning rates of {plan.name}",
        f"{trials}, seed {plan.seed}. Loss on the tune split, nats per token. The best of few short trials is no "
        "result: a longer run mostly wants a lower rate, and the split has been looked at.",
        as_markdown(best(tune)),
        *warnings(tune),
        f"![Loss over learning rate, one colour a variant]({PICTURE})",
    ]
    page, drawn = tune.folder / "tuning.md", tune.folder / PICTURE
    write_text(page, "\n\n".join(parts) + "\n")
    write_text(drawn, picture(tune))
    return [page, drawn]


def best(tune: Tune) -> Table:
    """The best rates of each variant, and what they win over the config's own."""
    rows: list[list[Cell]] = []
    for variant in tune.plan.variants:
        trials, found = tune.of(variant), tune.best(variant)
        own = next((trial for trial in trials if trial.number == 0), None)
        rates = [_rate(found, name) for name in ("lr", "value_lr")]
        losses = [_loss(found), _loss(own)]
        diverged = sum(trial.loss is None for trial in trials)
        rows.append([Cell(variant), *map(Cell, [*rates, *losses, str(len(trials)), str(diverged)])])
    return Table(["Variant", "lr", "value_lr", "Loss", "Loss, config's rates", "Trials", "Diverged"], rows)


def warnings(tune: Tune) -> list[str]:
    """Says which best rates lie at the edge of their range, and which variants have none."""
    told: list[str] = []
    for variant in tune.plan.variants:
        found = tune.best(variant)
        if found is None and tune.of(variant):
            told.append(f"Every trial of {variant} diverged: lower tune.lr.")
        told += [
            f"The best {name} of {variant} lies at the edge of tune.{name}: widen it." for name in _edges(tune, found)
        ]
    return told


def picture(tune: Tune) -> str:
    """Draws loss over each rate, a point a trial, the best one filled; crosses at the top are trials that diverged."""
    names = list(dict.fromkeys(name for trial in tune.trials for name in trial.rates))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5 * max(1, len(names)), 3.7), layout="constrained")
        for axes, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False)[0], names, strict=False):
            axes.set(xscale="log", title="Loss on the tune split, nats per token")
            axes.set_xlabel(name, parse_math=False)
            for variant in tune.plan.variants:
                _points(axes, tune, variant, name)
            axes.legend(frameon=False)
        return svg(figure)


def _points(axes: Axes, tune: Tune, variant: str, name: str) -> None:
    variants, trials = (
        tune.plan.variants,
        sorted((trial for trial in tune.of(variant) if name in trial.rates), key=lambda trial: trial.rates[name]),
    )
    if not trials:
        return
    paint, finite = colour(variants, variant), [trial for trial in trials if trial.loss is not None]
    rates, losses = [trial.rates[name] for trial in finite], [trial.loss or 0 for trial in finite]
    is_line = all(len(trial.rates) == 1 for trial in trials)  # of two rates, one alone decides nothing
    style = dash(variants, variant) if is_line else "none"
    shown: dict[str, Any] = {"color": paint, "linestyle": style, "fillstyle": "none", "label": variant}
    axes.plot(rates, losses, marker="o", markersize=5, **shown)
    found = tune.best(variant)
    if found is not None and found.loss is not None and name in found.rates:
        axes.plot([found.rates[name]], [found.loss], "o", color=paint, markersize=7)
    lost = [trial.rates[name] for trial in trials if trial.loss is None]
    axes.plot(lost, [0.98] * len(lost), "x", color=paint, transform=axes.get_xaxis_transform())


def _edges(tune: Tune, trial: Trial | None) -> Sequence[str]:
    return [] if trial is None else tune.at_edge(trial)


def _rate(trial: Trial | None, name: str) -> str:
    rate = None if trial is None else trial.rates.get(name)
    return NOTHING if rate is None else f"{rate:.3g}"


def _loss(trial: Trial | None) -> str:
    return NOTHING if trial is None or trial.loss is None else fixed(4)(trial.loss)
