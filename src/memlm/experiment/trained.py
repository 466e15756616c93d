"""Opens the model and the tokenizer of a finished run."""

# torch and transformers leave parts of their interfaces untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from memlm.experiment.paths import inside
from memlm.experiment.reading import Run, read_finished
from memlm.hf import MemlmForCausalLM
from memlm.offload import hold, load_mapped
from memlm.train.checkpoint import FINAL, load_model
from memlm.train.loading import loading_errors
from memlm.train.manifest import verify
from memlm.train.trust import refuse_code

ON_DEVICE = "device"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""How messages become text: one after the other. These models go on with text; they were not taught roles."""


def default_device() -> torch.device:
    """Returns where a model is opened if nobody says: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def checkpoint_of(run: Run) -> Path:
    """Returns the folder of a run's model.

    Raises:
        RunError: it is a link out of the run.
    """
    return inside(run.folder, FINAL)


def open_model(
    folder: Path, device: str | None = None, values: str = ON_DEVICE
) -> tuple[MemlmForCausalLM, PreTrainedTokenizerFast]:
    """Loads a finished run's model, in eval mode, and its tokenizer.

    Args:
        folder: The run's folder.
        device: Where the model goes, as torch names it; a GPU if there is one, if not given.
        values: How its memory's values are held: `ON_DEVICE`, as parameters, or a name of `memlm.offload.HELD`.

    Raises:
        RunError: the folder holds no finished run, or its model is a link out of it.
        CheckpointError: its model is damaged.
    """
    run = read_finished(folder)
    return model_of(run, device, values), open_tokenizer(checkpoint_of(run))


def model_of(run: Run, device: str | None = None, values: str = ON_DEVICE) -> MemlmForCausalLM:
    """Loads a finished run's model, in eval mode; args and errors as of `open_model`."""
    return placed(load_unplaced(run, values), device, values)


def load_unplaced(run: Run, values: str = ON_DEVICE) -> MemlmForCausalLM:
    """Loads a finished run's model, in eval mode, to be given to `placed` with the same ``values``.

    The rows of its banks may be changed before; the file stays as it is.

    Raises:
        MemlmError: as `open_model`.
    """
    checkpoint = checkpoint_of(run)
    if values == ON_DEVICE:
        return load_model(checkpoint, torch.device("cpu")).eval()
    verify(checkpoint)
    refuse_code(checkpoint)
    with loading_errors(checkpoint):
        return load_mapped(checkpoint, values)


def placed(model: MemlmForCausalLM, device: str | None = None, values: str = ON_DEVICE) -> MemlmForCausalLM:
    """Returns a model of `load_unplaced` on its device, its values held as they are to be; args as of `open_model`."""
    there = default_device() if device is None else torch.device(device)
    return model.to(there) if values == ON_DEVICE else hold(model, values, there)  # pyright: ignore[reportArgumentType]


def open_tokenizer(checkpoint: Path) -> PreTrainedTokenizerFast:
    """Returns the tokenizer beside a model, with `CHAT_TEMPLATE`."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(checkpoint, local_files_only=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
