"""The questions that a generated world is asked, kind by kind, and the edits that it offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from memlm.config.data import DataConfig
from memlm.config.evaluate import EvaluateConfig
from memlm.data.questions import SEEN, Question, QuestionSet, read_questions
from memlm.data.wording import MENTOR
from memlm.data.world import World

_ASKING = 4  # what a seed is used for


@dataclass(frozen=True)
class Edit:
    """A counterfactual: a fact that is to be changed, and what is to be seen of it.

    Attributes:
        question: The fact as a training template puts it; its answer is the old one.
        new_answer: Another value of the same attribute.
        paraphrase: The same fact in a held-out template; the new answer is to follow here too.
        neighbours: The same attribute of other entities, whose answers are to stay.
    """

    question: Question
    new_answer: str
    paraphrase: Question
    neighbours: list[Question]


def question_set(data: DataConfig, evaluate: EvaluateConfig) -> QuestionSet:
    """Returns what an experiment asks its models: of the world in its corpus, and from its file.

    Raises:
        DataError: the file cannot be used.
    """
    questions: list[Question] = []
    n_facts = 0
    if data.has_facts and evaluate.questions:
        world = World(data.facts)
        questions, n_facts = list(ask(world, evaluate.questions)), world.n_told
    if evaluate.question_file is not None:
        questions += read_questions(Path(evaluate.question_file).expanduser(), evaluate.questions)
    return QuestionSet(questions, n_facts)


def ask(world: World, limit: int) -> Iterator[Question]:
    """Yields up to ``limit`` questions of every kind, all of them answered by the world.

    - seen: a told fact, in a template that training text has for it.
    - paraphrase: the same facts, each in a template that no training text uses for its attribute.
    - reversed: from value to entity, where only one entity has the value. No training text speaks in this direction.
    - two_hop, three_hop: an attribute of the mentor (of the mentor); all of its facts are told.
    - unknown_entity: whom no text speaks of. Who knows the answer has seen what must not be seen.
    - unknown_attribute: of a known entity, a fact that no text tells.
    """
    for kind, asked in _kinds(world).items():
        draw = np.random.default_rng([world.config.seed, _ASKING])  # for each, so that seen and paraphrase are paired
        yield from (replace(question, kind=kind) for question in asked(limit, draw))


def edits(world: World, limit: int, n_neighbours: int = 5) -> Iterator[Edit]:
    """Yields up to ``limit`` counterfactual edits of told facts, after CounterFact (Meng et al., arXiv:2202.05262)."""
    draw = np.random.default_rng([world.config.seed, _ASKING, 1])
    for entity, column in _sample(world.told, limit, draw):
        others = np.flatnonzero(world.told[:, column])
        others = draw.permutation(others[others != entity])[:n_neighbours]
        yield Edit(
            replace(_seen(world, entity, column), kind=SEEN),
            f" {world.spell(_another_value(world, entity, column, draw), column)}",
            replace(_paraphrase(world, entity, column, draw), kind="paraphrase"),
            [replace(_seen(world, int(other), column), kind="neighbour") for other in others],
        )


def new_facts(world: World, limit: int) -> Iterator[Edit]:
    """Yields up to ``limit`` facts of entities that no text names, to be learned; they have no neighbours."""
    draw = np.random.default_rng([world.config.seed, _ASKING, 2])
    unknown = np.ones((world.config.n_unknown, world.told.shape[1]), dtype=bool)
    for number, column in _sample(unknown, limit, draw):
        question = _seen(world, world.config.entities + number, column)
        paraphrase = _paraphrase(world, world.config.entities + number, column, draw)
        yield Edit(replace(question, kind=SEEN), question.answer, replace(paraphrase, kind="paraphrase"), [])


def _kinds(world: World) -> dict[str, Callable[[int, np.random.Generator], Iterator[Question]]]:
    """Returns what asks up to so many questions of a kind, by the kind's name."""
    known, n_known = world.told, world.config.entities
    unknown = np.ones((world.config.n_unknown, known.shape[1]), dtype=bool)
    kinds: dict[str, Callable[[int, np.random.Generator], Iterator[Question]]] = {
        SEEN: lambda limit, draw: (_seen(world, *fact) for fact in _sample(known, limit, draw)),
        "paraphrase": lambda limit, draw: (_paraphrase(world, *fact, draw) for fact in _sample(known, limit, draw)),
        "reversed": lambda limit, draw: (_reversed(world, *fact) for fact in _sample(_single(world), limit, draw)),
        "unknown_entity": lambda limit, draw: (
            _seen(world, n_known + entity, column) for entity, column in _sample(unknown, limit, draw)
        ),
        "unknown_attribute": lambda limit, draw: (_seen(world, *fact) for fact in _sample(~known, limit, draw)),
    }
    for hops, kind in enumerate(("two_hop", "three_hop")[: world.config.hops - 1], 2):
        kinds[kind] = lambda limit, draw, hops=hops: _chained(world, hops, limit, draw)
    return kinds


def _sample(mask: np.ndarray, limit: int, draw: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yields (entity, column) of up to ``limit`` facts in ``mask`` [entities, columns], in random order."""
    for place in draw.permutation(np.flatnonzero(mask))[:limit]:
        entity, column = divmod(int(place), mask.shape[1])
        yield entity, column


def _seen(world: World, entity: int, column: int) -> Question:
    """Returns the question in the template of the fact's first statement, if it is told."""
    if entity < world.config.entities:
        template = world.train_template(entity, column, 0)
    else:
        choices = world.templates[column].train
        template = choices[entity % len(choices)]
    return _question(world, template, entity, column)


def _paraphrase(world: World, entity: int, column: int, draw: np.random.Generator) -> Question:
    choices = world.templates[column].held_out
    return _question(world, choices[int(draw.integers(len(choices)))], entity, column)


def _question(world: World, template: str, entity: int, column: int) -> Question:
    name = world.name(entity)
    prompt = world.prompt(template, name, column)
    noun = world.attributes[column].noun
    return Question(prompt, f" {world.value(entity, column)}", "", name, noun, world.n_values(column))


def _single(world: World) -> np.ndarray:
    """Returns which told facts have a value that no other known entity has, [entities, columns]."""
    values = world.values[: world.config.entities]
    counts = [np.bincount(column)[column] for column in values.T]
    return world.told & (np.stack(counts, axis=1) == 1)


def _reversed(world: World, entity: int, column: int) -> Question:
    value, noun = world.value(entity, column), world.attributes[column].noun
    prompt = world.wording.reverse.format(value=value, noun=noun)
    return Question(prompt, f" {world.name(entity)}", "", value, noun, world.config.entities)


def _chained(world: World, hops: int, limit: int, draw: np.random.Generator) -> Iterator[Question]:
    """Yields questions about an attribute of somebody's mentor, or of the mentor's mentor."""
    last = np.arange(world.config.entities)
    is_told = np.ones(len(last), dtype=bool)
    for _ in range(hops - 1):
        is_told &= world.told[last, -1]
        last = world.values[last, -1]
    for entity, column in _sample(is_told[:, None] & world.told[last, :-1], limit, draw):
        subject = name = world.name(entity)
        for _ in range(hops - 1):
            subject = world.wording.phrase.format(noun=MENTOR.noun, subject=subject)
        prompt = world.prompt(world.wording.frames[0], subject, column)
        relation = " ".join([MENTOR.noun] * (hops - 1) + [world.attributes[column].noun])
        answer = world.value(int(last[entity]), column)
        yield Question(prompt, f" {answer}", "", name, relation, world.n_values(column))


def _another_value(world: World, entity: int, column: int, draw: np.random.Generator) -> int:
    """Draws a value that the fact does not have, of all that it could have."""
    is_relation = world.attributes[column] is MENTOR
    forbidden = {int(world.values[entity, column])} | ({entity} if is_relation else set())
    while True:
        value = int(draw.integers(world.config.entities if is_relation else world.config.values))
        if value not in forbidden:
            return value
