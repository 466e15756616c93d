"""The training loss as sums over tokens, so that micro-steps and ranks of any size add up to one mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from memlm.model.decoder import Decoder

CHUNK = 1 << 26
"""Logits that exist at a time; 2**26 of 16 bits are 128 MiB, and one matrix product of them keeps a GPU busy."""


class _Chunked(torch.autograd.Function):
    """Computes the gradients with the loss, chunk by chunk, so that no logits are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_learns, weight_learns, _ = ctx.needs_input_grad
        total = torch.zeros((), device=hidden.device)
        grad_weight = torch.zeros_like(weight)
        grads: list[Tensor] = []
        rows = max(1, CHUNK // weight.shape[0])
        for part, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = F.linear(part, weight)
            scores = logits.float()
            norm = scores.logsumexp(-1)
            total = total + (norm - scores.gather(-1, wanted[:, None])[:, 0]).sum()
            if hidden_learns or weight_learns:
                # Away from the target a logit's gradient is its probability, at the target that less one.
                share = (scores - norm[:, None]).exp()
                hit = wanted[:, None] == torch.arange(weight.shape[0], device=wanted.device)
                grad = torch.where(hit, share - 1, share).to(logits.dtype)
                if hidden_learns:
                    grads.append(grad @ weight.to(logits.dtype))
                if weight_learns:
                    grad_weight += grad.T @ part.to(logits.dtype)
        ctx.save_for_backward(torch.cat(grads).to(hidden.dtype) if grads else None, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight = ctx.saved_tensors
        return None if hidden is None else (hidden * grad).to(hidden.dtype), weight * grad, None


def summed_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Returns the summed cross-entropy of ``hidden @ weight.T`` with the targets, in nats, float32.

    Args:
        hidden: The decoder's output, [B, T, D].
        weight: The output matrix, [V, D].
        targets: Tokens, [B, T].
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    if len(targets) * len(weight) <= CHUNK:
        return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
    if not torch.is_grad_enabled():
        weight = weight.detach()  # or its gradient would be computed in vain
    return _Chunked.apply(hidden, weight, targets)  # pyright: ignore[reportReturnType]


class TokenLoss(nn.Module):
    """A decoder with its loss; only scalars leave it, so logits never outlive the forward pass.

    Args:
        decoder: The decoder to train.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the summed cross-entropy in nats and the load-balance loss.

        Args:
            sequences: [B, T + 1] tokens; the first T are inputs, the last T targets.
        """
        output = self.decoder(sequences[:, :-1])
        return summed_loss(output.hidden, self.decoder.output_weight, sequences[:, 1:]), output.balance_loss
