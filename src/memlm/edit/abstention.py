"""Does a model know what it does not know? From the text of a question alone, told facts against those nobody told.

Asked in held-out words: told facts, facts of unknown entities, and untold facts of known ones; then the same with the
subject's names in the other order, with the last name alone, and with two letters swapped. Scores, high for "known":

- router: how alike what the question's last token reads is to what some token of the training text reads (cosine); of
  a memory that reads by the tokens alone, and has no router, it is called n-grams
- answer: the probability of the first token that greedy decoding gives
- index: 1 if the text names subject and relation of a told fact, letter by letter; else 0
- near: the same after words have been put right that are nearly a name
- both: index + router (or n-grams), so the index decides and the other orders within
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from memlm.data.asking import ask
from memlm.data.questions import Question
from memlm.data.world import World
from memlm.edit.background import Progress, padded, untold
from memlm.edit.results import Row, Trial
from memlm.errors import EditError
from memlm.evaluate.recall import answer, encode
from memlm.memory.base import MemoryRead
from memlm.model.decoder import Decoder

MOST = 500
"""Questions of a kind at most."""
TOKENS = 1 << 21
"""Most tokens of the training text whose reads are compared: enough to state each of 10,000 facts some ten times."""
READS = 1 << 26
"""Most reads of theirs, 512 MiB: 32 for each of so many tokens."""
KNOWN = "paraphrase"
UNKNOWN = ("unknown_entity", "unknown_attribute")
BATCH = 64
"""Sequences in one forward pass."""
COMPARED = 16
"""Tokens that are compared with all of the training text at once; each takes a number for every slot of every head."""
ALIKE = 0.8
"""How alike a word must be to a name that it is taken for, by `difflib`: two letters of six may be swapped."""
COVERAGES = tuple(round(0.05 * n, 2) for n in range(1, 21))
"""Shares of the questions that are answered, the surest first."""


class Scored(NamedTuple):
    """Questions with what each score says, [N] by name, and which were answered right, [N]."""

    questions: list[Question]
    scores: dict[str, np.ndarray]
    is_right: np.ndarray


def measure(
    decoder: Decoder,
    tokenizer: Tokenizer,
    seq_len: int,
    world: World,
    text: Sequence[Sequence[int]],
    progress: Progress = untold,
) -> Trial:
    """Returns how well the scores tell known from unknown.

    Args:
        decoder: The model, in eval mode.
        tokenizer: Its tokenizer.
        seq_len: Tokens that it sees at a time.
        world: The generated world that it has learned.
        text: Sequences of training tokens.
        progress: Is told how much of the text is read, and how many questions are compared with it.

    Returns:
        ``auroc``: the AUROC of each score, a row for each spelling of the names and kind of unknown (``what``);
        ``risk``: the share of wrong answers among the surest, by each score, a row for each ``coverage``, as told.

    Raises:
        EditError: the world has nothing unknown.
    """
    asked = [question for question in ask(world, MOST) if question.kind in (KNOWN, *UNKNOWN)]
    kinds = np.array([question.kind for question in asked])
    if not np.isin(kinds, UNKNOWN).any():
        raise EditError("the world tells all its facts, and has no unknown entities; there is nothing to tell apart")
    index, known = PairIndex(world), KnownReads(decoder, text, progress)
    scored: dict[str, Scored] = {}
    for spelling, spell in SPELLINGS.items():
        spelt = [spell(question) for question in asked]
        compared = partial(_add, progress, len(scored) * len(asked), len(SPELLINGS) * len(asked))
        scored[spelling] = score(decoder, tokenizer, seq_len, spelt, index, known, compared)
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


def _add(progress: Progress, before: int, total: int, done: int) -> None:
    """Tells that so many questions are compared, beside those before them."""
    progress("comparing questions", before + done, total)


def score(
    decoder: Decoder,
    tokenizer: Tokenizer,
    seq_len: int,
    questions: Sequence[Question],
    index: PairIndex,
    known: KnownReads,
    progress: Callable[[int], None],
) -> Scored:
    """Returns what each score says about questions; ``progress`` is told how many are compared with the text."""
    encoded = encode(questions, tokenizer, seq_len)
    alike, sure = known.judge([row.ids[: -row.n_answer] for row in encoded], progress)
    named = np.array([float(index.names(question.prompt)) for question in questions])
    near = np.array([float(index.names(index.corrected(question.prompt))) for question in questions])
    scores = {score_of_reads(decoder): alike, "answer": sure, "index": named, "near": near, "both": named + alike}
    return Scored(list(questions), scores, answer(decoder, encoded, BATCH).exact)


def score_of_reads(decoder: Decoder) -> str:
    """Returns what the score is called that compares reads: after what leads to them."""
    memory = decoder.config.memory
    return "n-grams" if memory is not None and memory.n_tokens else "router"


class KnownReads:
    """What the tokens of a text read, to see whether a question reads the like.

    A read is a vector of weights over the slots of all layers and heads, of norm 1. The weight of the best slot alone
    tells little: a router is as sure of a name that it has never met.

    Args:
        decoder: The model, in eval mode.
        sequences: Token ids, a list for each sequence.
        progress: Is told how many of them are read.
    """

    def __init__(self, decoder: Decoder, sequences: Sequence[Sequence[int]], progress: Progress = untold) -> None:
        self._decoder = decoder
        device, end = decoder.embedding.weight.device, 0
        shape = (sum(map(len, sequences)), reads_of(decoder))
        self._slots = torch.empty(shape, dtype=torch.int32, device=device)
        self._weights = torch.empty(shape, device=device)
        for start in range(0, len(sequences), BATCH):
            slots, weights = self._real(sequences[start : start + BATCH])
            begin, end = end, end + len(slots)
            self._slots[begin:end], self._weights[begin:end] = slots, weights
            progress("reading the training text", min(start + BATCH, len(sequences)), len(sequences))

    @torch.inference_mode()
    def judge(
        self, prompts: Sequence[Sequence[int]], progress: Callable[[int], None] = lambda _: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns for the end of each prompt the cosine of its nearest read, and the chance of its likeliest token.

        Args:
            prompts: Token ids of each.
            progress: Is told how many are judged.
        """
        device, found = self._decoder.embedding.weight.device, []
        for start in range(0, len(prompts), BATCH):
            ids, is_real = (tensor.to(device) for tensor in padded(prompts[start : start + BATCH]))
            output, ends = self._decoder(ids), (torch.arange(len(ids), device=device), is_real.sum(1) - 1)
            slots, weights = (each[ends] for each in by_head(list(output.reads.values())))
            chances = self._decoder.logits(output.hidden[ends]).float().softmax(-1).max(-1).values
            found.append(torch.stack([self._nearest(slots, weights), chances]).cpu().numpy())
            progress(min(start + BATCH, len(prompts)))
        alike, sure = np.concatenate(found, axis=1)
        return alike, sure

    def _nearest(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Returns the highest cosine of each read [N, R] with any read of the text, [N]."""
        size = 1 + max(int(self._slots.max()), int(slots.max()))
        best: list[Tensor] = []
        for asked, theirs in zip(slots.split(COMPARED), weights.split(COMPARED), strict=True):
            table = weights.new_zeros(size, len(asked))
            table[asked, torch.arange(len(asked), device=asked.device)[:, None]] = theirs
            same = F.embedding_bag(self._slots, table, mode="sum", per_sample_weights=self._weights)
            best.append(same.max(0).values)
        return torch.cat(best)

    @torch.inference_mode()
    def _real(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, is_real = (tensor.to(self._decoder.embedding.weight.device) for tensor in padded(sequences))
        slots, weights = by_head(list(self._decoder(ids).reads.values()))
        return slots[is_real], weights[is_real]


def reads_of(decoder: Decoder) -> int:
    """Returns how many slots a token reads over all layers, R."""
    memory = decoder.config.memory
    return 0 if memory is None else memory.n_reads * len(decoder.config.memory_layers)


def by_head(reads: Sequence[MemoryRead]) -> tuple[Tensor, Tensor]:
    """Returns reads with a number of its own for every slot of every layer and head, and weights of norm 1.

    Shapes:
        slots and weights of each layer [B, T, H, K] -> [B, T, R], [B, T, R]; R is the sum of H * K over layers.
    """
    slots: list[Tensor] = []
    first = 0
    for read in reads:
        n_heads = read.slots.shape[2]
        offsets = first + read.bank.n_slots * torch.arange(n_heads, device=read.slots.device)[:, None]
        slots.append((read.slots + offsets).flatten(2))
        first += read.bank.n_slots * n_heads
    return torch.cat(slots, -1), F.normalize(torch.cat([r.weights.flatten(2) for r in reads], -1).float(), dim=-1)


class PairIndex:
    """The subjects and relations of all told facts, to be found in a text letter by letter."""

    def __init__(self, world: World) -> None:
        self._relations: dict[str, list[str]] = {}
        for entity, columns in enumerate(world.told):
            self._relations[world.name(entity)] = [world.attributes[c].noun for c in np.flatnonzero(columns)]
        self._words = sorted({word for name in self._relations for word in name.split()})

    def names(self, text: str) -> bool:
        """Tells whether a text names a pair; a subject is any two words of the text that follow each other."""
        words = _words(text)
        pairs = (" ".join(pair) for pair in pairwise(words))
        return any(noun in words for pair in pairs for noun in self._relations.get(pair, ()))

    def corrected(self, text: str) -> str:
        """Returns a text's words, those that are nearly a word of some name as that name has it."""
        return " ".join((*get_close_matches(word, self._words, 1, ALIKE), word)[0] for word in _words(text))


def _words(text: str) -> list[str]:
    return text.replace(",", " ").replace("'s", " ").split()


def last_first(question: Question) -> Question:
    """Returns a question with the subject's last name before the first."""
    return replace(
        question, prompt=question.prompt.replace(question.subject, " ".join(reversed(question.subject.split())))
    )


def last_alone(question: Question) -> Question:
    """Returns a question with the subject's last name alone, which others have too."""
    return replace(question, prompt=question.prompt.replace(question.subject, question.subject.split()[-1]))


def misspelt(question: Question) -> Question:
    """Returns a question with the fourth and fifth letter of the subject's name swapped."""
    name = question.subject
    return replace(question, prompt=question.prompt.replace(name, name[:3] + name[4] + name[3] + name[5:]))


SPELLINGS: Mapping[str, Callable[[Question], Question]] = {
    "as told": lambda question: question,
    "last name first": last_first,
    "last name alone": last_alone,
    "misspelt": misspelt,
}
"""How the subject is written."""


def auroc(scores: np.ndarray, is_known: np.ndarray) -> float:
    """Returns the chance that a known question scores above an unknown one, ties counting half."""
    n_known, n_unknown = int(is_known.sum()), int((~is_known).sum())
    return float((rankdata(scores)[is_known].sum() - n_known * (n_known + 1) / 2) / (n_known * n_unknown))


def risk(scores: np.ndarray, is_right: np.ndarray, coverage: float) -> float:
    """Returns the share of wrong answers among the ``coverage`` of questions with the highest scores."""
    order = np.argsort(-scores, kind="stable")[: max(1, round(coverage * len(scores)))]
    return float(1 - is_right[order].mean())
