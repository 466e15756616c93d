"""Loads a model whose values are held elsewhere than on the device, or there in fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig

from memlm.bank.base import Bank
from memlm.bank.vectors import VectorBank
from memlm.errors import RunError
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.offload.host import HostBank
from memlm.offload.int8 import Int8Bank
from memlm.offload.mapped import MappedBank

HELD: Mapping[str, Callable[[Tensor, torch.device], Bank]] = {
    "host": HostBank,
    "mapped": MappedBank,
    "int8": Int8Bank,
}
"""How values can be held, other than as a parameter on the device."""


def load(folder: Path, values: str, device: torch.device) -> MemlmForCausalLM:
    """Returns the model in ``folder`` on ``device``, in eval mode; it is for reading, and cannot be saved.

    Nothing of the values is read from the file but what their bank takes.

    Args:
        folder: The model's folder.
        values: How the values of its banks are held, a name of `HELD`.
        device: Where the rest of the model goes.

    Raises:
        RunError: as `load_mapped`.
    """
    return hold(load_mapped(folder, values), values, device)


def load_mapped(folder: Path, values: str) -> MemlmForCausalLM:
    """Returns the model in ``folder``, in eval mode, with the values of its banks mapped from the file, to be held.

    The values may be changed before: the file is mapped as private, and what is written gets pages of its own.

    Args:
        folder: The model's folder.
        values: How they are to be held, for errors.

    Raises:
        RunError: a bank of the model is not of vectors, or it has none.
    """
    config = MemlmConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = MemlmForCausalLM(config)
    banks = model.decoder.banks
    if not banks or not all(isinstance(bank, VectorBank) for bank in banks):
        raise RunError(f"{folder}: has no bank of vectors to hold on {values}; leave --values out")
    with safe_open(folder / "model.safetensors", "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    mapped = {f"decoder.banks.{i}.values" for i in range(len(banks))}
    # What is left is copied: the file stays mapped for the values alone.
    state = {name: tensor if name in mapped else tensor.clone() for name, tensor in found.items()}
    model.load_state_dict(state, assign=True)
    model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()


def hold(model: MemlmForCausalLM, values: str, device: torch.device) -> MemlmForCausalLM:
    """Gives a model of `load_mapped` banks that hold its values, and returns it on ``device``; args as of `load`."""
    banks = model.decoder.banks
    for i, bank in enumerate(banks):
        assert isinstance(bank, VectorBank), "load_mapped refuses others"
        held = HELD[values](bank.values.detach(), device)
        held.read_dtype = bank.read_dtype
        banks[i] = held
    return model.to(device).eval()  # pyright: ignore[reportArgumentType]
