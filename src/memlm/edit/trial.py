"""What a number of sequential edits do to a model, way by way: after CounterFact (Meng et al., arXiv:2202.05262).

Facts of a generated world are changed, one after the other. Measured are, in shares of 1 where not said otherwise:

- efficacy: edits so far whose new answer greedy decoding gives, in the first of the wordings that were trained
- paraphrase: the same in a held-out wording
- neighbourhood: answers to the same attribute of others that stay right, of those that were right before; whoever is
  edited too is left out
- held-out loss: nats per token, on statements of facts that no edit is about, in held-out wordings
- fluency: entropy of the bigrams and trigrams that the model writes after the edits' prompts, in bits
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer

from memlm.data.asking import Edit, edits
from memlm.data.facts import held_out_documents
from memlm.data.questions import Question
from memlm.data.tokenizer import END
from memlm.data.world import World
from memlm.edit.background import Progress
from memlm.edit.finetune import Tuning
from memlm.edit.methods import METHODS, Lesson, Method, require_packages
from memlm.edit.request import Request, world_wordings
from memlm.edit.results import Row, Trial
from memlm.errors import EditError
from memlm.evaluate.loss import mean_loss
from memlm.evaluate.recall import answer, encode
from memlm.model.decoder import Decoder

STOPS = (1, 10, 100, 1000)
"""Numbers of edits after which is measured."""
BATCH = 256
WRITTEN = 24
"""Tokens that are written after a prompt to judge fluency."""
PROMPTS = 50
"""Most prompts that are continued to judge fluency."""


@dataclass(frozen=True)
class Measures:
    """What a number of edits did; None where nothing can be measured."""

    edits: int
    efficacy: float
    paraphrase: float
    neighbourhood: float | None
    loss: float | None
    loss_change: float | None
    """Of `loss`, as a share of what it was before any edit."""
    fluency: float | None
    seconds: float
    """For an edit."""


@dataclass(frozen=True)
class Subject:
    """What is tried: a model, the facts that are changed, and the text that must stay.

    Attributes:
        decoder: The model, in eval mode.
        tokenizer: Its tokenizer.
        seq_len: Tokens that it sees at a time.
        world: The generated world that it has learned.
        facts: The facts that are changed, in order.
        background: Sequences of training tokens.
    """

    decoder: Decoder
    tokenizer: Tokenizer
    seq_len: int
    world: World
    facts: Sequence[Edit]
    background: Sequence[Sequence[int]]

    @classmethod
    def of(
        cls, decoder: Decoder, tokenizer: Tokenizer, seq_len: int, world: World, n: int, background: Sequence[list[int]]
    ) -> Subject:
        """Returns the trial of the first ``n`` edits that a world offers.

        Raises:
            EditError: it has too few facts for edits and others that are to stay.
        """
        if n >= world.n_told:
            raise EditError(f"a trial of {n} edits needs more facts than the {world.n_told} of this world")
        return cls(decoder, tokenizer, seq_len, world, list(edits(world, n)), background)

    def lesson(self, *facts: Edit) -> Lesson:
        """Returns facts as they are taught, all at once."""
        lessons = [self._lesson(fact) for fact in facts]
        return Lesson(
            [text for each in lessons for text in each.texts], [s for each in lessons for s in each.statements]
        )

    def _lesson(self, fact: Edit) -> Lesson:
        request = Request(fact.question.subject, fact.question.relation, fact.new_answer.strip())
        prompts = [fact.question.prompt, *world_wordings(self.world)(request)]
        texts = encode(
            [Question(p, fact.new_answer, "edit") for p in dict.fromkeys(prompts)], self.tokenizer, self.seq_len
        )
        return Lesson(texts, [f"{prompts[0]}{fact.new_answer}{self.world.wording.end}"])

    def exact(self, method: Method, questions: Sequence[Question]) -> np.ndarray:
        """Returns which questions a method answers right, [N]."""
        asked = encode([method.asked(question) for question in questions], self.tokenizer, self.seq_len)
        return answer(method.decoder, asked, BATCH).exact

    def held_out(self) -> np.ndarray:
        """Returns statements of facts that no edit is about, as sequences [N, T + 1]."""
        ids: list[int] = []
        end = self.tokenizer.token_to_id(END)
        for text in held_out_statements(self.world, self.facts):
            ids += [*self.tokenizer.encode(text, add_special_tokens=False).ids, end]
        width = self.seq_len + 1
        if len(ids) < width:
            raise EditError("too few facts are left that no edit is about; try fewer edits, or a larger world")
        return np.array(ids[: len(ids) // width * width]).reshape(-1, width)


def held_out_statements(world: World, facts: Sequence[Edit]) -> Iterator[str]:
    """Yields the sentences of a world's held-out text that are not about ``facts``."""
    changed = {(fact.question.subject, fact.question.relation) for fact in facts}
    nouns = [attribute.noun for attribute in world.attributes]
    for document in held_out_documents(world, "validation"):
        name = document.where.removeprefix("facts:")
        sentences = document.text.split(world.wording.end)
        told = [s.strip() + world.wording.end for s in sentences if s.strip()]
        yield from (s for s in told if not any((name, noun) in changed and noun in s for noun in nouns))


def try_method(kind: type[Method], subject: Subject, tuning: Tuning, progress: Progress) -> Iterator[Measures]:
    """Makes all edits in one way, and yields what is measured on the way.

    Args:
        kind: The way.
        subject: What is edited.
        tuning: How whatever is trained is trained.
        progress: Is told the name of the way, and how many edits of how many are made; before them, of the text that
            it reads.
    """
    method = kind(subject.decoder, subject.background, tuning, partial(tell_of, progress, kind.name))
    neighbours = {(n.subject, n.relation): n for fact in subject.facts for n in fact.neighbours}
    was_right = answer(subject.decoder, encode(list(neighbours.values()), subject.tokenizer, subject.seq_len), BATCH)
    known = {key for key, right in zip(neighbours, was_right.exact, strict=True) if right}
    spent = 0.0
    for number, fact in enumerate(subject.facts, 1):
        lesson, start = subject.lesson(fact), time.perf_counter()
        method.learn(lesson)
        spent += time.perf_counter() - start
        progress(method.name, number, len(subject.facts))
        if number in STOPS or number == len(subject.facts):
            yield _measure(method, subject, subject.facts[:number], known, spent / number)


def tell_of(progress: Progress, way: str, stage: str, done: int, total: int) -> None:
    """Tells of a stage of a way."""
    progress(f"{way}: {stage}", done, total)


def run_trial(
    subject: Subject,
    tuning: Tuning,
    progress: Progress,
    methods: Sequence[type[Method]] = METHODS,
    keep: Callable[[str, list[Row]], None] = lambda *_: None,
) -> Trial:
    """Tries ways to edit, and returns the measures of each by its name.

    Args:
        subject: As of `try_method`, and so the next two.
        tuning: Likewise.
        progress: Likewise.
        methods: The ways.
        keep: Is told the name of the way and all its measures so far, after each time that is measured.
    """
    require_packages(methods)
    found: Trial = {}
    for kind in methods:
        found[kind.name] = []
        for measures in try_method(kind, subject, tuning, progress):
            found[kind.name].append(asdict(measures))
            keep(kind.name, found[kind.name])
    return found


def _measure(
    method: Method, subject: Subject, facts: Sequence[Edit], known: set[tuple[str, str]], seconds: float
) -> Measures:
    changed = {(fact.question.subject, fact.question.relation) for fact in facts}
    near = {(n.subject, n.relation): n for fact in facts for n in fact.neighbours}
    near = [question for key, question in near.items() if key in known - changed]
    loss = change = fluency = None
    if method.is_trained:
        held_out = subject.held_out()
        loss, before = (mean_loss(decoder, held_out, BATCH) for decoder in (method.decoder, subject.decoder))
        change = loss / before - 1
        fluency = _fluency(method.decoder, subject, facts)
    return Measures(
        edits=len(facts),
        efficacy=float(subject.exact(method, [replace(f.question, answer=f.new_answer) for f in facts]).mean()),
        paraphrase=float(subject.exact(method, [replace(f.paraphrase, answer=f.new_answer) for f in facts]).mean()),
        neighbourhood=float(subject.exact(method, near).mean()) if near else None,
        loss=loss,
        loss_change=change,
        fluency=fluency,
        seconds=seconds,
    )


@torch.inference_mode()
def _fluency(decoder: Decoder, subject: Subject, facts: Sequence[Edit]) -> float:
    """Returns the entropy of what a model writes, in bits, the mean of that of its bigrams and of its trigrams."""
    prompts = [
        row.ids[: -row.n_answer] for row in encode([f.question for f in facts[:PROMPTS]], subject.tokenizer, 10**6)
    ]
    width = min(map(len, prompts))
    ids = torch.tensor([prompt[-width:] for prompt in prompts], device=decoder.embedding.weight.device)
    draw = torch.Generator(ids.device).manual_seed(0)
    for _ in range(min(WRITTEN, subject.seq_len - width)):
        chances = decoder.logits(decoder(ids).hidden[:, -1]).float().softmax(-1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=draw)], dim=1)
    written = ids[:, width:].tolist()
    return float(np.mean([_entropy(Counter(g for row in written for g in _grams(row, n))) for n in (2, 3)]))


def _grams(row: list[int], n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(row[start:] for start in range(n)), strict=False)


def _entropy(counts: Counter[tuple[int, ...]]) -> float:
    shares = np.array(list(counts.values())) / max(1, counts.total())
    return float(-(shares * np.log2(shares)).sum())
