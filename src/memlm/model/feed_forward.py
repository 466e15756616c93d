"""Feed-forward layers: SwiGLU (Shazeer 2020, arXiv:2002.05202) and a mixture of SwiGLU experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.model.config import ExpertsConfig, ModelConfig


class FeedForward(nn.Module):
    """``down(silu(gate(x)) * up(x))``.

    Args:
        d_model: Width of input and output, D.
        d_ff: Hidden width.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the update [..., D] and a balance loss of zero."""
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden)), hidden.new_zeros((), dtype=torch.float32)


class MixtureOfExperts(nn.Module):
    """Each token goes through the ``top_k`` experts that a linear router scores highest, weighted by their softmax.

    The balance loss is ``E * sum_e share_e * probability_e`` (arXiv:2101.03961, equation 4): 1 when tokens and
    probabilities are spread evenly over the E experts.

    Args:
        config: The mixture's configuration.
        d_model: Width of input and output, D.
        d_ff: Hidden width of an expert.
    """

    def __init__(self, config: ExpertsConfig, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(d_model, config.n_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(d_model, d_ff) for _ in range(config.n_experts))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the update [B, T, D] and the balance loss times its weight."""
        tokens = hidden.flatten(0, -2)  # [N, D]
        probabilities = self.router(tokens).float().softmax(dim=-1)  # [N, E]
        weights, chosen = probabilities.topk(self.config.top_k, dim=-1)
        if self.config.top_k > 1:  # a single weight would become 1 and carry no gradient to the router
            weights = weights / weights.sum(dim=-1, keepdim=True)
        output = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows, ranks = (chosen == index).nonzero(as_tuple=True)
            update, _ = expert(tokens[rows])
            output.index_add_(0, rows, (update * weights[rows, ranks, None]).to(output.dtype))
        share = F.one_hot(chosen, self.config.n_experts).float().mean(dim=(0, 1))
        balance = self.config.n_experts * (share * probabilities.mean(dim=0)).sum()
        return output.view_as(hidden), self.config.balance_weight * balance


def build_feed_forward(config: ModelConfig) -> FeedForward | MixtureOfExperts:
    """Returns the feed-forward layer that the configuration asks for."""
    if config.experts is None:
        return FeedForward(config.d_model, config.feed_forward_width)
    return MixtureOfExperts(config.experts, config.d_model, config.feed_forward_width)
