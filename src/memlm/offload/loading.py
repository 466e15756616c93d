"""Loads a model whose values are held elsewhere than on the device, or there in fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
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


def load(
    folder: Path, values: str, device: torch.device, change: Callable[[MemlmForCausalLM], object] = lambda _: None
) -> MemlmForCausalLM:
    """Returns the model in ``folder`` on ``device``, in eval mode; it is for reading, and cannot be saved.

    Nothing of the values is read from the file but what their bank takes.

    Args:
        folder: The model's folder.
        values: How the values of its banks are held, a name of `HELD`.
        device: Where the rest of the model goes.
        change: May change rows of the banks of vectors, and nothing else of the model, before they are held; the file
            stays as it is.

    Raises:
        RunError: the model has no bank of vectors.
    """
    config = MemlmConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = MemlmForCausalLM(config)
    banks = model.decoder.banks
    vectors = [bank for bank in banks if isinstance(bank, VectorBank)]
    if not vectors or len(vectors) < len(banks):
        raise RunError(f"{folder}: has no bank of vectors to hold on {values}; leave --values out")
    with safe_open(folder / "model.safetensors", "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    for i, bank in enumerate(vectors):
        bank.values = nn.Parameter(found.pop(f"decoder.banks.{i}.values"), requires_grad=False)
    change(model)  # the file is mapped as private: what is written gets pages of its own
    for i, bank in enumerate(vectors):
        held = HELD[values](bank.values.detach(), device)
        held.read_dtype = bank.read_dtype
        banks[i] = held
    # What is left is copied: the file stays mapped for the values alone.
    model.load_state_dict({name: tensor.clone() for name, tensor in found.items()}, assign=True)
    model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.to(device).eval()  # pyright: ignore[reportArgumentType]
