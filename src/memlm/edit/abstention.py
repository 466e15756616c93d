"""Does a model know what it does not know? From the text of a question alone, told facts against those nobody told.

Asked in held-out words: told facts, facts of unknown entities, and untold facts of known ones; then the same with the
subject's first name left out (an alias) and with two of its letters swapped (a misspelling). Scores, high for "known":

- router: the mean over layers and heads of the weight of the best slot, at the last token of the question
- answer: the probability of the first token that greedy decoding gives
- index: 1 if the text names subject and relation of a told fact, letter by letter; else 0
- both: index + router, so the index decides and the router orders within
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from tokenizers import Tokenizer

from memlm.data.asking import ask
from memlm.data.questions import Question
from memlm.data.world import World
from memlm.edit.results import Row, Trial
from memlm.evaluate.recall import answer, encode
from memlm.model.decoder import Decoder

MOST = 500
"""Questions of a kind at most."""
KNOWN = "paraphrase"
UNKNOWN = ("unknown_entity", "unknown_attribute")
BATCH = 256
COVERAGES = tuple(round(0.05 * n, 2) for n in range(1, 21))
"""Shares of the questions that are answered, the surest first."""


class Scored(NamedTuple):
    """Questions with what each score says, [N] by name, and which were answered right, [N]."""

    questions: list[Question]
    scores: dict[str, np.ndarray]
    is_right: np.ndarray


def measure(decoder: Decoder, tokenizer: Tokenizer, seq_len: int, world: World) -> Trial:
    """Returns how well the scores tell known from unknown.

    Returns:
        ``auroc``: the AUROC of each score, a row for each spelling of the names and kind of unknown (``what``);
        ``risk``: the share of wrong answers among the surest, by each score, a row for each ``coverage``, as told.
    """
    asked = [question for question in ask(world, MOST) if question.kind in (KNOWN, *UNKNOWN)]
    spelt = {"as told": asked, "alias": [alias(q) for q in asked], "misspelt": [misspelt(q) for q in asked]}
    scored = {spelling: score(decoder, tokenizer, seq_len, world, questions) for spelling, questions in spelt.items()}
    kinds = np.array([question.kind for question in asked])
    found: list[Row] = []
    for spelling, unknown in product(scored, UNKNOWN):
        chosen = np.isin(kinds, (KNOWN, unknown))
        if (kinds == unknown).any():
            scores = scored[spelling].scores.items()
            areas = {name: auroc(each[chosen], kinds[chosen] == KNOWN) for name, each in scores}
            found.append({"what": f"{unknown.replace('_', ' ')}, {spelling}", **areas})
    told = scored["as told"]
    risks = ({name: risk(each, told.is_right, share) for name, each in told.scores.items()} for share in COVERAGES)
    return {
        "auroc": found,
        "risk": [{"coverage": share, **row} for share, row in zip(COVERAGES, risks, strict=True)],
    }


def score(decoder: Decoder, tokenizer: Tokenizer, seq_len: int, world: World, questions: Sequence[Question]) -> Scored:
    """Returns what each score says about questions."""
    encoded = encode(questions, tokenizer, seq_len)
    router, sure = zip(*(_confidence(decoder, row.ids[: -row.n_answer]) for row in encoded), strict=True)
    index = PairIndex(world)
    named = np.array([float(index.names(question.prompt)) for question in questions])
    scores = {"router": np.array(router), "answer": np.array(sure), "index": named, "both": named + np.array(router)}
    return Scored(list(questions), scores, answer(decoder, encoded, BATCH).exact)


class PairIndex:
    """The subjects and relations of all told facts, to be found in a text letter by letter."""

    def __init__(self, world: World) -> None:
        self._relations: dict[str, list[str]] = {}
        for entity, columns in enumerate(world.told):
            self._relations[world.name(entity)] = [world.attributes[c].noun for c in np.flatnonzero(columns)]

    def names(self, text: str) -> bool:
        """Tells whether a text names a pair; a subject is any two words of the text that follow each other."""
        words = text.replace(",", " ").replace("'s", " ").split()
        pairs = (" ".join(pair) for pair in pairwise(words))
        return any(noun in words for pair in pairs for noun in self._relations.get(pair, ()))


def alias(question: Question) -> Question:
    """Returns a question with the subject's last name alone."""
    return replace(question, prompt=question.prompt.replace(question.subject, question.subject.split()[-1]))


def misspelt(question: Question) -> Question:
    """Returns a question with the fourth and fifth letter of the subject's name swapped."""
    name = question.subject
    return replace(question, prompt=question.prompt.replace(name, name[:3] + name[4] + name[3] + name[5:]))


def auroc(scores: np.ndarray, is_known: np.ndarray) -> float:
    """Returns the chance that a known question scores above an unknown one, ties counting half."""
    n_known, n_unknown = int(is_known.sum()), int((~is_known).sum())
    return float((rankdata(scores)[is_known].sum() - n_known * (n_known + 1) / 2) / (n_known * n_unknown))


def risk(scores: np.ndarray, is_right: np.ndarray, coverage: float) -> float:
    """Returns the share of wrong answers among the ``coverage`` of questions with the highest scores."""
    order = np.argsort(-scores, kind="stable")[: max(1, round(coverage * len(scores)))]
    return float(1 - is_right[order].mean())


@torch.inference_mode()
def _confidence(decoder: Decoder, ids: list[int]) -> tuple[float, float]:
    """Returns the router's and the answer's confidence after a prompt."""
    output = decoder(torch.tensor([ids], device=decoder.embedding.weight.device))
    best = [read.weights[0, -1].max(-1).values.mean() for read in output.reads.values()]
    chances = decoder.logits(output.hidden[0, -1]).float().softmax(-1)
    return float(torch.stack(best).mean()), float(chances.max())
