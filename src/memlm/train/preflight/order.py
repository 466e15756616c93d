"""Check of the order of training data: every sequence once an epoch, in another order each time."""

from __future__ import annotations

import copy

import numpy as np

from memlm.data.sampler import Sampler
from memlm.train.preflight.findings import Fault

MOST_BATCHES = 64
"""Batches that are looked at in each of two epochs; it bounds the time whatever the size of the data."""


class _Positions:
    """Stands in for a row of tokens: every token is its own position."""

    def __init__(self, n_tokens: int) -> None:
        self.n_tokens = n_tokens

    def __len__(self) -> int:
        return self.n_tokens

    def __getitem__(self, key: slice) -> np.ndarray:
        return np.arange(*key.indices(self.n_tokens))


def data_order(sampler: Sampler) -> list[Fault]:
    """Looks at the sampler that the run will use."""
    probe = copy.copy(sampler)
    probe.tokens = _Positions(len(sampler.tokens))  # pyright: ignore[reportAttributeAccessIssue]
    per_epoch = -(-sampler.n_sequences // sampler.batch_size)
    n_batches = min(per_epoch, MOST_BATCHES)
    batches = np.concatenate([probe.batch(index) for index in range(n_batches)])
    if not (np.diff(batches, axis=1) == 1).all() or (batches[:, 0] % sampler.seq_len).any():
        evidence = "a batch's rows are not runs of seq_len + 1 tokens that follow each other"
        return [Fault("shifted_labels", "data.sampler", evidence, "targets are the inputs' next tokens")]
    first = (batches[:, 0] // sampler.seq_len)[: sampler.n_sequences]
    again = np.concatenate([probe.batch(index) for index in range(n_batches)])
    if not np.array_equal(again, batches):
        evidence = "the same batch was not the same when asked for again"
        return [_fault(evidence, "a batch depends on seed and index alone, or no run can be resumed")]
    repeated = len(first) - len(np.unique(first))
    if repeated:
        evidence = f"{repeated} of the first {len(first)} sequences of an epoch had been given before"
        return [_fault(evidence, "an epoch is a permutation of all sequences")]
    return _second_epoch(probe, first, per_epoch)


def _second_epoch(probe: Sampler, first: np.ndarray, per_epoch: int) -> list[Fault]:
    n_batches = -(-len(first) // probe.batch_size)
    batches = np.concatenate([probe.batch(index) for index in range(per_epoch, per_epoch + n_batches)])
    skipped = per_epoch * probe.batch_size - probe.n_sequences  # the last batch of an epoch holds the next one's first
    second = batches[:, 0] // probe.seq_len
    same = first[skipped : skipped + len(second)]
    # A dozen sequences come in the same order by chance once in 479 million epochs.
    if len(same) >= 12 and np.array_equal(second[: len(same)], same):
        evidence = f"the second epoch repeats the order of the first ({len(same)} sequences compared)"
        return [_fault(evidence, "the epoch must be part of the permutation's seed")]
    return []


def _fault(evidence: str, cause: str) -> Fault:
    return Fault("duplicated_data_order", "data.sampler", evidence, cause)
