"""How alarms are told: a mark in the progress line, a line in the terminal, a sentence and a table in a report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeVar

from memlm.errors import counted
from memlm.experiment.reading import Experiment, Run, listed
from memlm.experiment.schema import Alarm
from memlm.report.tables import Cell, Format, Table, fixed, percent

T = TypeVar("T")
_LAYER = re.compile("layer ([0-9]{1,9})")
_FORMS: dict[str, Format] = {
    "usage_collapse": percent,
    "dead_slots": percent,
    "gate_shut": fixed(5),
    "loss_spike": fixed(1),
    "non_finite": fixed(0),
    "train_eval_gap": fixed(2),
}
"""How the value of each alarm is written, in the unit of its threshold."""


def marks(entries: Iterable[Mapping[str, Any]]) -> str:
    """Returns the alarms that hold in a few words, such as ``⚠ usage_collapse layers 1–3``; empty without one."""
    by_name: dict[str, list[str]] = {}
    for entry in entries:
        if entry["active"]:
            by_name.setdefault(entry["name"], []).append(entry["where"])
    by_place: dict[str, list[str]] = {}
    for name, where in by_name.items():
        by_place.setdefault(places(where), []).append(name)
    return "  ".join(f"⚠ {', '.join(names)} {place}" for place, names in by_place.items())


def lines(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yields one line for all alarms of a name that begin together, with the numbers of the first."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_name.setdefault(entry["name"], []).append(entry)
    for name, (first, *others) in by_name.items():
        also = f" (also {places(other['where'] for other in others)})" if others else ""
        yield f"⚠ step {first['last_step']:,}: {name}, {first['where']}: {first['message']}{also}"


def places(where: Iterable[str]) -> str:
    """Joins places, layers that follow each other as a range: ``layers 1–3, 5``."""
    numbers = {place: _LAYER.fullmatch(place) for place in where}
    layers = sorted(int(number[1]) for number in numbers.values() if number)
    # Layers that follow each other are equally far ahead of their rank.
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0])]
    spans = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    told = [f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(spans)}"] if layers else []
    return ", ".join([*told, *sorted(place for place, number in numbers.items() if not number)])


def sentence(experiment: Experiment) -> str:
    """Says which runs had which alarms, runs that did not finish included."""
    watched = [run for run in experiment.runs if run.record.alarms is not None]
    told = [f"{name} in {_runs(found)}" for name, found in _grouped(watched, lambda _, alarm: alarm.name).items()]
    if not watched:
        return "Alarms were not recorded."
    heard = f"Alarms: {'; '.join(told)}." if told else f"No alarms in {_counted(watched)}."
    unwatched = [run for run in experiment.runs if run.record.alarms is None]
    return f"{heard} Not recorded in {_counted(unwatched)}." if unwatched else heard


def table(experiment: Experiment) -> Table:
    """One row for each alarm of a variant; numbers and message are those of its first."""
    rows: list[list[Cell]] = []
    for found in _grouped(experiment.runs, lambda run, alarm: (alarm.name, run.record.variant)).values():
        run, first = min(found, key=lambda pair: pair[1].step)
        form = _FORMS.get(first.name, fixed(3))
        held = sum(alarm.active for _, alarm in found)
        seeds = dict.fromkeys(str(run.record.seed) for run, _ in found)
        rows.append(
            [
                Cell(first.name),
                Cell(run.record.variant, f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}"),
                Cell(places(alarm.where for _, alarm in found), f"{held} of {len(found)} to the end"),
                Cell(f"{first.step:,}"),
                Cell(form(first.value)),
                Cell(form(first.threshold)),
                Cell(f"{first.where}: {first.message}"),
            ]
        )
    columns = ["Alarm", "Variant", "Where", "First step", "Value", "Threshold", "Message of the first"]
    return Table(columns, rows, labels=3, ends_in_text=True)


def _grouped(runs: Sequence[Run], key: Callable[[Run, Alarm], T]) -> dict[T, list[tuple[Run, Alarm]]]:
    groups: dict[T, list[tuple[Run, Alarm]]] = {}
    for run in runs:
        for alarm in run.record.alarms or []:
            groups.setdefault(key(run, alarm), []).append((run, alarm))
    return groups


def _runs(found: Sequence[tuple[Run, Alarm]]) -> str:
    """Names the runs of an alarm, those with the same places together."""
    where: dict[str, list[str]] = {}
    for run, alarm in found:
        where.setdefault(run.name, []).append(alarm.where)
    names: dict[str, list[str]] = {}
    for name, of_run in where.items():
        names.setdefault(places(of_run), []).append(name)
    return ", ".join(f"{listed(group)} ({place})" for place, group in names.items())


def _counted(runs: Sequence[Run]) -> str:
    return counted(len(runs), "run")
