"""Feed-forward layers: SwiGLU (Shazeer 2020, arXiv:2002.05202) and a mixture of SwiGLU experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.model.config import ExpertsConfig, ModelConfig

ALIGNED = 8
"""Widths of grouped products are multiples of this: a GPU loads 16 bytes at a time."""


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
        tokens, n_experts, top_k = hidden.flatten(0, -2), self.config.n_experts, self.config.top_k  # [N, D]
        probabilities = self.router(tokens).float().softmax(dim=-1)  # [N, E]
        weights, chosen = probabilities.topk(top_k, dim=-1)
        if top_k > 1:  # a single weight would become 1 and carry no gradient to the router
            weights = weights / weights.sum(dim=-1, keepdim=True)
        is_chosen = F.one_hot(chosen, n_experts)  # [N, K, E]
        order = chosen.flatten().argsort(stable=True)  # all visits, expert by expert
        updates = self._visited(tokens.index_select(0, order // top_k), is_chosen.sum(dim=(0, 1)))
        updates = updates.index_select(0, order.argsort()).unflatten(0, (-1, top_k))  # [N, K, D]
        output = (updates * weights[..., None]).sum(dim=1).to(tokens.dtype)
        share = is_chosen.float().mean(dim=(0, 1))
        balance = n_experts * (share * probabilities.mean(dim=0)).sum()
        return output.view_as(hidden), self.config.balance_weight * balance

    def _visited(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Returns what the experts make of tokens that are sorted by expert.

        Args:
            tokens: [N * K, D].
            counts: Tokens of each expert, [E].
        """
        device = tokens.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
        if dtype != torch.bfloat16:  # torch's grouped product is of that alone; here the host waits for the counts
            parts = tokens.split(counts.tolist())
            return torch.cat([expert(part)[0] for expert, part in zip(self.experts, parts, strict=True)])
        ends = counts.cumsum(dim=0, dtype=torch.int32)
        gate, up, down = (
            torch.stack([getattr(expert, name).weight for expert in self.experts]) for name in ("gate", "up", "down")
        )
        return _grouped(F.silu(_grouped(tokens, gate, ends)) * _grouped(tokens, up, ends), down, ends)


def _grouped(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Multiplies groups of rows in bfloat16, each by a matrix of its own.

    Args:
        rows: [N, I], group after group.
        weights: As of linear layers, [E, O, I].
        ends: Where each group ends, [E] int32.

    Returns:
        [N, O], bfloat16.
    """
    width = weights.shape[1]
    over_out, over_in = (-size % ALIGNED for size in weights.shape[1:])
    if over_out or over_in:
        rows, weights = F.pad(rows, (0, over_in)), F.pad(weights, (0, over_in, 0, over_out))
    return F.grouped_mm(rows.bfloat16(), weights.bfloat16().transpose(1, 2), offs=ends)[:, :width]


def build_feed_forward(config: ModelConfig) -> FeedForward | MixtureOfExperts:
    """Returns the feed-forward layer that the configuration asks for."""
    if config.experts is None:
        return FeedForward(config.d_model, config.feed_forward_width)
    return MixtureOfExperts(config.experts, config.d_model, config.feed_forward_width)
