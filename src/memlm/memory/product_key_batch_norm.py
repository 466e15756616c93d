"""Product keys with BatchNorm on the query (Lample et al. 2019, arXiv:1907.05242, section 3.1; PEER, arXiv:2407.04153).

It spreads the reads over more slots, and it makes a token's reads depend on all tokens of the batch, later ones among
them, while training. So it is here to be compared with, and says of itself what it breaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from memlm.config.checks import FaultName
from memlm.memory.product_key import ProductKeyConfig, ProductKeyMemory
from memlm.registry import MEMORIES

MOMENTUM = 0.1
"""Share of a batch in the running statistics."""
EPSILON = 1e-5
"""Added to the variance."""

REASON = "queries are normed by the statistics of the batch while training"


@MEMORIES.register
class ProductKeyBatchNormConfig(ProductKeyConfig):
    """A product-key memory whose queries go through BatchNorm in the place of their RMS norm."""

    type: Literal["product_key_batch_norm"]
    query_norm: bool = False
    """Must stay false: BatchNorm takes its place."""

    @property
    def expected_to_break(self) -> Mapping[FaultName, str]:
        """What batch statistics break."""
        faults: tuple[FaultName, ...] = (
            "future_leak_in_training",
            "batch_dependence_in_training",
            "train_eval_mismatch",
        )
        return dict.fromkeys(faults, REASON)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        yield from super().problems()
        if self.query_norm:
            yield "query_norm", "has no effect, because BatchNorm takes its place"

    def build(self, d_model: int) -> ProductKeyBatchNorm:
        """Returns the module that selects slots from hidden states of width ``d_model``."""
        return ProductKeyBatchNorm(self, d_model)


class ProductKeyBatchNorm(ProductKeyMemory):
    """Selects as `ProductKeyMemory` does, by queries that are normed over the tokens of the batch.

    Args:
        config: The memory's configuration.
        d_model: Width of the hidden states, D.
    """

    def __init__(self, config: ProductKeyBatchNormConfig, d_model: int) -> None:
        super().__init__(config, d_model)
        self.norm = BatchNorm(config.n_heads * config.d_key)

    def reset_parameters(self) -> None:
        """As in `ProductKeyMemory`; the norm as it is new."""
        super().reset_parameters()
        if hasattr(self, "norm"):  # not yet while the parent is made
            self.norm.reset_parameters()

    def normed(self, query: Tensor) -> Tensor:
        """Returns the normed queries [N, H, 2, C]."""
        return self.norm(query.flatten(1)).view_as(query)


class BatchNorm(nn.Module):
    """Norms each component over the tokens of the batch, in eval mode by running statistics (arXiv:1502.03167).

    Unlike torch's it takes a single token too, and numbers that are not finite do not spoil the running statistics for
    good: the loop leaves such a step out, and the model must stay as it was.

    Args:
        width: Components.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.register_buffer("mean", torch.empty(width))
        self.register_buffer("variance", torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mean and bias zero, variance and weight one."""
        for tensor, start in ((self.mean, 0.0), (self.bias, 0.0), (self.variance, 1.0), (self.weight, 1.0)):
            nn.init.constant_(tensor, start)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normed ``x`` [N, width]."""
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = x.mean(0), x.var(0, correction=0)
            for running, now in ((self.mean, mean.detach()), (self.variance, variance.detach())):
                running.copy_(running.lerp(now, MOMENTUM).where(now.isfinite(), running))
        return (x - mean) * (variance + EPSILON).rsqrt() * self.weight + self.bias
