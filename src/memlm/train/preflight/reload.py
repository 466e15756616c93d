"""Check of saving and loading: the same weights, ties and logits come back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.utils import logging

from memlm.errors import CheckpointError
from memlm.hf import MemlmForCausalLM
from memlm.model.loss import TokenLoss
from memlm.train.checkpoint import load_weights
from memlm.train.optimizer import build_optimizer
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.looping import learning
from memlm.train.preflight.subject import Subject
from memlm.train.preflight.trace import first_difference, trace, whole


def reload(subject: Subject) -> list[Fault]:
    """A saved model is the same when loaded: every parameter, what is tied, the logits, and one step of training."""
    model, ids = subject.moved(), subject.tokens()
    with torch.no_grad():
        model.train()(ids)  # what is counted while training leaves its start
    model.eval()
    with tempfile.TemporaryDirectory() as scratch, _without_bars():
        try:
            model.save_pretrained(scratch)
            torch.manual_seed(subject.seed + 1)  # what is drawn anew while loading comes out differently
            loaded = load_weights(Path(scratch), torch.device("cpu")).eval()
        except (CheckpointError, RuntimeError) as error:
            return [_unloadable(model, " ".join(str(error).replace(scratch, "the checkpoint").split())[:300])]
    if set(_ties(model)) - set(_ties(loaded)):
        gone = sorted(set(_ties(model)) - set(_ties(loaded)))
        evidence = "tied before saving and otherwise after: " + "; ".join(" = ".join(names) for names in gone)
        return [Fault("untied_on_reload", gone[0][0].rpartition(".")[0], evidence, _TIE)]
    lost = [
        n
        for (n, was), (_, now) in zip(model.named_parameters(), loaded.named_parameters(), strict=True)
        if not torch.equal(was, now)
    ]
    if lost:
        evidence = f"{lost[0]}{f' and {len(lost) - 1} more' * (len(lost) > 1)} came back with other numbers"
        return [
            Fault(
                "lost_on_reload", lost[0].rpartition(".")[0], evidence, "it is not saved, or drawn anew after loading"
            )
        ]
    found = first_difference(trace(model, ids), trace(loaded, ids), whole, whole)
    if found is not None:
        cause = "the parameters came back, so something else was lost: keep it in a parameter or a persistent buffer"
        return [Fault("lost_on_reload", found.module, f"the loaded model differs: {found}", cause)]
    found = first_difference(trace(_stepped(model, ids), ids), trace(_stepped(loaded, ids), ids), whole, whole)
    if found is not None:
        return [Fault("untied_on_reload", found.module, f"after one more step the loaded model differs: {found}", _TIE)]
    return []


_TIE = "what is tied must be one parameter with one name, or be tied again while loading"


def _unloadable(model: nn.Module, message: str) -> Fault:
    lost = [name for names in _ties(model) if len(names) > 1 for name in names if f"'{name}'" in message]
    if lost:
        return Fault("untied_on_reload", lost[0].rpartition(".")[0], message, _TIE)
    return Fault("lost_on_reload", "model", message, "a part of the model is not saved under its own name")


def _ties(model: nn.Module) -> list[tuple[str, ...]]:
    """Returns the names of every parameter, those of one tensor together."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return sorted(tuple(names) for names in groups.values())


def _stepped(model: MemlmForCausalLM, ids: Tensor) -> MemlmForCausalLM:
    optimizer = build_optimizer(model, learning(1))
    summed, balance = TokenLoss(model.decoder)(ids)
    (summed / ids[:, 1:].numel() + balance).backward()
    optimizer.step()
    return model.eval()


@contextmanager
def _without_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
