"""Who opened a test split before: the first look at it is worth more than the tenth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from memlm.errors import MemlmError, counted
from memlm.experiment.reading import Experiment, Run, read_plan, read_run
from memlm.experiment.schema import Evaluated, run_name
from memlm.experiment.settings import SECTIONS, as_now


def opened_before(experiment: Experiment) -> Iterator[str]:
    """Tells of earlier experiments that were evaluated on the same test text and were not the same as this one.

    An experiment is the same if each has the settings of all runs of the other, whatever its name and seeds. Looked at
    are the records of the experiments beside this one, in the folder that it lies in. It is a reminder and no guard:
    records that were removed, or are kept elsewhere, are not found.
    """
    opened = {run.name: test for run in experiment.runs if (test := _test(run))}
    if not opened:
        return
    texts = {test.fingerprint for test in opened.values()}
    first = min(test.time for test in opened.values())
    others: dict[str, list[Run]] = {}
    for run in _others(experiment):
        others.setdefault(run.folder.parent.name, []).append(run)
    earlier: dict[str, int] = {}
    for name, runs in others.items():
        looks = [t for run in runs if (t := _test(run)) and t.fingerprint in texts and t.time < first]
        if looks and not _are_same(experiment.runs, runs):
            earlier[name] = len(looks)
    if earlier:
        where = ", ".join(f"{name} ({counted(n, 'run')})" for name, n in earlier.items())
        yield (
            f"This test split was opened {counted(sum(earlier.values()), 'time')} before, with other settings or "
            f"variants: {where}. What was chosen by those results is not tested by these."
        )


def added_after_test(folder: Path, planned: Sequence[str]) -> list[str]:
    """Returns the names of runs that joined an experiment when one of its runs had opened the test split.

    What is marked stays marked. Who takes away the earlier plan gains nothing: then every run counts as added that has
    not opened the split itself.

    Args:
        folder: The experiment's; its ``experiment.json`` is that of the last call, so this comes before it is replaced.
        planned: The names of the runs that are planned now.
    """
    opened = {run.name for run in _readable(folder.glob("*/record.json")) if _test(run)}
    if not opened:
        return []
    try:
        before = read_plan(folder)
    except MemlmError:
        return [name for name in planned if name not in opened]
    known = {*opened, *before.added_after_test, *(run_name(variant, seed) for variant, seed in before.runs)}
    return [*before.added_after_test, *(name for name in planned if name not in known)]


def tell_added(experiment: Experiment) -> Iterator[str]:
    """Tells of the runs that were added when the results on the test split could be known."""
    added = [run.name for run in experiment.runs if run.name in experiment.plan.added_after_test]
    if added:
        yield (
            f"Added after the test split had been opened (added_after_test): {', '.join(added)}. What its results "
            "suggested is not tested by it."
        )


def _test(run: Run) -> Evaluated | None:
    evaluated = run.record.evaluated
    return evaluated if evaluated and evaluated.split == "test" else None


def _are_same(ours: Sequence[Run], theirs: Sequence[Run]) -> bool:
    here, there = [_settings(run) for run in ours], [_settings(run) for run in theirs]
    return all(each in here for each in there) and all(each in there for each in here)


def _settings(run: Run) -> dict[str, Any]:
    """Returns the settings of a run but for the name of its experiment and its seed."""
    return {name: value for name, value in as_now(run.config, SECTIONS).items() if name not in ("experiment", "seed")}


def _others(experiment: Experiment) -> Iterator[Run]:
    here = experiment.folder.resolve()
    return _readable(path for path in here.parent.glob("*/*/record.json") if path.parent.parent != here)


def _readable(records: Iterable[Path]) -> Iterator[Run]:
    for record in sorted(records):
        try:
            yield read_run(record.parent)
        except MemlmError:
            continue  # whoever compares that experiment is told
