"""Sparse memory finetuning (Lin et al. 2025, arXiv:2510.15103): only the rows that are the fact's own are trained.

The rows are those with the highest TF-IDF: read much by the edit's texts, and in little of the background. They learn
the answer in all wordings at once, while the text that reads them most must go on as before: the divergence from the
model before the edit is part of the loss. The paper has neither paraphrases in the batch nor this term.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.edit.background import Background, padded, read_counts
from memlm.edit.rows import Change, VectorRows
from memlm.evaluate.recall import Encoded
from memlm.model.decoder import Decoder

FORGOTTEN = 5.0
"""Nats of a deleted answer beyond which it is pushed no further."""


@dataclass(frozen=True)
class Tuning:
    """How rows are trained.

    Attributes:
        share: Most rows of an edit, as a share of all rows.
        steps: Most steps of Adam.
        lr: Its rate.
        sure: It ends when every token of the answer is at least so likely in every wording; to delete, when every
            answer as a whole is at most as likely as this leaves.
        near: Background sequences that must stay as they are.
        locality: Weight of their mean divergence, in nats per token, beside the mean loss of an answer's token.
    """

    share: float = 0.01
    steps: int = 80
    lr: float = 0.02
    sure: float = 0.9
    near: int = 24
    locality: float = 10.0


def pick_rows(counts: Tensor, background: Background, n: int) -> Tensor:
    """Returns up to ``n`` rows with the highest TF-IDF, ascending.

    Args:
        counts: How often the edit's texts read each row, [rows].
        background: What is to be left alone.
        n: How many.
    """
    rarity = ((len(background.sequences) + 1) / (background.frequency + 1.0)).log()
    score = counts / counts.sum() * rarity
    best = score.argsort(descending=True, stable=True)[:n]
    return best[score[best] > 0].sort().values


def learn_rows(
    decoder: Decoder, texts: Sequence[Encoded], background: Background, tuning: Tuning, is_deletion: bool = False
) -> Change:
    """Returns the change of rows after which the model gives the texts' answers, or no longer gives them.

    The model is as before afterwards.

    Args:
        decoder: The model, in eval mode.
        texts: Prompts with the answer.
        background: What is to be left alone.
        tuning: How rows are trained.
        is_deletion: Make the answers unlikely.
    """
    rows = VectorRows(decoder)
    chosen = rows_of(decoder, texts, background, tuning)
    before = rows.read(chosen)
    delta = nn.Parameter(torch.zeros_like(before))
    optimizer = torch.optim.Adam([delta], lr=tuning.lr)

    def update(loss: Tensor) -> None:
        loss.backward()
        delta.grad = rows.take_gradient(chosen)
        optimizer.step()
        rows.write(chosen, before + delta.detach())

    try:
        with training(decoder, [bank.values for bank in rows.banks]):
            near = background.nearest(chosen, tuning.near)
            train_until_sure(decoder, texts, near, tuning, update, is_deletion)
        return Change(chosen, before, rows.read(chosen))
    finally:
        rows.write(chosen, before)


def rows_of(decoder: Decoder, texts: Sequence[Encoded], background: Background, tuning: Tuning) -> Tensor:
    """Returns the rows that are the texts' own, ascending."""
    rows = VectorRows(decoder)
    counts = torch.stack(read_counts(decoder, rows, [text.ids[:-1] for text in texts])).sum(0)
    return pick_rows(counts, background, max(1, int(tuning.share * len(rows))))


@contextmanager
def training(decoder: Decoder, parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Lets only ``parameters`` of a decoder take gradients for a while."""
    asked = {parameter: parameter.requires_grad for parameter in decoder.parameters()}
    decoder.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, was_asked in asked.items():
            parameter.requires_grad_(was_asked)


def train_until_sure(
    decoder: Decoder,
    texts: Sequence[Encoded],
    near: Sequence[Sequence[int]],
    tuning: Tuning,
    update: Callable[[Tensor], None],
    is_deletion: bool = False,
) -> None:
    """Calls ``update`` with the loss until the model is sure of the answers in every wording, or for all steps.

    Args:
        decoder: The model, in eval mode.
        texts: Prompts with the answer.
        near: Sequences that must go on as before.
        tuning: Steps, and the weight of the sequences.
        update: Takes a step by the loss.
        is_deletion: Make the answers unlikely.
    """
    goal = _Goal.of(texts, decoder.embedding.weight.device, is_deletion)
    stay = _Locality.of(decoder, near)
    for _ in range(tuning.steps):
        outcome = goal.loss(decoder)
        if outcome.certainty >= tuning.sure:
            break
        update(outcome.loss + tuning.locality * stay.loss(decoder))


class _Outcome(NamedTuple):
    loss: Tensor
    certainty: float


@dataclass(frozen=True)
class _Goal:
    """Answers that are to become likely, or unlikely: inputs [B, T], targets [B, T], and which targets count [B, T]."""

    inputs: Tensor
    targets: Tensor
    is_answer: Tensor
    is_deletion: bool

    @classmethod
    def of(cls, texts: Sequence[Encoded], device: torch.device, is_deletion: bool) -> _Goal:
        ids, is_real = padded([text.ids for text in texts])
        ends = is_real.sum(1, keepdim=True)
        begins = ends - torch.tensor([[text.n_answer] for text in texts])
        place = torch.arange(ids.shape[1])
        is_answer = (place >= begins) & (place < ends)
        return cls(ids[:, :-1].to(device), ids[:, 1:].to(device), is_answer[:, 1:].to(device), is_deletion)

    def loss(self, decoder: Decoder) -> _Outcome:
        row, place = self.is_answer.nonzero(as_tuple=True)
        logits = decoder.logits(decoder(self.inputs).hidden[row, place]).float()
        lost = F.cross_entropy(logits, self.targets[row, place], reduction="none")  # [answer tokens]
        if not self.is_deletion:
            return _Outcome(lost.mean(), (-lost.detach()).exp().min().item())
        whole = lost.new_zeros(len(self.inputs)).index_add(0, row, lost)  # nats of each answer, [B]
        return _Outcome(F.relu(FORGOTTEN - whole).mean(), 1 - (-whole.detach()).exp().max().item())


@dataclass(frozen=True)
class _Locality:
    """Text that must go on as before: inputs [B, T], which are real [B, T], and the log-likelihoods of old [N, V]."""

    inputs: Tensor
    is_real: Tensor
    old: Tensor

    @classmethod
    def of(cls, decoder: Decoder, sequences: Sequence[Sequence[int]]) -> _Locality:
        device = decoder.embedding.weight.device
        inputs, is_real = (tensor.to(device) for tensor in padded(sequences))
        with torch.no_grad():
            old = decoder.logits(decoder(inputs).hidden[is_real]).float().log_softmax(-1)
        return cls(inputs, is_real, old)

    def loss(self, decoder: Decoder) -> Tensor:
        new = decoder.logits(decoder(self.inputs).hidden[self.is_real]).float().log_softmax(-1)
        return F.kl_div(new, self.old, reduction="batchmean", log_target=True)
