"""Checks that two paths through one model agree: modes, later tokens, batches, the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memlm.config.checks import FaultName
from memlm.hf import MemlmForCausalLM
from memlm.hf.modeling import CACHE_FIELD
from memlm.train.preflight.findings import Fault
from memlm.train.preflight.subject import BATCH, LENGTH, VOCABULARY, Subject
from memlm.train.preflight.trace import Event, first_difference, part, trace, whole

CUT = 6
"""Tokens from this position on, or before it, are changed."""
STEPS = 4
"""The last tokens, which come one by one."""
EVERYTHING = part(BATCH, LENGTH, slice(None), slice(None))


def determinism(subject: Subject) -> list[Fault]:
    """The same tokens give the same logits, and finite ones, each time in eval mode."""
    model, ids = subject.moved(), subject.tokens()
    first, second = trace(model, ids), trace(model, ids)
    if not all(tensor.isfinite().all() for tensor in first[-1].tensors):
        return [Fault("not_finite", _first_not_finite(first), "logits are not finite", "look for a division by zero")]
    found = first_difference(first, second, whole, whole)
    if found is None:
        return []
    cause = "noise is drawn although the model is in eval mode; draw it under `if self.training`"
    return [Fault("noise_in_eval", found.module, f"two passes in eval mode differ: {found}", cause)]


def train_eval_parity(subject: Subject) -> list[Fault]:
    """Train and eval mode give the same logits and slots."""
    model, ids = subject.moved(), subject.tokens()
    found = first_difference(_seeded(model, ids), _seeded(model.train(), ids), whole, whole)
    if found is None:
        return []
    cause = "a module computes something else in train mode; declare it if that is meant (dropout, batch statistics)"
    return [Fault("train_eval_mismatch", found.module, f"train and eval mode differ: {found}", cause)]


def causality(subject: Subject) -> list[Fault]:
    """Changing later tokens leaves earlier logits and slots as they were."""
    return _leak(subject, "future_leak", subject.moved())


def causality_in_training(subject: Subject) -> list[Fault]:
    """The same in train mode."""
    return _leak(subject, "future_leak_in_training", subject.moved().train())


def _leak(subject: Subject, fault: FaultName, model: MemlmForCausalLM) -> list[Fault]:
    ids = subject.tokens()
    earlier = part(BATCH, LENGTH, slice(None), slice(0, CUT))
    found = first_difference(_seeded(model, ids), _seeded(model, _other(ids, slice(CUT, None))), earlier, earlier)
    if found is None:
        return []
    evidence = f"new tokens from position {CUT} on change what comes before them: {found}"
    cause = "something is pooled, normalised or attended over the whole sequence; use each token's own state"
    return [Fault(fault, found.module, evidence, cause)]


def context(subject: Subject) -> list[Fault]:
    """The mirror of causality: earlier tokens are seen by later ones."""
    model, ids = subject.moved(), subject.tokens()
    later = part(BATCH, LENGTH, slice(None), slice(CUT, None))
    seen = first_difference(_seeded(model, ids), _seeded(model, _other(ids, slice(0, CUT))), later, later)
    if seen is not None:
        return []
    evidence = f"new tokens before position {CUT} change nothing from there on"
    return [
        Fault("context_ignored", "decoder.blocks", evidence, "attention sees its own token alone; look at its mask")
    ]


def _other(ids: Tensor, tokens: slice) -> Tensor:
    """Returns ``ids`` [B, T] with another token at each of the positions ``tokens``."""
    changed = ids.clone()
    changed[:, tokens] = 2 + (changed[:, tokens] + 5) % (VOCABULARY - 2)
    return changed


def positions(subject: Subject) -> list[Fault]:
    """Rotary positions are relative: text that begins at another position has the same logits and slots.

    100 sound models differ by 5e-6 at most; queries that are not rotated by 0.05 and more.
    """
    model, ids = subject.moved(), subject.tokens()
    begun = torch.arange(LENGTH)[None]
    near, far = (_seeded(model, ids, position_ids=begun + start) for start in (0, 7))
    found = first_difference(near, far, EVERYTHING, EVERYTHING)
    if found is None:
        return []
    cause = "queries and keys must both be rotated, by the same angles, before they meet"
    return [Fault("absolute_positions", found.module, f"the same text 7 positions later: {found}", cause)]


def batch_invariance(subject: Subject) -> list[Fault]:
    """A sequence has the same logits and slots alone and in a batch."""
    return _mixing(subject, "batch_dependence", subject.moved())


def batch_invariance_in_training(subject: Subject) -> list[Fault]:
    """The same in train mode, unless noise is drawn there: other shapes draw other noise."""
    model, ids = subject.moved().train(), subject.tokens()
    if first_difference(_seeded(model, ids), trace(model, ids), whole, whole) is not None:
        return []
    return _mixing(subject, "batch_dependence_in_training", model)


def _mixing(subject: Subject, fault: FaultName, model: MemlmForCausalLM) -> list[Fault]:
    ids = subject.tokens()
    together, alone = _seeded(model, ids), part(1, LENGTH, slice(None), slice(None))
    for row in range(BATCH):
        single = part(BATCH, LENGTH, slice(row, row + 1), slice(None))
        found = first_difference(together, _seeded(model, ids[row : row + 1]), single, alone)
        if found is not None:
            cause = "something is pooled or normalised over the batch; use each token's own state"
            return [Fault(fault, found.module, f"a sequence alone and in a batch differ: {found}", cause)]
    return []


def padding(subject: Subject) -> list[Fault]:
    """Padding on the left changes neither logits nor slots of what follows it."""
    model, ids, n_pad = subject.moved(), subject.tokens(), 4
    padded = torch.cat([torch.ones(BATCH, n_pad, dtype=torch.long), ids], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :n_pad] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    seen = _seeded(model, padded, attention_mask=mask, position_ids=positions)
    behind = part(BATCH, LENGTH + n_pad, slice(None), slice(n_pad, None))
    found = first_difference(seen, _seeded(model, ids), behind, EVERYTHING)
    if found is None:
        return []
    cause = "padding is read as text; honour the attention mask"
    return [Fault("padding_counts", found.module, f"{n_pad} padded positions on the left count: {found}", cause)]


def cached_generation(subject: Subject) -> list[Fault]:
    """Token by token with a cache, under both of the argument's names, gives what one pass gives."""
    model, ids = subject.moved(), subject.tokens()
    full = _seeded(model, ids)
    for argument in ("cache", "past_key_values"):
        cache = _output(model, ids[:, :-STEPS], use_cache=True)[CACHE_FIELD]
        for position in range(LENGTH - STEPS, LENGTH):
            token = ids[:, position : position + 1]
            step = _seeded(model, token, **{argument: cache}, use_cache=True)
            here = part(BATCH, LENGTH, slice(None), slice(position, position + 1))
            found = first_difference(full, step, here, part(BATCH, 1, slice(None), slice(None)))
            if found is not None:
                evidence = f"token {position} with `{argument}` and in one pass differ: {found}"
                return [_cache_fault(found.module, evidence, model, token, step)]
    return []


def _cache_fault(module: str, evidence: str, model: MemlmForCausalLM, token: Any, step: list[Event]) -> Fault:
    alone = _seeded(model, token, use_cache=False)
    only = part(BATCH, 1, slice(None), slice(None))
    if first_difference(step[-1:], alone[-1:], only, only) is None:
        cause = "the step sees its own token alone; accept both names of the cache and hand it to attention"
        return Fault("cache_ignored", module, evidence, cause)
    cause = "check the positions, the mask and what is stored; a memory sees earlier tokens by n_tokens alone"
    return Fault("cache_mismatch", module, evidence, cause)


def _output(model: MemlmForCausalLM, *args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(*args, **kwargs)


def _seeded(model: MemlmForCausalLM, *args: Any, **kwargs: Any) -> list[Event]:
    """Traces a pass from a fixed random state, so that noise that is meant does not tell two passes apart."""
    torch.manual_seed(0)
    return trace(model, *args, **kwargs)


def _first_not_finite(events: list[Event]) -> str:
    return next(event.module for event in events if not all(tensor.isfinite().all() for tensor in event.tensors))
