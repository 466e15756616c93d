"""Product keys whose scores do not compete: weights by sigmoid.

That is how sigma-MoE weighs experts (Csordás et al. 2023, arXiv:2310.10837); the paper does not try it on product keys.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from memlm.memory.product_key import ProductKeyConfig, ProductKeyMemory, unit_scale
from memlm.registry import MEMORIES


@MEMORIES.register
class ProductKeySigmoidConfig(ProductKeyConfig):
    """A product-key memory with weights sigmoid(score) / K."""

    type: Literal["product_key_sigmoid"]

    @property
    def is_normalised(self) -> bool:
        """Weights are not made to sum to one."""
        return False

    def build(self, d_model: int) -> ProductKeySigmoid:
        """Returns the module that selects slots from hidden states of width ``d_model``."""
        return ProductKeySigmoid(self, d_model)


class ProductKeySigmoid(ProductKeyMemory):
    """Selects as `ProductKeyMemory` does, and weighs by sigmoid.

    The best of M * M scores would saturate it from the start, so the scale begins where they are about one: a head's
    weights then sum to about 0.7.
    """

    def reset_parameters(self) -> None:
        """As in `ProductKeyMemory`, but for the scale."""
        super().reset_parameters()
        nn.init.constant_(self.scale, unit_scale(self.config.n_keys))

    def weigh(self, scores: Tensor) -> Tensor:
        """Returns sigmoid(score) / K for ``scores`` [..., K]."""
        return scores.sigmoid() / self.config.top_k
