"""Who opened a test split before: the first look at it is worth more than the tenth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from memlm.errors import MemlmError
from memlm.experiment.reading import Evaluated, Experiment, Run, read_run


def opened_before(experiment: Experiment) -> Iterator[str]:
    """Tells of earlier runs that were evaluated on the same test text with other settings.

    Looked at are the records of the other experiments beside this one, in the folder that it lies in. It is a reminder
    and no guard: records that were removed, or are kept elsewhere, are not found.
    """
    opened = {run.name: test for run in experiment.runs if (test := _test(run))}
    if not opened:
        return
    texts = {test.fingerprint for test in opened.values()}
    first = min(test.time for test in opened.values())
    known = [_settings(run) for run in experiment.runs]
    earlier: dict[str, int] = {}
    for run in _others(experiment):
        test = _test(run)
        if test and test.fingerprint in texts and test.time < first and _settings(run) not in known:
            earlier[run.folder.parent.name] = earlier.get(run.folder.parent.name, 0) + 1
    if earlier:
        times = sum(earlier.values())
        where = ", ".join(f"{name} ({n} {'run' if n == 1 else 'runs'})" for name, n in earlier.items())
        yield (
            f"This test split was opened {times} {'time' if times == 1 else 'times'} before, with other settings: "
            f"{where}. What was chosen by those results is not tested by these."
        )


def _test(run: Run) -> Evaluated | None:
    evaluated = run.record.evaluated
    return evaluated if evaluated and evaluated.split == "test" else None


def _settings(run: Run) -> dict[str, Any]:
    """Returns the settings of a run but for the name of its experiment and its seed."""
    return {name: value for name, value in run.config.items() if name not in ("experiment", "seed")}


def _others(experiment: Experiment) -> Iterator[Run]:
    here = experiment.folder.resolve()
    for record in sorted(here.parent.glob("*/*/record.json")):
        if record.parent.parent == here:
            continue
        try:
            yield read_run(record.parent)
        except MemlmError:
            continue  # whoever compares that experiment is told
