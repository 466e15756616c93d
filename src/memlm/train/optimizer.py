"""AdamW with the parameter groups that a memory needs."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import nn

from memlm.bank.base import Bank
from memlm.bank.vectors import VectorBank
from memlm.config.train import TrainConfig
from memlm.errors import RunError
from memlm.kernels.compact import CompactGradient
from memlm.memory.base import Memory
from memlm.model.decoder import Decoder
from memlm.offload.trained import TrainedOnHost, keep_on_host
from memlm.train.columns import ColumnBank
from memlm.train.schedule import lr_factor

logger = logging.getLogger(__name__)

GROUPS = ("values", "decay", "no_decay", "router_decay", "router_no_decay")
"""The parameter groups; those of a router are what decides which slots are read."""
COMPACT_SHARE = 0.65
"""Up to this share of a bank's rows read in a step its gradient is compact.

Bytes in float32, for a number of the bank, in a dense step: 4 to clear the gradient, 4 for its norm, 28 for AdamW, and
4 more where it was read. In a compact step: 32 where it was read, and 8 (clear, norm) for a number of the list, which
is at most as long as the bank. So bytes alone speak for it up to 0.9 and more; the margin is for the positions,
assigned in each layer and micro-step by a dozen small kernels, and for rows that lie anywhere.
"""
COMPACT_SIZE = 1 << 23
"""Below so many numbers a dense step of the bank takes under 0.2 ms on an H100, no longer than to assign positions."""


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Sorts parameters into values, routers and the rest, and the latter two into decayed matrices and others.

    Values have their own learning rate and no decay: AdamW's decay would wear away the rows that no token reads. Keys,
    embeddings, norms, biases and scales have no decay either.
    """
    values = {id(p) for m in model.modules() if isinstance(m, Bank) for p in m.parameters(recurse=False)}
    spared = {
        id(p) for m in model.modules() if isinstance(m, (Memory, nn.Embedding)) for p in m.parameters(recurse=False)
    }
    routers = {id(p) for m in model.modules() if isinstance(m, Memory) for p in m.parameters()}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for parameter in model.parameters():
        if id(parameter) in values:
            groups["values"].append(parameter)
            continue
        has_decay = parameter.ndim > 1 and id(parameter) not in spared
        owner = "router_" if id(parameter) in routers else ""
        groups[f"{owner}{'decay' if has_decay else 'no_decay'}"].append(parameter)
    return [
        {
            "name": name,
            "params": params,
            "lr": peak_lr(name, config),
            "weight_decay": config.weight_decay if name in ("decay", "router_decay") else 0.0,
        }
        for name, params in groups.items()
        if params
    ]


def peak_lr(group: str, config: TrainConfig) -> float:
    """Returns the peak learning rate of a parameter group."""
    own = config.value_lr if group == "values" else config.router_lr if group.startswith("router") else None
    return config.lr if own is None else own


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Returns AdamW over the model's groups, in torch's fused form."""
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, betas=config.betas, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, steps: int) -> None:
    """Gives each group the learning rate that it has at ``step`` (from 0) of ``steps``."""
    for group in optimizer.param_groups:
        low = config.min_value_lr_share if group["name"] == "values" else None
        group["lr"] = peak_lr(group["name"], config) * lr_factor(step, steps, config, low)


def compact_gradients(decoder: Decoder, tokens: int, ranks: int = 1, accumulation: int = 1) -> None:
    """Gives a compact gradient to every bank on the host, and to those of which a step reads a small enough part.

    Args:
        decoder: The model.
        tokens: Tokens of an optimizer step.
        ranks: Processes that share them.
        accumulation: Micro-steps that share them.

    Raises:
        RunError: values have 16 bits, on an Apple GPU.
    """
    on_apple = decoder.embedding.weight.device.type == "mps"
    for bank in (module for module in decoder.banks if isinstance(module, VectorBank)):
        if bank.has_16_bits and on_apple:
            raise RunError("bank.dtype is bfloat16, which is not for Apple GPUs; leave it out, or use train.device=cpu")
        layers = sum(decoder.bank_of(layer) is bank for layer in decoder.config.memory_layers)
        reads = layers * decoder.config.memory.n_reads * tokens
        if isinstance(bank, TrainedOnHost):
            bank.make_room(min(reads, bank.n_slots), sums_dtype(bank, layers * accumulation))
        else:
            of_ranks = 1 if isinstance(bank, ColumnBank) else ranks
            give_compact_gradient(bank, reads, of_ranks, layers * accumulation)


def sums_dtype(bank: VectorBank, parts: int) -> torch.dtype:
    """Returns what a bank's compact gradient adds up in, where so many layers and micro-steps of a step add to it.

    Sums of many reads are float32's until they are written. Where nothing else is added to them they are written in the
    16 bits of the values, if those have so few; else digits would be lost with every part, and float32 keeps them.
    """
    return bank.values.dtype if parts == 1 else torch.promote_types(bank.values.dtype, torch.float32)


def give_compact_gradient(bank: VectorBank, reads: int, ranks: int = 1, parts: int = 1) -> None:
    """Gives a bank a compact gradient if ``reads`` of it in a step, over all ranks, are a part that is small enough.

    Reads are taken to be spread evenly, as those of a memory that works are; any other spread reads fewer rows. Apple
    GPUs, on which none of this was tried, keep dense gradients. Values of 16 bits always have a compact one, because
    only the update by rows rounds them at random.

    Args:
        bank: The bank.
        reads: Of a step, over all ranks.
        ranks: Processes that share them.
        parts: Layers and micro-steps whose gradients of the bank add up.
    """
    share = -math.expm1(-reads / bank.n_slots)
    is_worth = share <= COMPACT_SHARE and bank.values.numel() >= COMPACT_SIZE and bank.values.device.type != "mps"
    if is_worth or bank.has_16_bits:
        capacity = min(reads // ranks, bank.n_slots)
        bank.compact = CompactGradient(bank.values.detach(), capacity, sums_dtype(bank, parts))
        logger.info("bank: compact gradients for up to %s of %s rows", f"{capacity:,}", f"{bank.n_slots:,}")


def hold_on_host(decoder: Decoder, device: torch.device, ranks: int) -> None:
    """Has the values of every bank stay on the host.

    Args:
        decoder: The model; its banks are replaced.
        device: Where all else is.
        ranks: Processes that train together.

    Raises:
        RunError: there are several processes, or a bank does not hold vectors.
    """
    if ranks > 1:
        raise RunError("train.values_on is host, which is for one process; leave it out, or the launcher")
    if not all(isinstance(bank, VectorBank) for bank in decoder.banks):
        raise RunError("train.values_on is host, and a bank holds tokens; leave it out, or use bank.type vectors")
    keep_on_host(decoder, device)


def freeze_router(model: nn.Module) -> None:
    """Stops everything that chooses slots from learning: queries, keys, scales, in every layer."""
    for module in model.modules():
        if isinstance(module, Memory):
            module.requires_grad_(False)


def freeze_values(model: nn.Module) -> None:
    """Stops the values of every bank from learning; the optimizer leaves parameters without a gradient alone."""
    for module in model.modules():
        if isinstance(module, Bank):
            for parameter in module.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None
