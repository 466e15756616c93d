"""The device that trains and evaluates, and its precision, as a configuration asks for them."""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import timedelta
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import distributed as dist

from memlm import launcher
from memlm.config.train import TrainConfig
from memlm.errors import RunError
from memlm.train.interrupts import default_signals
from memlm.train.ranks import Ranks

OUT_OF_MEMORY = "out of memory; halve train.batch_size and double train.accumulation"
"""What to tell a user whose device was too small."""


class Absent(NamedTuple):
    """Why this machine cannot do what a configuration asks for, and what to set where settings can be given."""

    reason: str
    mend: str


def absent_device(config: TrainConfig) -> Absent | None:
    """Returns why the configured device or precision cannot be had here; None if it can."""
    if config.device == "cuda" and not torch.cuda.is_available():
        return Absent("train.device is cuda, and torch sees no GPU", "use -o train.device=auto, or run: memlm doctor")
    if config.device == "mps" and not torch.backends.mps.is_available():
        return Absent("train.device is mps, and torch sees no Apple GPU", "use -o train.device=auto")
    if config.precision == "bf16" and not _on_gpu(config):
        return Absent("train.precision is bf16, some 20 times slower on this CPU", "use -o train.precision=auto")
    return None


def _on_gpu(config: TrainConfig) -> bool:
    return config.device != "cpu" and torch.cuda.is_available()


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Returns the accelerator for the configured device and precision.

    Under a launcher it joins its processes, the ranks of the run; while it waits for them, a signal ends this one.

    Raises:
        RunError: the device is not there, a launcher's variables are unsound, or the ranks cannot share a batch.
    """
    launcher.require_sound()
    if absent := absent_device(config):
        raise RunError(f"{absent.reason}; {absent.mend}")
    on_gpu = _on_gpu(config)
    # Older cards only emulate bf16, slowly.
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be deterministic without it
        torch.use_deterministic_algorithms(True)
    joins = launcher.n_ranks() > 1 and not dist.is_initialized()
    with default_signals() if joins else nullcontext():
        accelerator = Accelerator(
            mixed_precision="bf16" if bf16 else "no",
            # accelerate joins the processes of a launcher on a CPU only if it is told that there is nothing else.
            cpu=config.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available()),
            dynamo_backend="inductor" if config.compile else "no",
            # The others wait as long as rank 0 prepares and evaluates.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
        )
    Ranks.of(accelerator).require_shares(config.batch_size)
    return accelerator
