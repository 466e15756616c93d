"""Product keys whose scores do not compete: weights by ReLU (Csordás et al. 2023, arXiv:2310.10837).

Softmax makes the K slots of a head share one unit of weight; here each is weighed for itself, so a head can also read
nothing.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from memlm.memory.product_key import ProductKeyConfig, ProductKeyMemory, unit_scale
from memlm.registry import MEMORIES


@MEMORIES.register
class ProductKeyReluConfig(ProductKeyConfig):
    """A product-key memory with weights relu(score) / K; a score below zero is a read of zero."""

    type: Literal["product_key_relu"]

    @property
    def is_normalised(self) -> bool:
        """Weights are not made to sum to one."""
        return False

    def build(self, d_model: int) -> ProductKeyRelu:
        """Returns the module that selects slots from hidden states of width ``d_model``."""
        return ProductKeyRelu(self, d_model)


class ProductKeyRelu(ProductKeyMemory):
    """Selects as `ProductKeyMemory` does, and weighs by ReLU.

    A slot whose score is negative has weight zero and sends no gradient to its keys. At the start the best of M * M
    random scores are positive, and their scale is such that a head's weights sum to about 0.7.
    """

    def reset_parameters(self) -> None:
        """As in `ProductKeyMemory`, but for the scale."""
        super().reset_parameters()
        nn.init.constant_(self.scale, unit_scale(self.config.n_keys))

    def weigh(self, scores: Tensor) -> Tensor:
        """Returns relu(score) / K for ``scores`` [..., K]."""
        return F.relu(scores) / self.config.top_k
