"""A run's model as the run evaluates it at its end: where its values are, on which device, in which precision."""

# torch and accelerate leave parts of their interfaces untyped:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import logging
from pathlib import Path

import torch
from accelerate import Accelerator

from memlm.config.train import TrainConfig
from memlm.experiment.reading import Run
from memlm.hf import MemlmForCausalLM
from memlm.offload.trained import keep_on_host
from memlm.train.accelerator import build_accelerator
from memlm.train.checkpoint import load_model

logger = logging.getLogger(__name__)


def load_evaluated(checkpoint: Path, config: TrainConfig, device: torch.device) -> MemlmForCausalLM:
    """Loads a model to evaluate it, in eval mode.

    Where no device was to hold a whole bank while the model was trained, none has to now: values stay on the host, and
    the rows that are read are brought.

    Args:
        checkpoint: The model's folder.
        config: How it was trained.
        device: Where it is evaluated.

    Raises:
        CheckpointError: as of `load_model`.
    """
    model = load_model(checkpoint, torch.device("cpu"))
    if config.bank_is_apart:
        keep_on_host(model.decoder, device)
    return model.to(device).eval()  # pyright: ignore[reportArgumentType]


def accelerator_of(run: Run, config: TrainConfig) -> Accelerator:
    """Returns the device and the precision that a finished run was evaluated with.

    Without a device of that kind it is the CPU in float32, which a warning tells.
    """
    kind, here = run.record.device.kind, torch.accelerator.current_accelerator(check_available=True)
    if kind != "cpu" and (here is None or here.type != kind):
        logger.warning(
            "%s was evaluated on %s, which is not here; on the CPU, in float32, its losses may differ", run.folder, kind
        )
        return build_accelerator(config.model_copy(update={"device": "cpu", "precision": "fp32"}))
    return build_accelerator(config.model_copy(update={"device": kind}))
