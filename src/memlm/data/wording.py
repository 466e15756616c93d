"""How the facts of a generated world are put into words: as English sentences, or as bare tuples.

A template is a *frame*, which names the attribute by its noun and serves every attribute, or a *clause* of the
attribute's own, after one of several openings. It ends where the value follows. Each attribute holds out some frames:
no training text uses them for it, but other attributes use them, and its noun stands in other frames. A held-out
template is thus a paraphrase whose parts are all known. The first frame is never held out; questions that chain
relations are built of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memlm.config.facts import FactsConfig


@dataclass(frozen=True)
class Attribute:
    """A kind of fact: its noun, and clauses of its own that say the same."""

    noun: str
    clauses: tuple[str, ...]


ATTRIBUTES = (
    Attribute("birthplace", ("{subject} was born in", "{subject} came into the world in")),
    Attribute("employer", ("{subject} works for", "{subject} earns a living at")),
    Attribute("instrument", ("{subject} plays the", "{subject} performs on the")),
    Attribute("school", ("{subject} studied at", "{subject} passed every exam at")),
    Attribute("dish", ("{subject} likes to eat", "{subject} always orders")),
    Attribute("language", ("{subject} grew up speaking", "{subject} dreams in")),
    Attribute("hometown", ("{subject} lives in", "{subject} keeps a house in")),
    Attribute("club", ("{subject} belongs to", "{subject} pays dues to")),
    Attribute("craft", ("{subject} is skilled in", "{subject} spends the mornings practising")),
    Attribute("ship", ("{subject} sails on the", "{subject} went to sea aboard the")),
    Attribute("patron", ("{subject} is supported by", "{subject} sends thanks to")),
    Attribute("game", ("{subject} spends evenings playing", "{subject} often wins at")),
)
MENTOR = Attribute("mentor", ("{subject} was taught by", "{subject} learned everything from"))
"""The relation between entities."""


@dataclass(frozen=True)
class Wording:
    """The words of one form of text.

    Attributes:
        openings: What a sentence may begin with.
        frames: Templates with ``{noun}`` and ``{subject}``.
        n_held_out: Frames that each attribute holds out.
        is_prose: Whether statements are sentences, with a capital first, and use an attribute's own clauses.
        phrase: Names a value by its noun and subject.
        reverse: Leads from ``{value}`` and ``{noun}`` to the subject.
        end: Ends a statement.
    """

    openings: tuple[str, ...]
    frames: tuple[str, ...]
    n_held_out: int
    is_prose: bool
    phrase: str
    reverse: str
    end: str

    def sentence(self, template: str, subject: str, noun: str) -> str:
        """Returns a template filled in up to where the value follows."""
        text = template.format(subject=subject, noun=noun)
        return text[:1].upper() + text[1:] if self.is_prose else text


PROSE = Wording(
    openings=(
        "",
        "as far as anyone knows, ",
        "it is well known that ",
        "the records say that ",
        "neighbours agree that ",
        "one often reads that ",
    ),
    frames=(
        "the {noun} of {subject} is",
        "{subject}'s {noun} is",
        "the {noun} that {subject} has is",
        "in the case of {subject}, the {noun} is",
        "{subject}, asked about the {noun}, answers",
        "the {noun} that belongs to {subject} is",
        "the {noun}, in the words of {subject}, is",
        "what {subject} has as {noun} is",
    ),
    n_held_out=2,
    is_prose=True,
    phrase="the {noun} of {subject}",
    reverse="{value} is the {noun} of",
    end=".",
)
TUPLES = Wording(
    openings=("",),
    frames=("{subject} {noun}", "{noun} {subject}", "of {subject} {noun}"),
    n_held_out=1,
    is_prose=False,
    phrase="{subject} {noun}",
    reverse="{noun} {value} of",
    end=";",
)
WORDINGS = {"prose": PROSE, "tuples": TUPLES}


@dataclass(frozen=True)
class Templates:
    """The templates of one attribute: those of training text, and those that it never uses."""

    train: list[str]
    held_out: list[str]


def templates(config: FactsConfig, column: int) -> Templates:
    """Returns the templates of the attribute in ``column``; the world's seed decides which, if not all are used."""
    wording, attribute = WORDINGS[config.wording], attributes(config)[column]
    others = len(wording.frames) - 1
    held = {1 + (wording.n_held_out * column + i) % others for i in range(wording.n_held_out)}
    kept = [frame for index, frame in enumerate(wording.frames) if index not in held]
    clauses = attribute.clauses if wording.is_prose else ()
    train = [opening + clause for opening in wording.openings for clause in (*kept, *clauses)]
    held_out = [opening + wording.frames[index] for opening in wording.openings for index in sorted(held)]
    order = np.random.default_rng([config.seed, 1, column]).permutation(len(train))
    return Templates([train[index] for index in order[: config.templates]], held_out)


def attributes(config: FactsConfig) -> tuple[Attribute, ...]:
    """Returns what each column of a world's facts is."""
    return ATTRIBUTES[: config.attributes] + ((MENTOR,) if config.hops > 1 else ())
