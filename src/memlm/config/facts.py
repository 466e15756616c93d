"""The `data.facts` section: a generated world of facts, whose every answer and every bit is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from memlm.config.base import Config, Count

N_ATTRIBUTES = 12
"""Attributes that there are words for."""
N_TEMPLATES = {"prose": 48, "tuples": 2}
"""Training templates that each wording has for an attribute."""
N_WORDS = 75**3
"""Made-up words of three syllables, of which names and values are drawn."""

MAX_TURNS = 2 * 10**9
"""Most that `entities * exposures` may be: squares of it must fit into 64 bits, and nobody waits for more."""


class FactsConfig(Config):
    """A world of facts (`corpus: facts`): entities, each with a value of every attribute, drawn by `seed` alone."""

    wording: Literal["prose", "tuples"] = "prose"
    """English sentences, or bare tuples of some five words, in which a token carries most."""
    entities: Count = Field(default=500, ge=3, le=10_000_000)
    """Entities that the text speaks of."""
    attributes: int = Field(default=4, ge=2, le=N_ATTRIBUTES)
    """Attributes of an entity."""
    values: Count = Field(default=64, ge=2, le=100_000)
    """Values that an attribute may have, all alike likely: a fact holds log2 of this many bits."""
    exposures: Count = Field(default=100, ge=1)
    """How often the text states each fact; the mean over entities if `zipf` is not 0."""
    zipf: float = Field(default=0.0, ge=0, le=2)
    """An entity of rank r is spoken of in proportion to r to the power of minus this, at least once; 0: all alike."""
    templates: int | None = Field(default=None, ge=1)
    """Templates that training text states an attribute in; all that the wording has if not given."""
    facts_per_document: int | None = Field(default=None, ge=1)
    """Facts of one entity that stand together; all that are told at once if not given."""
    hops: int = Field(default=2, ge=1, le=3)
    """Longest chain of a question; above 1 every entity also has another one as its mentor."""
    unknown_share: float = Field(default=0.1, ge=0, le=1)
    """Entities that no text speaks of, as a share of `entities`: their questions can only be guessed."""
    untold_share: float = Field(default=0.05, ge=0, le=0.5)
    """Share of the facts of known entities that no text tells."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides the whole world and the order of its text."""

    @property
    def n_facts(self) -> int:
        """Facts of one entity, told or not: its attributes, and its mentor if there are hops."""
        return self.attributes + (self.hops > 1)

    @property
    def n_unknown(self) -> int:
        """Entities that no text speaks of."""
        return round(self.unknown_share * self.entities)

    @property
    def n_names(self) -> int:
        """First names, and as many last names; four times as many pairs as entities, so that neither half tells one."""
        return 2 * int((self.entities + self.n_unknown) ** 0.5 + 1)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        if self.templates is not None and self.templates > N_TEMPLATES[self.wording]:
            yield "templates", f"the wording {self.wording} has {N_TEMPLATES[self.wording]}"
        if self.facts_per_document is not None and self.facts_per_document > self.n_facts:
            yield "facts_per_document", f"an entity has {self.n_facts} facts"
        if self.entities * self.exposures > MAX_TURNS:
            yield "exposures", f"entities * exposures may be at most {MAX_TURNS:,}"
