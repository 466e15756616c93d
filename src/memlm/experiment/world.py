"""The generated world that a run has learned. Nothing here loads a model, so that it is there at once."""

from __future__ import annotations

from memlm.config.data import DataConfig
from memlm.data.world import World
from memlm.errors import EditError
from memlm.experiment.files import checked
from memlm.experiment.reading import Run


def world_of(run: Run) -> World | None:
    """Returns the generated world of a run, None if it has learned other text alone.

    Raises:
        RunError: its settings of the data cannot be read.
    """
    data = checked(DataConfig, run.config.get("data"), run.folder / "config.yaml")
    return World(data.facts) if data.has_facts else None


def require_world(run: Run) -> World:
    """Returns the generated world of a run.

    Raises:
        EditError: it has learned other text.
        RunError: as `world_of`.
    """
    world = world_of(run)
    if world is None:
        raise EditError(f"{run.folder}: needs a run on a generated world (data.corpus: facts)")
    return world
