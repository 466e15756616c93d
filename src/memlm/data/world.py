"""A generated world: who has which value of what, and which of it is told. A pure function of its settings.

After the biographies of Allen-Zhu and Li (bioS; arXiv:2309.14316, 2404.05405), with values drawn uniformly and
independently, so that the bits of a fact are exactly log2 of the number of values. Names and values are made of
syllables. All words are equally long, so none begins another one, and the likelihood of a word needs no end mark.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np

from memlm.config.facts import N_WORDS, FactsConfig
from memlm.data.wording import MENTOR, WORDINGS, Attribute, Templates, attributes, templates

VERSION = 1
"""Part of every fingerprint; raised when the same settings begin to give another world or other text."""
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprtv" for vowel in "aeiou"]


class World:
    """Entities and their facts. The first `FactsConfig.entities` are spoken of, the rest are unknown to every text.

    Args:
        config: The settings.

    Attributes:
        values: The value of each fact, [entities + unknown, columns]: a value's number, or in the mentor's column
            (the last, if there are hops) an entity.
        told: Which facts the text tells, [entities, columns].
        exposures: How often each of an entity's told facts is stated, [entities].
    """

    def __init__(self, config: FactsConfig) -> None:
        self.config = config
        self.wording = WORDINGS[config.wording]
        self.attributes: tuple[Attribute, ...] = attributes(config)
        n_known, n_all = config.entities, config.entities + config.n_unknown
        draw = np.random.default_rng([config.seed, 0])
        self._words = draw.choice(N_WORDS, 2 * config.n_names + config.values, replace=False)
        self._names = draw.choice(config.n_names**2, n_all, replace=False)
        self.values = draw.integers(config.values, size=(n_all, config.n_facts))
        if config.hops > 1:  # anyone but oneself; an unknown entity's mentor is known
            step = 1 + draw.integers(n_known - 1, size=n_all)
            self.values[:, -1] = (np.arange(n_all) + step) % n_known
        self.told = draw.random((n_known, config.n_facts)) >= config.untold_share
        self._first_template = draw.integers(1 << 15, size=self.told.shape, dtype=np.int16)
        self.exposures = _exposures(config)

    @property
    def n_told(self) -> int:
        """Facts that the text tells."""
        return int(self.told.sum())

    @cached_property
    def templates(self) -> list[Templates]:
        """The templates of each column."""
        return [templates(self.config, column) for column in range(self.config.n_facts)]

    def fingerprint(self) -> str:
        """Returns the hash of the settings and of all that was drawn."""
        digest = hashlib.sha256(f"facts {VERSION} {self.config.model_dump_json()}".encode())
        for drawn in (self._words, self._names, self.values, self.told, self._first_template, self.exposures):
            digest.update(np.ascontiguousarray(drawn).tobytes())
        return f"facts {digest.hexdigest()}"

    def n_values(self, column: int) -> int:
        """Returns how many values a fact of ``column`` may have, all alike likely: it holds log2 of that many bits."""
        return self.config.entities - 1 if self.attributes[column] is MENTOR else self.config.values

    def name(self, entity: int) -> str:
        """Returns an entity's name, two words that no other entity has both of."""
        first, last = divmod(int(self._names[entity]), self.config.n_names)
        return f"{self._word(first)} {self._word(self.config.n_names + last)}"

    def value(self, entity: int, column: int) -> str:
        """Returns the value of a fact in words."""
        return self.spell(int(self.values[entity, column]), column)

    def spell(self, value: int, column: int) -> str:
        """Returns a value of ``column`` in words."""
        if self.attributes[column] is MENTOR:
            return self.name(value)
        return self._word(2 * self.config.n_names + value)

    def prompt(self, template: str, subject: str, column: int) -> str:
        """Returns a statement up to where the value follows."""
        return self.wording.sentence(template, subject, self.attributes[column].noun)

    def train_template(self, entity: int, column: int, occurrence: int) -> str:
        """Returns the template of a fact's statement by its number, from 0; each comes before one comes twice."""
        choices = self.templates[column].train
        return choices[(int(self._first_template[entity, column]) + occurrence) % len(choices)]

    def _word(self, index: int) -> str:
        code = int(self._words[index])
        first, rest = divmod(code, len(SYLLABLES) ** 2)
        second, third = divmod(rest, len(SYLLABLES))
        return (SYLLABLES[first] + SYLLABLES[second] + SYLLABLES[third]).capitalize()


def _exposures(config: FactsConfig) -> np.ndarray:
    shares = np.arange(1, config.entities + 1, dtype=float) ** -config.zipf
    return np.maximum(1, np.round(config.exposures * shares / shares.mean())).astype(np.int64)
