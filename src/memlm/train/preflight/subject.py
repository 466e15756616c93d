"""The model that the checks look at: a small copy, as initialised or moved away from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.memory.base import Memory
from memlm.model.config import ModelConfig

VOCABULARY = 61
BATCH, LENGTH = 3, 13
"""No other axis of the small copy has these sizes, so an axis is known by its size."""

EvaluateLoss = Callable[[MemlmForCausalLM, np.ndarray], float]
"""Returns the evaluation's loss in nats per token for sequences [N, T + 1]."""


@dataclass(frozen=True)
class Subject:
    """What a check is given.

    Attributes:
        config: The small copy's configuration.
        seed: Decides weights and tokens.
        device: The device that the run will use; only kernels are tried on it.
        evaluate_loss: The run's evaluation, None if it is not given.
    """

    config: ModelConfig
    seed: int
    device: torch.device
    evaluate_loss: EvaluateLoss | None = None

    def fresh(self, shape: ModelConfig | None = None) -> MemlmForCausalLM:
        """Returns a model in float32 on the CPU as training would start from it, in train mode.

        Args:
            shape: Another configuration than the small copy's.
        """
        torch.manual_seed(self.seed)
        fields = (shape or self.config).model_dump(mode="json", exclude_unset=True)
        config = MemlmConfig(fields, VOCABULARY, LENGTH, bos_token_id=0, eos_token_id=0, pad_token_id=1)
        return MemlmForCausalLM(config).float().train()

    def moved(self) -> MemlmForCausalLM:
        """Returns a model in eval mode whose every parameter matters: norms and scales leave one, gates leave zero."""
        model = self.fresh()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        return model.eval()

    def tokens(self, batch: int = BATCH, length: int = LENGTH, draw: int = 0) -> Tensor:
        """Returns random tokens [batch, length]; another ``draw`` gives others."""
        generator = torch.Generator().manual_seed(1000 * self.seed + draw)
        return torch.randint(2, VOCABULARY, (batch, length), generator=generator)


def memories(model: nn.Module) -> dict[str, Memory]:
    """Returns the memories of a model by qualified name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Memory)}
