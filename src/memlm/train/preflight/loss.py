"""Checks of the loss, the next token's cross-entropy: in training, in Hugging Face's form, in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from memlm.hf import MemlmForCausalLM
from memlm.model.loss import TokenLoss
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.subject import Subject

TOLERANCE = 1e-4
"""Relative. Sound models agree to 1e-6; the nearest planted fault, labels smoothed by 0.1, is 0.05 off."""
SHARPEN = 20.0
"""What the last norm is multiplied by: where all logits are alike, smoothed labels cost what others do."""

SUMMED = "return sums over tokens, and divide once by the tokens of the whole step"
SHIFT = "a token's logits predict the next token; shift targets by one, once"


def loss(subject: Subject) -> list[Fault]:
    """Both forms of the loss add up over unequal micro-batches to a hand-written sum over the next tokens."""
    model, ids = subject.moved(), subject.tokens()
    with torch.no_grad():
        model.decoder.norm.weight.mul_(SHARPEN)
        return [*_token_loss(model, ids), *_labels_loss(model, ids)]


def _token_loss(model: MemlmForCausalLM, ids: Tensor) -> list[Fault]:
    module = TokenLoss(model.decoder)
    whole = module(ids)[0].item()
    expected = _by_hand(model, ids[:, :-1], ids[:, 1:])
    if not _equal(whole, expected):
        return [_misread(model, "model.loss", whole, expected, ids)]
    parts = module(ids[:1])[0].item() + module(ids[1:])[0].item()
    if not _equal(parts, expected):
        return [Fault("loss_not_summed", "model.loss", f"1 + 2 sequences give {parts:.6g}, all 3 {whole:.6g}", SUMMED)]
    return []


def _misread(model: MemlmForCausalLM, module: str, value: float, expected: float, ids: Tensor) -> Fault:
    """Says how a loss over ``ids`` came to differ from the sum over next tokens."""
    n_targets = ids[:, 1:].numel()
    evidence = f"{n_targets} tokens give {value:.6g} nats, by hand {expected:.6g}"
    if _equal(value * n_targets, expected) or _equal(value * len(ids), expected):
        return Fault("loss_not_summed", module, evidence, SUMMED)
    B, T = ids.shape
    distances: dict[int, float] = {}
    for shift, end in ((0, T), (0, T - 1), (2, T - 2)):
        shifted = _by_hand(model, ids[:, :end], ids[:, shift : shift + end])
        off = min(abs(value / shifted - 1), abs(value / n_targets * B * end / shifted - 1))  # as a sum, as a mean
        distances[shift] = min(off, distances.get(shift, off))
    nearest = min(distances, key=distances.__getitem__)
    if distances[nearest] <= TOLERANCE:
        return Fault("shifted_labels", module, f"{evidence}; it is that of tokens {nearest} ahead", SHIFT)
    return Fault("wrong_loss", module, evidence, "it is not the cross-entropy of the next token")


def _labels_loss(model: MemlmForCausalLM, ids: Tensor) -> list[Fault]:
    labels = ids.clone()
    labels[0, 4:9] = -100
    name = "model"  # the Hugging Face model itself
    counted = labels[:, 1:] != -100
    logits = model(ids).logits[:, :-1]
    each = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    expected, n_items = (each * counted).sum().item(), int(counted.sum())
    mean = model(ids, labels=labels).loss.item()
    if not _equal(mean * n_items, expected):
        if (labels == -100).any() and _equal(model(ids, labels=ids).loss.item() * each.numel(), each.sum().item()):
            evidence = f"with -100 in the labels {mean:.6g} nats per token, by hand {expected / n_items:.6g}"
            return [Fault("wrong_loss", name, evidence, "leave labels of -100 out of sum and count")]
        full = model(ids, labels=ids).loss.item() * each.numel()
        return [_misread(model, name, full, each.sum().item(), ids)]
    pieces = [(ids[:1, :5], labels[:1, :5]), (ids[1:], labels[1:])]
    n_pieces = sum(int((part[:, 1:] != -100).sum()) for _, part in pieces)
    parts = sum(model(x, labels=y, num_items_in_batch=n_pieces).loss.item() for x, y in pieces)
    total = sum(model(x, labels=y).loss.item() * int((y[:, 1:] != -100).sum()) for x, y in pieces)
    if not _equal(parts * n_pieces, total):
        evidence = (
            f"micro-batches of unequal length add up to {parts:.6g}, the mean over tokens is {total / n_pieces:.6g}"
        )
        return [Fault("loss_not_summed", name, evidence, "divide the sum by num_items_in_batch")]
    return []


def evaluation(subject: Subject) -> list[Fault]:
    """The run's evaluation and training's loss agree on the same sequences in eval mode."""
    assert subject.evaluate_loss is not None, "the check is skipped without an evaluation"
    model, sequences = subject.moved(), subject.tokens(5, 14)
    evaluated = subject.evaluate_loss(model, sequences.numpy())
    with torch.no_grad():
        summed, _ = TokenLoss(model.eval().decoder)(sequences)
    trained = summed.item() / sequences[:, 1:].numel()
    if _equal(evaluated, trained):
        return []
    evidence = f"evaluation says {evaluated:.6g} nats per token where training says {trained:.6g}"
    cause = "the two paths differ: mode, memory, targets or divisor; a gap between their losses would mean nothing"
    return [Fault("train_eval_mismatch", "evaluate", evidence, cause)]


def _by_hand(model: MemlmForCausalLM, inputs: Tensor, targets: Tensor) -> float:
    logits = model.decoder.logits(model.decoder(inputs).hidden)
    return -logits.log_softmax(-1).gather(-1, targets[..., None]).sum().item()


def _equal(left: float, right: float) -> bool:
    return abs(left - right) <= TOLERANCE * abs(right)
