"""The training loss as sums over tokens, so that micro-steps and ranks of any size add up to one mean."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from memlm.model.decoder import Decoder


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the summed cross-entropy in nats of ``logits`` [B, T, V] with ``targets`` [B, T], in float32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")


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
        return summed_loss(self.decoder.logits(output.hidden), sequences[:, 1:]), output.balance_loss
