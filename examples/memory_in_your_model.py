"""A product-key memory in ten lines of your own model: read, join, add to the residual stream."""

import torch
from torch import nn

from memlm.bank.vectors import VectorBank
from memlm.fusion.weighted_sum import WeightedSum
from memlm.memory.product_key import ProductKeyConfig, ProductKeyMemory


class YourBlock(nn.Module):
    """Any block of any model; 4,096 slots are read, 8 of them for each token."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        config = ProductKeyConfig(type="product_key", n_keys=64, top_k=8, d_value=32)
        self.norm = nn.RMSNorm(d_model)
        self.bank = VectorBank(config.n_slots, config.value_width)
        self.memory = ProductKeyMemory(config, d_model)
        self.fusion = WeightedSum(d_model, config.value_width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the residual stream [B, T, D] after the block."""
        normed = self.norm(hidden)
        return hidden + self.fusion(normed, self.memory(normed, self.bank))


def main() -> None:
    """Takes a training step and says how many slots it has changed."""
    torch.manual_seed(0)
    block = YourBlock(d_model=48)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    before = block.bank.values.detach().clone()
    block(torch.randn(2, 16, 48)).square().mean().backward()
    optimizer.step()
    changed = (block.bank.values != before).any(dim=1).sum()
    print(f"{changed} of {len(before)} slots changed")


if __name__ == "__main__":
    main()
