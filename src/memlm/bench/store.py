"""The record of timings: one JSON file for each device and commit, written anew after every row. Free of torch.

Rows stand in groups, one for each part and shape, e.g. ``layers/S``. A group comes from one process on one device, so
its rows may be compared; measured again, it is replaced as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memlm.errors import RunError
from memlm.storage import write_json

FORMAT = 1


@dataclass(frozen=True)
class Group:
    """The rows of one part at one shape.

    Attributes:
        part: What was measured, one of `shapes.PARTS`.
        shape: Name of the shape.
        started: When, ISO 8601.
        sizes: The shape in one line.
        ceilings: Rates of the device in the same run, per second: ``bytes_per_s`` and ``flops_per_s``.
        rows: What was measured, by name.
    """

    part: str
    shape: str
    started: str
    sizes: str
    ceilings: Mapping[str, float]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


@dataclass(frozen=True)
class Results:
    """Everything that was measured on one device at one commit.

    Attributes:
        device: Its name and kind.
        commit: The code's commit, with ``-dirty`` if it was changed, or ``unknown``.
        versions: Of memlm and the packages beneath.
        groups: By part and shape.
    """

    device: Mapping[str, str]
    commit: str
    versions: Mapping[str, str | None]
    groups: dict[str, Group] = field(default_factory=dict[str, Group])

    def path(self, folder: Path) -> Path:
        """Returns the file that they belong into."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.device["name"]).strip("-").lower()
        return folder / (name or "unknown") / f"{self.commit}.json"

    def of(self, part: str) -> list[Group]:
        """Returns the groups of a part, in the order in which they were measured."""
        return [group for group in self.groups.values() if group.part == part]

    @property
    def newest(self) -> str:
        """When the newest group was begun."""
        return max((group.started for group in self.groups.values()), default="")


def resumed(folder: Path, results: Results) -> Results:
    """Returns ``results`` with the groups of before in its file, if the versions were the same."""
    path = results.path(folder)
    before = read(path) if path.exists() else None
    if before is not None and before.versions == results.versions:
        results.groups.update(before.groups)
    return results


def write(folder: Path, results: Results) -> Path:
    """Writes the file, whole or not at all, and returns its path."""
    path = results.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    groups = {key: vars(group) for key, group in results.groups.items()}
    write_json(path, {"format": FORMAT, **vars(results), "groups": groups})
    return path


def read(path: Path) -> Results:
    """Returns what a file holds.

    Raises:
        RunError: it holds no timings of this format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        groups = {key: Group(**group) for key, group in content.pop("groups").items()}
        return Results(**content, groups=groups)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}: no timings that this version can read ({error}); delete it and measure again"
        ) from None


def newest(folder: Path) -> list[Results]:
    """Returns for each device and commit the groups that were not measured again later; GPUs first, then by age.

    Raises:
        RunError: there are no timings in ``folder``.
    """
    last: dict[tuple[str, str], tuple[Results, Group]] = {}
    for results in map(read, sorted(folder.glob("*/*.json"))):
        for name, group in results.groups.items():
            key = (results.device["name"], name)
            if key not in last or group.started > last[key][1].started:
                last[key] = results, group
    if not last:
        raise RunError(f"{folder}: no timings here; measure some with: memlm bench")
    joined: dict[Path, Results] = {}
    for (_, name), (results, group) in last.items():
        joined.setdefault(results.path(folder), replace(results, groups={})).groups[name] = group
    return sorted(joined.values(), key=lambda each: (each.device["kind"] == "cpu", each.device["name"], each.newest))
