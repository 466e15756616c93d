"""AdamW with the parameter groups that a memory needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from memlm.config.train import TrainConfig
from memlm.memory.base import Bank, Memory


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Sorts parameters into values, decayed matrices and the rest.

    Values have their own learning rate and no decay: AdamW's decay would wear away the rows that no token reads. Keys,
    embeddings, norms, biases and scales have no decay either.
    """
    values = {id(p) for m in model.modules() if isinstance(m, Bank) for p in m.parameters()}
    spared = {
        id(p) for m in model.modules() if isinstance(m, (Memory, nn.Embedding)) for p in m.parameters(recurse=False)
    }
    groups: dict[str, list[nn.Parameter]] = {"values": [], "decay": [], "no_decay": []}
    for parameter in model.parameters():
        if id(parameter) in values:
            groups["values"].append(parameter)
        elif parameter.ndim < 2 or id(parameter) in spared:
            groups["no_decay"].append(parameter)
        else:
            groups["decay"].append(parameter)
    return [
        {
            "name": name,
            "params": params,
            "lr": peak_lr(name, config),
            "weight_decay": config.weight_decay if name == "decay" else 0.0,
        }
        for name, params in groups.items()
        if params
    ]


def peak_lr(group: str, config: TrainConfig) -> float:
    """Returns the peak learning rate of a parameter group."""
    return config.value_lr or config.lr if group == "values" else config.lr


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Returns AdamW over the model's groups, in torch's fused form."""
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, betas=config.betas, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, factor: float) -> None:
    """Gives each group ``factor`` of its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = factor * peak_lr(group["name"], config)


def freeze_values(model: nn.Module) -> None:
    """Stops the values of every bank from learning; the optimizer leaves parameters without a gradient alone."""
    for module in model.modules():
        if isinstance(module, Bank):
            for parameter in module.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None
