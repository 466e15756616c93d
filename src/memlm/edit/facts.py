"""The facts of a generated world, as a person writes them, and what a person may have misspelt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

import numpy as np

from memlm.data.world import World
from memlm.errors import EditError
from memlm.registry import unknown

ALIKE = 0.8
"""How alike a name must be to one of the world that it may be meant, by `difflib`; one word in common is too little."""


def told_facts(world: World, words: str = "") -> Iterator[str]:
    """Yields the facts that a world's text tells, ``subject | relation | answer``.

    Args:
        world: The world.
        words: Only facts with all of these, in any case of letters.
    """
    wanted = words.casefold().split()
    for entity, columns in enumerate(world.told):
        for column in np.flatnonzero(columns).tolist():
            fact = f"{world.name(entity)} | {world.attributes[column].noun} | {world.value(entity, column)}"
            if all(word in fact.casefold() for word in wanted):
                yield fact


def require_relation(world: World, relation: str, where: str) -> None:
    """Refuses a relation that a world does not have.

    Args:
        world: The world.
        relation: What is asked for.
        where: Where it was written.

    Raises:
        EditError: it has none of that name.
    """
    known = [attribute.noun for attribute in world.attributes]
    if relation not in known:
        raise EditError(f"{where}: {unknown('relation', relation, known)} A new one needs prompts, in a line of --from")


def strangers(world: World, subjects: Iterable[str]) -> dict[str, str | None]:
    """Returns the subjects that no text of a world names, each with the name that may be meant, if there is one."""
    names = [world.name(entity) for entity in range(world.config.entities)]
    return {
        subject: next(iter(get_close_matches(subject, names, 1, ALIKE)), None) for subject in set(subjects) - {*names}
    }
