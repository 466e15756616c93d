"""Whether two runs have the same settings, whichever versions of memlm wrote them down.

What was recorded is read as this version reads a YAML. Every value is recorded, so a setting whose default was changed
since has the value of then; one that was added since has its default, which does what was done before there was the
setting (`tests/unit/config/test_defaults.py` holds them).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memlm.config.base import Config
from memlm.config.data import DataConfig
from memlm.config.evaluate import EvaluateConfig
from memlm.config.train import TrainConfig
from memlm.errors import RunError
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.difference import flatten
from memlm.experiment.files import Tree, read_yaml
from memlm.experiment.paths import inside
from memlm.model.config import ModelConfig

SECTIONS: dict[str, type[Config]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
}
"""What a run's settings consist of, besides the names of its experiment and variant, and its seed."""
COMMON = ("data", "train", "evaluate")
"""The sections that an experiment's runs share; to read them takes no torch."""


def as_now(recorded: Tree, sections: Collection[str] = COMMON) -> Tree:
    """Returns recorded settings as this version records them; what it cannot read stays as it is.

    Args:
        recorded: The settings.
        sections: Those of `SECTIONS` that are read; to read ``model`` takes torch if there is a memory.
    """
    return recorded | {name: _read(name, recorded[name])[0] for name in sections if name in recorded}


def differing(recorded: Tree, settings: Tree) -> list[str]:
    """Says where recorded settings are not ``settings``, which this version made; nothing: they are the same.

    Returns:
        Dotted paths; of a section that this version cannot read, the first reason why.
    """
    found: list[str] = []
    for name in dict.fromkeys([*recorded, *settings]):
        then, reason = _read(name, recorded.get(name))
        if reason:
            found.append(reason)
        elif then != settings.get(name):
            ours, theirs = (dict(flatten(tree, name)) for tree in (settings.get(name), then))
            found += [path for path in ours | theirs if ours.get(path) != theirs.get(path)]
    return found


def begun_with(run: Path, settings: Tree) -> Tree:
    """Returns a run's settings as its folder has recorded them, if these are the same.

    So what goes on from an earlier version's checkpoints keeps the settings, and with them the hash, that these know.

    Args:
        run: The run's folder.
        settings: Those that the run is to have; returned where others are recorded, or none that can be read.
    """
    try:
        recorded = read_yaml(inside(run, "config.yaml"))
    except RunError:
        return settings
    return settings if differing(recorded, settings) else recorded


def recorded_experiment(recorded: Tree) -> ExperimentConfig | None:
    """Returns an experiment that was recorded, without its hypotheses; None if this version cannot read it."""
    try:
        return ExperimentConfig.model_validate(recorded | {"hypotheses": []})
    except ValidationError:
        return None


def _read(name: str, section: Any) -> tuple[Any, str | None]:
    """Returns a part of recorded settings as this version records it; or as it is, and why it cannot be read."""
    if name not in SECTIONS:
        return section, None
    try:
        return SECTIONS[name].model_validate(section).model_dump(mode="json"), None
    except ValidationError as error:
        first = error.errors()[0]
        return section, f"{'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}"
