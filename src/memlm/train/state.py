"""The training state: what the next step depends on besides the weights, as tensors and plain numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memlm.errors import CheckpointError
from memlm.storage import write_exact_json

TENSORS = "state.safetensors"
NUMBERS = "state.json"
OPTIMIZER = "optimizer/"
GENERATOR = "generator/"
HISTORY = "history/"
SERIES = ("losses", "times")
PLAIN = ("peak_memory_gib", "alarms", "revival_time_s")


@dataclass
class History:
    """What was measured so far; results and the metrics log are computed from it.

    Attributes:
        losses: Loss of each step, nats per token; NaN where the step was left out because something was not finite.
        times: Seconds of each step.
        peak_memory_gib: Largest peak of the processes that took the steps.
        alarms: As of `memlm.train.alarms.Alarms.history`.
        revival_time_s: Seconds spent on revival between the steps.
    """

    losses: list[float] = field(default_factory=list[float])
    times: list[float] = field(default_factory=list[float])
    peak_memory_gib: float = 0.0
    alarms: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    revival_time_s: float = 0.0

    def mean_loss(self, steps: int) -> float:
        """Returns the mean loss of the last steps, those left out apart; NaN if all were."""
        finite = [loss for loss in self.losses[-steps:] if math.isfinite(loss)]
        return fmean(finite) if finite else math.nan


@dataclass(frozen=True)
class TrainingState:
    """The state after a step. The sampler's position and the learning rate follow from the step alone.

    Attributes:
        step: Optimizer steps taken.
        tensors: Moments of the optimizer by parameter name, and the states of torch's generators.
        history: What was measured so far.
        validation_loss: Held-out loss after this very step, None if it was not evaluated.
    """

    step: int
    tensors: dict[str, Tensor]
    history: History
    validation_loss: float | None = None

    def write(self, folder: Path, owner: dict[str, str]) -> None:
        """Writes the state into ``folder``, with what identifies the run that it belongs to."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors.items()}
        for name in SERIES:
            tensors[HISTORY + name] = torch.tensor(getattr(self.history, name), dtype=torch.float64)
        save_file(tensors, folder / TENSORS)
        numbers: dict[str, Any] = {name: getattr(self.history, name) for name in PLAIN}
        numbers |= {"step": self.step, "validation_loss": self.validation_loss, "owner": owner}
        write_exact_json(folder / NUMBERS, numbers)

    @classmethod
    def read(cls, folder: Path) -> TrainingState:
        """Reads what `write` wrote; the caller has verified the files.

        Raises:
            CheckpointError: the folder holds a model alone.
        """
        if not (folder / TENSORS).exists():
            raise CheckpointError(f"{folder}: holds a model and no training state, so no run can go on from it")
        numbers = read_numbers(folder)
        tensors = load_file(folder / TENSORS)
        series = {name: tensors.pop(HISTORY + name).tolist() for name in SERIES}
        history = History(**series, **{name: numbers[name] for name in PLAIN if name in numbers})
        return cls(numbers["step"], tensors, history, numbers["validation_loss"])


def read_numbers(folder: Path) -> dict[str, Any]:
    """Returns the plain numbers of the state in ``folder``; the caller has verified the file."""
    return json.loads((folder / NUMBERS).read_text(encoding="utf-8"))


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the moments of the optimizer and the states of torch's generators."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {
        f"{OPTIMIZER}{names[parameter]}/{key}": value
        for parameter, moments in optimizer.state.items()
        for key, value in moments.items()
    }
    tensors[f"{GENERATOR}cpu"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"{GENERATOR}cuda:{index}"] = state
    return tensors


def restore(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts back what `capture` returned.

    Raises:
        CheckpointError: a moment belongs to no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if not name.startswith(OPTIMIZER):
            continue
        parameter_name, key = name.removeprefix(OPTIMIZER).rsplit("/", 1)
        parameter = parameters.get(parameter_name)
        if parameter is None:
            raise CheckpointError(f"the training state has a moment of {parameter_name}, which the model has not")
        optimizer.state[parameter][key] = tensor.to(parameter.device)
    torch.set_rng_state(tensors[f"{GENERATOR}cpu"])
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            state = tensors.get(f"{GENERATOR}cuda:{index}")
            if state is not None:
                torch.cuda.set_rng_state(state, index)
