"""Held-out loss, and in the same pass how the memory was used."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from memlm.evaluate.usage import UsageCounter
from memlm.model.decoder import Decoder
from memlm.model.loss import CHUNK


def spread_starts(n_tokens: int, seq_len: int, max_tokens: int) -> np.ndarray:
    """Returns where sequences of up to ``max_tokens`` tokens together begin, spread evenly over a text: [N].

    The choice depends on the sizes alone, so every model and seed is measured on the same text. Each is a multiple of
    ``seq_len``, as in training.
    """
    available = (n_tokens - 1) // seq_len
    wanted = min(available, max(1, max_tokens // seq_len))
    return np.arange(wanted) * available // wanted * seq_len


def spread_sequences(ids: np.ndarray, seq_len: int, max_tokens: int) -> np.ndarray:
    """Cuts up to ``max_tokens`` tokens of ``ids`` into sequences that begin at `spread_starts`.

    Returns:
        Inputs and, shifted by one, targets: [N, seq_len + 1] int64.
    """
    starts = spread_starts(len(ids), seq_len, max_tokens)
    return np.stack([ids[s : s + seq_len + 1] for s in starts]).astype(np.int64)


def mean_loss(decoder: Decoder, sequences: np.ndarray, batch_size: int, usage: UsageCounter | None = None) -> float:
    """Returns the mean of `token_losses`, in nats per token; arguments as there."""
    return float(token_losses(decoder, sequences, batch_size, usage).mean(dtype=np.float64))


@torch.inference_mode()
def token_losses(
    decoder: Decoder, sequences: np.ndarray, batch_size: int, usage: UsageCounter | None = None
) -> np.ndarray:
    """Returns the loss in nats of every target of ``sequences`` [N, T + 1], in eval mode: [N, T] float32.

    Args:
        decoder: The model; its mode is restored.
        sequences: As `spread_sequences` returns them.
        batch_size: Sequences in a batch; the last may be smaller, and every token counts the same.
        usage: Counts how the memory layers read, if given.
    """
    device = decoder.embedding.weight.device
    was_training = decoder.training
    decoder.eval()
    found: list[Tensor] = []
    with nullcontext() if usage is None else usage.watching(decoder):
        for start in range(0, len(sequences), batch_size):
            batch = torch.from_numpy(sequences[start : start + batch_size]).to(device)
            found.append(_losses(decoder(batch[:, :-1]).hidden, decoder.output_weight, batch[:, 1:]).cpu())
    decoder.train(was_training)
    return torch.cat(found).numpy()


def _losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross-entropy of every target [B, T], with no more logits at a time than training has."""
    rows = max(1, CHUNK // len(weight))
    parts = zip(hidden.flatten(0, 1).split(rows), targets.flatten().split(rows), strict=True)
    losses = [F.cross_entropy(F.linear(part, weight).float(), wanted, reduction="none") for part, wanted in parts]
    return torch.cat(losses).view_as(targets)
