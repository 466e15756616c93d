"""Sparse memory finetuning (Lin et al. 2025, arXiv:2510.15103): only the rows that are the fact's own are trained.

The rows are those with the highest TF-IDF: read much where the edit's texts answer, and in little of the background.
They learn the answer in all wordings at once. Two things are not in the paper: paraphrases are in the batch, and rows
are trained in coordinates in which a step that changes what the background reads is a small one, see `calm_basis`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.edit.background import Background, padded
from memlm.edit.rows import Change, VectorRows
from memlm.evaluate.recall import Encoded
from memlm.model.decoder import Decoder

FORGOTTEN = 5.0
"""Nats of a deleted answer beyond which it is pushed no further."""
MOMENTUM = 0.9
SMALLEST = 1e-12
"""What a gradient's norm is divided by at least."""


@dataclass(frozen=True)
class Tuning:
    """How rows are trained.

    Attributes:
        share: Most rows of an edit, as a share of all rows.
        rows: Most rows of an edit, as a number.
        steps: Most steps.
        lr: The norm of a step, in those coordinates, over all rows of the edit.
        sure: It ends when every token of the answer is at least so likely in every wording.
        gone: A deletion ends when every answer as a whole is at most so likely.
        calm: Weight of what the background reads in the coordinates in which rows are trained.
        earlier: How many times what the texts of earlier edits read counts there.
        near: Background sequences that must stay as they are, where other weights than rows are trained.
        locality: Weight of their mean divergence, in nats per token, beside the mean loss of an answer's token.
    """

    share: float = 0.01
    rows: int = 256
    steps: int = 400
    lr: float = 0.6
    sure: float = 0.5
    gone: float = 0.1
    calm: float = 1.0
    earlier: float = 10.0
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
    basis = calm_basis(background.overlap(chosen), tuning.calm)
    before = rows.read(chosen)
    now = before.to(basis)
    momentum = _Momentum(torch.zeros_like(now))

    def update(loss: Tensor) -> None:
        loss.backward()
        momentum.step(basis @ rows.take_gradient(chosen), tuning.lr)
        rows.write(chosen, now + basis @ momentum.value)

    try:
        with training(decoder, [bank.values for bank in rows.banks]):
            train_until_sure(decoder, texts, [], tuning, update, is_deletion)
        return Change(chosen.cpu(), before, rows.read(chosen))
    finally:
        rows.write(chosen, before)


def calm_basis(overlap: Tensor, calm: float) -> Tensor:
    """Returns the coordinates in which rows are trained, as the symmetric matrix (1 + calm C)^(-1/2), [N, N].

    A change of the rows is this matrix times what a step moves. Along a direction that the background reads with the
    weight c, it and the gradient both shrink by (1 + calm c)^(-1/2), so that what is learned goes where little is read.

    Args:
        overlap: What the background reads of the rows, C [N, N], as `Background.overlap` gives it.
        calm: Its weight; 0: rows are trained as they are.
    """
    values, vectors = torch.linalg.eigh(overlap)
    return vectors * (1 + calm * values.clamp_min(0)).rsqrt() @ vectors.T


def rows_of(decoder: Decoder, texts: Sequence[Encoded], background: Background, tuning: Tuning) -> Tensor:
    """Returns the rows that are the texts' own, ascending, on the model's device."""
    rows = VectorRows(decoder)
    goal = _Goal.of(texts, background.frequency.device, is_deletion=False)
    with torch.inference_mode():
        read = rows.of(decoder(goal.inputs).reads)[goal.row, goal.place]  # [answer tokens, R]
    counts = torch.bincount(read.flatten(), minlength=len(rows))
    return pick_rows(counts, background, max(1, min(tuning.rows, int(tuning.share * len(rows)))))


class _Momentum:
    """Gradient descent with momentum, whose steps are shorter where gradients are than they were on average so far.

    Adam would divide every number by its own size, and what the basis has shrunk would grow again.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._mean, self._square, self._steps = torch.zeros_like(value), value.new_zeros(()), 0

    def step(self, gradient: Tensor, rate: float) -> None:
        """Takes a step; its norm is ``rate`` if gradients are all alike."""
        self._steps += 1
        self._mean.lerp_(gradient, 1 - MOMENTUM)
        self._square += gradient.square().sum()
        size = (self._square / self._steps).sqrt().clamp_min(SMALLEST)
        self.value -= rate * self._mean / (1 - MOMENTUM**self._steps) / size


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
        near: Sequences that must go on as before, if any.
        tuning: Steps, and the weight of the sequences.
        update: Takes a step by the loss.
        is_deletion: Make the answers unlikely.
    """
    goal = _Goal.of(texts, decoder.embedding.weight.device, is_deletion)
    stay = _Locality.of(decoder, near) if near and tuning.locality else None
    inputs = goal.inputs if stay is None else _stacked(goal.inputs, stay.inputs)
    enough = 1 - tuning.gone if is_deletion else tuning.sure
    for _ in range(tuning.steps):
        hidden = decoder(inputs).hidden
        outcome = goal.outcome(decoder, hidden)
        if outcome.certainty >= enough:
            break
        apart = 0 if stay is None else stay.divergence(decoder, hidden[len(goal.inputs) :])
        update(outcome.loss + tuning.locality * apart)


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Returns two batches of token ids as one, [B, T], filled up on the right."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(ids, (0, width - ids.shape[1])) for ids in (first, second)])


class _Outcome(NamedTuple):
    loss: Tensor
    certainty: float


@dataclass(frozen=True)
class _Goal:
    """Answers that are to become likely, or unlikely.

    Attributes:
        inputs: Texts, [B, T].
        row: The text in which each answer's token is predicted, [answer tokens].
        place: Where in it, [answer tokens].
        targets: The answers' tokens, [answer tokens].
        is_deletion: Make them unlikely.
    """

    inputs: Tensor
    row: Tensor
    place: Tensor
    targets: Tensor
    is_deletion: bool

    @classmethod
    def of(cls, texts: Sequence[Encoded], device: torch.device, is_deletion: bool) -> _Goal:
        ids, is_real = padded([text.ids for text in texts])
        ends = is_real.sum(1, keepdim=True)
        begins = ends - torch.tensor([[text.n_answer] for text in texts])
        place = torch.arange(ids.shape[1])
        row, place = ((place >= begins) & (place < ends))[:, 1:].nonzero(as_tuple=True)
        inputs, targets = ids[:, :-1].to(device), ids[row, place + 1].to(device)
        return cls(inputs, row.to(device), place.to(device), targets, is_deletion)

    def outcome(self, decoder: Decoder, hidden: Tensor) -> _Outcome:
        """Returns how far the goal is, by the last hidden states [B or more, T, D]."""
        logits = decoder.logits(hidden[self.row, self.place]).float()
        lost = F.cross_entropy(logits, self.targets, reduction="none")  # [answer tokens]
        if not self.is_deletion:
            return _Outcome(lost.mean(), (-lost.detach()).exp().min().item())
        whole = lost.new_zeros(len(self.inputs)).index_add(0, self.row, lost)  # nats of each answer, [B]
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

    def divergence(self, decoder: Decoder, hidden: Tensor) -> Tensor:
        """Returns the mean divergence of a token, in nats, by the last hidden states [B, at least T, D]."""
        new = decoder.logits(hidden[:, : self.is_real.shape[1]][self.is_real]).float().log_softmax(-1)
        return F.kl_div(new, self.old, reduction="batchmean", log_target=True)
