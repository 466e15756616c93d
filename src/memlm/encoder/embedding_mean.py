"""An entry as the mean of its tokens' embeddings: no order, and nothing to learn but one matrix."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from memlm.encoder.base import Encoder, EncoderConfig
from memlm.registry import ENCODERS


@ENCODERS.register
class EmbeddingMeanConfig(EncoderConfig):
    """The mean of the model's own embeddings of an entry's tokens, RMS-normed and projected to d_value."""

    type: Literal["embedding_mean"]

    def build(self, d_model: int, d_value: int) -> EmbeddingMean:
        """Returns the module."""
        return EmbeddingMean(d_model, d_value)


class EmbeddingMean(Encoder):
    """``value = W rms(mean of embeddings)``.

    Args:
        d_model: Width of the embeddings, D.
        d_value: Width of a value.
    """

    def __init__(self, d_model: int, d_value: int) -> None:
        super().__init__()
        self.projection = nn.Linear(d_model, d_value, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the matrix from N(0, 1 / (D * d_value))."""
        nn.init.normal_(self.projection.weight, std=self.projection.weight.numel() ** -0.5)

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Returns the values [N, d_value]."""
        is_token = tokens >= 0
        share = is_token / is_token.sum(1, keepdim=True).clamp_min(1)
        # The bag never holds [N, E, D], which would be 64 KiB for an entry of 32 tokens, 512 wide.
        mean = F.embedding_bag(tokens.clamp_min(0), embedding, mode="sum", per_sample_weights=share.to(embedding.dtype))
        return self.projection(F.rms_norm(mean, mean.shape[-1:]))
