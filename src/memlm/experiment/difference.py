"""What differs between two runs, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from memlm.experiment.reading import Run, read_run

ABSENT = "—"
"""Stands where one of the two runs has no such value."""


@dataclass(frozen=True)
class Row:
    """One difference: the section it is in, its dotted path there, and the value of either run."""

    section: str
    path: str
    a: object
    b: object


def difference(run_a: Path, run_b: Path) -> list[Row]:
    """Lists what differs between two run folders: configuration, code, device, data, cost and results.

    Raises:
        RunError: one of them has no readable record or configuration.
    """
    sections_a, sections_b = _sections(read_run(run_a)), _sections(read_run(run_b))
    return [row for section in sections_a for row in _compared(section, sections_a[section], sections_b[section])]


def flatten(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yields (dotted path, value) of every leaf of nested mappings; a list is a leaf, and so is an empty mapping."""
    if not isinstance(tree, dict) or not tree:
        yield path, tree
        return
    for key, value in cast(dict[str, Any], tree).items():
        yield from flatten(value, f"{path}.{key}" if path else str(key))


def _sections(run: Run) -> dict[str, object]:
    record = run.record
    return {
        "config": run.config,
        "code": {"commit": record.commit, "dirty": record.dirty, "versions": record.versions},
        "device": asdict(record.device),
        "data": asdict(record.data) if record.data else {},
        "cost": asdict(record.cost) if record.cost else {},
        "results": {"status": record.status, "steps": record.steps, "tokens": record.tokens, **record.results},
    }


def _compared(section: str, a: object, b: object) -> Iterator[Row]:
    left, right = (dict(flatten(tree)) if tree else {} for tree in (a, b))
    for path in [*left, *(path for path in right if path not in left)]:
        values = left.get(path, ABSENT), right.get(path, ABSENT)
        if values[0] != values[1]:
            yield Row(section, path, *values)
