"""What reads each slot in the training text: how often, and the places where it gets the most weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memlm.evaluate.loss import spread_starts
from memlm.memory.base import MemoryRead
from memlm.model.decoder import Decoder

TOP = 4
"""Places kept for a slot. A million slots with 8 layers take about 160 MB."""
BATCH_TOKENS = 4096
"""Tokens in one forward pass."""


@dataclass(frozen=True)
class Contexts:
    """What reads the slots of one bank.

    Attributes:
        layers: The layers that read the bank, [L] int64.
        reads: How often each of them read each slot, [L, S] int64.
        weight: The sum of the weights of these reads, [L, S] float32.
        top_position: Positions in the training tokens at which the slot got most weight, the highest first, -1 where
            there are fewer, [S, TOP] int64. A position counts once, with its highest weight of all layers and heads.
        top_weight: The weights there, [S, TOP] float32.
        top_layer: The layers that read there, [S, TOP] int64.
    """

    layers: Tensor
    reads: Tensor
    weight: Tensor
    top_position: Tensor
    top_weight: Tensor
    top_layer: Tensor

    @classmethod
    def empty(cls, layers: list[int], n_slots: int, device: torch.device) -> Contexts:
        """Returns what is known before anything was read."""
        return cls(
            layers=torch.tensor(layers, device=device),
            reads=torch.zeros(len(layers), n_slots, dtype=torch.int64, device=device),
            weight=torch.zeros(len(layers), n_slots, device=device),
            top_position=torch.full((n_slots, TOP), -1, dtype=torch.int64, device=device),
            top_weight=torch.full((n_slots, TOP), -torch.inf, device=device),
            top_layer=torch.full((n_slots, TOP), -1, dtype=torch.int64, device=device),
        )

    @property
    def n_slots(self) -> int:
        """Slots of the bank, S."""
        return self.reads.shape[1]

    def add(self, reads: dict[int, MemoryRead], positions: Tensor) -> None:
        """Counts a batch: what its layers read, and the position of each token [B, T]; none comes twice."""
        slots, places, weights, layers = [], [], [], []
        for row, layer in enumerate(self.layers.tolist()):
            read = reads[layer]
            slots.append(read.slots.flatten())
            weights.append(read.weights.flatten().float())
            places.append(positions[..., None, None].expand(read.slots.shape).flatten())
            layers.append(torch.full_like(slots[-1], layer))
            self.reads[row] += torch.bincount(slots[-1], minlength=self.n_slots)
            self.weight[row].index_add_(0, slots[-1], weights[-1])
        self._keep_highest(torch.cat(slots), torch.cat(weights), torch.cat(places), torch.cat(layers))

    def _keep_highest(self, slots: Tensor, weights: Tensor, positions: Tensor, layers: Tensor) -> None:
        """Merges reads, each [R], into the places that are kept."""
        may_stay = weights > self.top_weight[slots, -1]  # soon that is a small part of them
        slots, weights, positions, layers = (each[may_stay] for each in (slots, weights, positions, layers))
        order = _sorted_by(weights.neg(), positions, slots)
        slots, weights, positions, layers = (each[order] for each in (slots, weights, positions, layers))
        first = _differs((slots, positions))  # the highest weight of a slot at a position
        slots, weights, positions, layers = (each[first] for each in (slots, weights, positions, layers))
        order = _sorted_by(weights.neg(), slots)
        slots, weights, positions, layers = (each[order] for each in (slots, weights, positions, layers))
        starts = _differs((slots,)).nonzero().flatten()
        changed, counts = slots[starts], starts.diff(append=starts.new_tensor([len(slots)]))
        rank = torch.arange(len(slots), device=slots.device) - starts.repeat_interleave(counts)
        row = torch.arange(len(starts), device=slots.device).repeat_interleave(counts)
        kept = rank < TOP
        known = (self.top_weight, self.top_position, self.top_layer)
        both: list[Tensor] = []
        for old, new in zip(known, (weights, positions, layers), strict=True):
            missing = old.new_full((len(starts), TOP), -torch.inf if old.is_floating_point() else -1)
            missing[row[kept], rank[kept]] = new[kept]
            both.append(torch.cat([old[changed], missing], dim=1))
        best = both[0].sort(dim=1, descending=True, stable=True).indices[:, :TOP]
        for old, joined in zip(known, both, strict=True):
            old[changed] = joined.gather(1, best)


def find_contexts(
    decoder: Decoder, ids: np.ndarray, seq_len: int, max_tokens: int, progress: Callable[[int, int], None]
) -> list[Contexts]:
    """Reads up to ``max_tokens`` of the training text, spread evenly over it, and returns what each bank's slots met.

    Args:
        decoder: The model, in eval mode.
        ids: The training tokens [n_tokens].
        seq_len: Tokens that the model sees at a time, as in training.
        max_tokens: How many to read.
        progress: Is told how many tokens of how many are done.
    """
    device = decoder.embedding.weight.device
    readers = [
        [layer for layer in range(len(decoder.blocks)) if decoder.bank_of(layer) is bank] for bank in decoder.banks
    ]
    found = [Contexts.empty(layers, decoder.config.memory.n_slots, device) for layers in readers]
    starts = spread_starts(len(ids), seq_len, max_tokens)
    progress(0, len(starts) * seq_len)
    for done, positions in _batches(starts, seq_len):
        tokens = torch.from_numpy(ids[positions].astype(np.int64)).to(device)
        with torch.inference_mode():
            reads = decoder(tokens).reads
            for contexts in found:
                contexts.add(reads, torch.from_numpy(positions).to(device))
        progress(done * seq_len, len(starts) * seq_len)
    return [Contexts(**{name: tensor.cpu() for name, tensor in vars(contexts).items()}) for contexts in found]


def _batches(starts: np.ndarray, seq_len: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields how many sequences are done with each batch, and the positions of its tokens [B, T]."""
    size = max(1, BATCH_TOKENS // seq_len)
    for begin in range(0, len(starts), size):
        part = starts[begin : begin + size]
        yield begin + len(part), part[:, None] + np.arange(seq_len)


def _sorted_by(*keys: Tensor) -> Tensor:
    """Returns the order of rows by the last key, within it by the one before, and so on; ties stay as they were."""
    order = keys[0].argsort(stable=True)
    for key in keys[1:]:
        order = order[key[order].argsort(stable=True)]
    return order


def _differs(keys: tuple[Tensor, ...]) -> Tensor:
    """Tells which rows of sorted keys are not like the row before."""
    first = torch.ones_like(keys[0], dtype=torch.bool)
    first[1:] = torch.stack([key.diff() != 0 for key in keys]).any(0)
    return first
