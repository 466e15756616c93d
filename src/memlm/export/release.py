"""Rebuilds recorded runs and writes their models into one folder, with a manifest and the hash of every file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from memlm import __version__
from memlm.errors import RunError
from memlm.experiment.attempt import Watcher
from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment, read_finished
from memlm.experiment.record import code_state
from memlm.experiment.rerun import Comparison, Rerun, plan_rerun
from memlm.export.folder import export_run, refuse_taken
from memlm.report.claims import sentence
from memlm.storage import replaced_folder, sha256, write_json, write_text

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"


class Rebuilt(NamedTuple):
    """A recorded run that was made again: as it was planned, and how the numbers of the two agree."""

    plan: Rerun
    rows: list[Comparison]

    @property
    def agrees(self) -> bool:
        """Whether every number is as close as was expected."""
        return all(row.agrees for row in self.rows)


def plan_release(runs: Sequence[Path], folder: Path, root: Path | None = None, progress: bool = True) -> list[Rerun]:
    """Reads what is to be released, and says what is to be expected of making it again; nothing is trained.

    Args:
        runs: Folders of finished runs of one experiment.
        folder: Takes the release; it must not exist, or be empty.
        root: Takes the reruns; ``.rerun`` beside the runs if not given. One that is finished there is not made again.
        progress: Show bars while the data are prepared.

    Raises:
        RunError: the runs are of several experiments, one is named twice, the folder holds something, or as of
            `plan_rerun`.
    """
    refuse_taken(folder)
    found = [run.resolve() for run in runs]
    for run in found:
        if run.parent != found[0].parent:
            raise RunError(f"{run} and {found[0]} are of different experiments; a release is of one")
        if found.count(run) > 1:
            raise RunError(f"{run} is named twice")
    return [plan_rerun(run, root, progress, keeps_finished=True) for run in runs]


def rebuild(plan: Rerun, watcher: Watcher, progress: bool, command: str) -> Rebuilt:
    """Makes a run again, and compares."""
    return Rebuilt(plan, plan.execute(watcher, progress, command))


def write_release(rebuilt: Sequence[Rebuilt], folder: Path) -> None:
    """Writes the models that were made again into a new folder, whole or not at all.

    It holds a model folder for each (`memlm.export.folder`), ``manifest.json`` (where each comes from, how near it came
    to its record, the experiment's verdicts) and ``SHA256SUMS``, which ``sha256sum -c SHA256SUMS`` checks.
    """
    experiment = rebuilt[0].plan.recorded.folder.parent
    with replaced_folder(folder) as staged:
        for each in rebuilt:
            export_run(each.plan.folder, staged / each.plan.recorded.name, experiment)
        write_json(staged / MANIFEST, _manifest(rebuilt, experiment))
        files = sorted(path for path in staged.rglob("*") if path.is_file())
        write_text(staged / SUMS, "".join(f"{sha256(path)}  {path.relative_to(staged)}\n" for path in files))


def _manifest(rebuilt: Sequence[Rebuilt], experiment: Path) -> dict[str, Any]:
    code = code_state()
    return {
        "format": 1,
        "memlm": __version__,
        "commit": code.commit,
        "dirty": bool(code.difference),
        "experiment": rebuilt[0].plan.recorded.record.experiment,
        "verdicts": _verdicts(experiment),
        "models": {each.plan.recorded.name: _model(each) for each in rebuilt},
    }


def _verdicts(experiment: Path) -> list[dict[str, str]]:
    if not (experiment / "experiment.json").exists():
        return []
    return [
        {"claim": j.hypothesis.claim, "name": j.hypothesis.name, "verdict": j.outcome, "told": sentence(j)}
        for j in compare(read_experiment(experiment)).judgements
    ]


def _model(rebuilt: Rebuilt) -> dict[str, Any]:
    record, made = rebuilt.plan.recorded.record, read_finished(rebuilt.plan.folder).record
    assert record.data is not None, "a finished run has recorded its data"
    return {
        "config_hash": record.config_hash,
        "text": record.data.fingerprint,
        "tokenizer": record.data.tokenizer_fingerprint,
        "recorded": {"commit": record.commit, "device": str(record.device), "finished": record.finished},
        "rebuilt": {"commit": made.commit, "device": str(made.device), "finished": made.finished},
        "expected": "bit for bit" if rebuilt.plan.is_exact else "within the tolerance of memlm rerun",
        "because": rebuilt.plan.obstacles,
        "agrees": rebuilt.agrees,
        "numbers": [asdict(row) for row in rebuilt.rows],
    }
