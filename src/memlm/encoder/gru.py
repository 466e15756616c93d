"""An entry as the last state of a small recurrent network, which reads its tokens in order (arXiv:1406.1078)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from memlm.encoder.base import Encoder, EncoderConfig
from memlm.registry import ENCODERS


@ENCODERS.register
class GruConfig(EncoderConfig):
    """The last state of a GRU over the model's own embeddings of an entry's tokens, projected to d_value."""

    type: Literal["gru"]

    def build(self, d_model: int, d_value: int) -> Gru:
        """Returns the module."""
        return Gru(d_model, d_value)


class Gru(Encoder):
    """``value = W rms(h_n)``, with the states h of a GRU as wide as a value; they are causal by their making.

    Args:
        d_model: Width of the embeddings, D.
        d_value: Width of a value.
    """

    def __init__(self, d_model: int, d_value: int) -> None:
        super().__init__()
        self.states = nn.GRU(d_model, d_value, batch_first=True)
        self.projection = nn.Linear(d_value, d_value, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Recurrent part uniform within 1/sqrt(d_value), as torch draws it; the matrix from N(0, 1 / d_value^2)."""
        bound = self.states.hidden_size**-0.5
        for parameter in self.states.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        nn.init.normal_(self.projection.weight, std=self.projection.weight.numel() ** -0.5)

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Returns the values [N, d_value]."""
        is_token = tokens >= 0
        embedded = F.embedding(tokens.clamp_min(0), embedding)
        states, _ = self.states(F.rms_norm(embedded, embedded.shape[-1:]))  # [N, E, d_value]
        last = (is_token.sum(1) - 1).clamp_min(0)[:, None, None].expand(-1, 1, states.shape[2])
        state = states.gather(1, last)[:, 0] * is_token.any(1, keepdim=True)
        return self.projection(F.rms_norm(state, state.shape[-1:]))
