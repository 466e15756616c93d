"""The text of a generated world: documents of one entity each, every told fact as often as it is to be exposed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from memlm.config.facts import FactsConfig
from memlm.data.source import Document, Reading, Split
from memlm.data.world import World

HELD_OUT = 2000
"""Entities whose facts are said once more, in held-out templates, for validation and for the judge each."""
_TRAIN, _HELD_OUT = 2, 3  # what a seed is used for


class FactsSource:
    """The documents of a world. They come in rounds, and no more than the plan of one round is held at a time."""

    size = 0  # known only when it is written

    def __init__(self, config: FactsConfig) -> None:
        self.world = World(config)

    def fingerprint(self) -> str:
        """Returns the hash of the settings and of the world that they give."""
        return self.world.fingerprint()

    def documents(self, reading: Reading) -> Iterator[Document]:
        """Yields the training text, then the held-out texts; each document says which split it is of."""
        for document in self._all():
            reading.n_bytes += len(document.text.encode())
            yield document

    def _all(self) -> Iterator[Document]:
        yield from train_documents(self.world)
        for split in ("validation", "judge"):
            yield from held_out_documents(self.world, split)


def train_documents(world: World) -> Iterator[Document]:
    """Yields documents that state every told fact of an entity `World.exposures` times.

    Each time its facts are dealt out to as many documents as it takes, in turn to others. Documents come in rounds; a
    document's times are spread evenly over them, as a line over a raster, and each round is shuffled, so the same fact
    rarely stands twice in one sequence, where it could be copied.
    """
    exposures, n_rounds = world.exposures[:, None], int(world.exposures.max())
    draw = np.random.default_rng([world.config.seed, _TRAIN])
    phase = draw.integers(n_rounds, size=(len(exposures), _n_parts(world)))
    for number in range(n_rounds):
        occurrence = (exposures * number + phase) // n_rounds
        is_due = (exposures * (number + 1) + phase) // n_rounds > occurrence
        for place in draw.permutation(np.flatnonzero(is_due)):
            entity, part = divmod(int(place), phase.shape[1])
            times = int(occurrence[entity, part])
            columns = _columns(world, entity, part, times, draw)
            chosen = [world.train_template(entity, column, times) for column in columns]
            if columns:
                yield _document(world, entity, columns, chosen, "train")


def held_out_documents(world: World, split: Split) -> Iterator[Document]:
    """Yields documents that state told facts of some entities in templates that no training text uses for them."""
    draw = np.random.default_rng([world.config.seed, _HELD_OUT, *split.encode()])
    some, n_parts = draw.permutation(world.config.entities)[:HELD_OUT], _n_parts(world)
    for place in draw.permutation(len(some) * n_parts):
        row, part = divmod(int(place), n_parts)
        entity = int(some[row])
        columns = _columns(world, entity, part, 0, draw)
        choices = [world.templates[column].held_out for column in columns]
        chosen = [those[int(draw.integers(len(those)))] for those in choices]
        if columns:
            yield _document(world, entity, columns, chosen, split)


def _n_parts(world: World) -> int:
    """Returns the number of documents that all facts of an entity take."""
    return -(-world.config.n_facts // (world.config.facts_per_document or world.config.n_facts))


def _columns(world: World, entity: int, part: int, times: int, draw: np.random.Generator) -> list[int]:
    """Returns which told facts stand in a document, shuffled; facts move on from part to part with the times told."""
    n_facts = world.config.n_facts
    width = world.config.facts_per_document or n_facts
    places = range(part * width, min(n_facts, (part + 1) * width))
    columns = [(place + entity + times) % n_facts for place in places]
    return [column for column in draw.permutation(columns).tolist() if world.told[entity, column]]


def _document(world: World, entity: int, columns: list[int], chosen: list[str], split: Split) -> Document:
    name, end = world.name(entity), world.wording.end
    said = [
        f"{world.prompt(template, name, column)} {world.value(entity, column)}{end}"
        for column, template in zip(columns, chosen, strict=True)
    ]
    return Document(" ".join(said), f"facts:{name}", split)
