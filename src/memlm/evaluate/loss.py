"""Held-out loss, and in the same pass how the memory was used."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch

from memlm.evaluate.usage import UsageCounter
from memlm.model.decoder import Decoder
from memlm.model.loss import summed_loss


def spread_starts(n_tokens: int, seq_len: int, max_tokens: int) -> np.ndarray:
    """Returns where sequences start that are spread evenly over ``n_tokens`` tokens and hold up to ``max_tokens``, [N].

    Each start is a multiple of ``seq_len``, as in training.
    """
    available = (n_tokens - 1) // seq_len
    wanted = min(available, max(1, max_tokens // seq_len))
    return np.arange(wanted) * available // wanted * seq_len


def spread_sequences(ids: np.ndarray, seq_len: int, max_tokens: int) -> np.ndarray:
    """Cuts up to ``max_tokens`` tokens of ``ids`` into sequences spread evenly over it.

    The choice depends on the sizes alone, so every model and seed is measured on the same text.

    Returns:
        Inputs and, shifted by one, targets: [N, seq_len + 1] int64.
    """
    starts = spread_starts(len(ids), seq_len, max_tokens)
    return np.stack([ids[s : s + seq_len + 1] for s in starts]).astype(np.int64)


@torch.inference_mode()
def mean_loss(decoder: Decoder, sequences: np.ndarray, batch_size: int, usage: UsageCounter | None = None) -> float:
    """Returns the loss in nats per token over all targets of ``sequences`` [N, T + 1], in eval mode.

    Args:
        decoder: The model; its mode is restored.
        sequences: As `spread_sequences` returns them.
        batch_size: Sequences in a batch; the last may be smaller, and every token counts the same.
        usage: Counts how the memory layers read, if given.
    """
    device = decoder.embedding.weight.device
    was_training = decoder.training
    decoder.eval()
    total = 0.0
    with nullcontext() if usage is None else usage.watching(decoder):
        for start in range(0, len(sequences), batch_size):
            batch = torch.from_numpy(sequences[start : start + batch_size]).to(device)
            total += summed_loss(decoder(batch[:, :-1]).hidden, decoder.output_weight, batch[:, 1:]).item()
    decoder.train(was_training)
    return total / (sequences.shape[0] * (sequences.shape[1] - 1))
