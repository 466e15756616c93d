"""Checkpoints: a Hugging Face model, and the training state beside it; whole or not there at all, verified when read.

A folder holds a manifest with the hash of every other file. It is made under another name and renamed, so a checkpoint
that can be seen is whole, unless the disk changed it later; that the manifest tells.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from memlm.data.tokenizer import END, PAD
from memlm.errors import CheckpointError
from memlm.hf import MemlmForCausalLM
from memlm.storage import replaced_folder
from memlm.train.loading import loading_errors
from memlm.train.manifest import recorded_hashes, verify, verify_file, write_hashes, write_manifest
from memlm.train.state import NUMBERS, TENSORS, TrainingState, read_numbers
from memlm.train.trust import refuse_code

logger = logging.getLogger(__name__)

LOADING_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")
FINAL = "checkpoint"
"""The folder of the finished model, in the folder of its run."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of an unfinished run, ``checkpoint-<step>``.

    Attributes:
        folder: Where it is.
        step: Steps taken.
        owner: What identifies its run; empty if that cannot be trusted.
        validation_loss: Held-out loss of this very model, None if it was not evaluated.
    """

    folder: Path
    step: int
    owner: dict[str, str]
    validation_loss: float | None

    @property
    def has_state(self) -> bool:
        """Whether a run can go on from it; what a finished run keeps is a model alone."""
        return (self.folder / TENSORS).exists()


def save_model(
    model: PreTrainedModel,
    tokenizer: Path,
    folder: Path,
    state: TrainingState | None = None,
    owner: dict[str, str] | None = None,
) -> None:
    """Writes model and tokenizer in Hugging Face's form, replacing ``folder`` at once.

    Args:
        model: The model.
        tokenizer: Its tokenizer.json.
        folder: Where to write.
        state: The training state to write beside it, if the run is to go on from here.
        owner: What identifies the run that the state belongs to.

    Raises:
        CheckpointError: the disk is full or cannot be written, or what is read back is not the model; what was in
            ``folder`` is as it was.
    """
    try:
        with replaced_folder(folder) as staged:
            model.save_pretrained(staged)
            _read_back(model, staged)
            # transformers knows the special tokens only by their names here.
            has_pad = Tokenizer.from_file(str(tokenizer)).token_to_id(PAD) is not None
            fast = PreTrainedTokenizerFast(
                tokenizer_file=str(tokenizer), eos_token=END, bos_token=END, pad_token=PAD if has_pad else END
            )
            fast.save_pretrained(staged)
            if state is not None:
                state.write(staged, owner or {})
            write_manifest(staged)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{folder}: cannot be written ({reason}); make room and give the same command again: it goes on "
            "from what was saved before"
        ) from error


def _read_back(model: PreTrainedModel, folder: Path) -> None:
    """Compares what was written with the model, bit for bit, before anybody relies on it."""
    written = load_file(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        found = written.get(name)
        if found is None or found.dtype != tensor.dtype or not torch.equal(found, tensor.cpu()):
            state = "is not in the file" if found is None else f"came back as other numbers ({found.dtype})"
            raise CheckpointError(f"{folder.name}: {name} {state}; what is saved must be the model that was trained")


def load_model(folder: Path, device: torch.device) -> MemlmForCausalLM:
    """Returns the model in ``folder`` on ``device``.

    Raises:
        CheckpointError: it is not there, is damaged, or its weights do not fit its configuration exactly.
    """
    verify(folder)
    return load_weights(folder, device)


def load_weights(folder: Path, device: torch.device) -> MemlmForCausalLM:
    """Returns the model in ``folder`` on ``device``; unlike `load_model` it asks for no manifest.

    Raises:
        CheckpointError: the folder brings code, or its weights do not fit its configuration exactly.
    """
    refuse_code(folder)
    disable_progress_bar()  # transformers would draw a bar of its own
    with loading_errors(folder):
        model, info = MemlmForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder, output_loading_info=True, local_files_only=True, use_safetensors=True
        )
    faults = [f"{kind.replace('_', ' ')} {sorted(info[kind])}" for kind in LOADING_FAULTS if info[kind]]
    if faults:
        raise CheckpointError(f"{folder} does not fit its own configuration: {'; '.join(faults)}")
    return model.to(device)


def checkpoints(run: Path) -> list[Checkpoint]:
    """Returns the checkpoints of an unfinished run, the newest first; only their `Checkpoint` itself is verified."""
    found: list[Checkpoint] = []
    for folder in run.glob(f"{FINAL}-*"):
        match = re.fullmatch(rf"{FINAL}-(\d+)", folder.name)
        if match:
            numbers = _numbers(folder)
            owner, loss = numbers.get("owner", {}), numbers.get("validation_loss")
            found.append(Checkpoint(folder, int(match[1]), owner, loss))
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def _numbers(folder: Path) -> dict[str, Any]:
    """Returns the plain numbers of a checkpoint's state, nothing if they are not those that were written."""
    try:
        verify_file(folder, NUMBERS, recorded_hashes(folder).get(NUMBERS, ""))
    except CheckpointError:
        return {}
    return read_numbers(folder)


def newest_sound(run: Path, device: torch.device) -> tuple[MemlmForCausalLM, TrainingState] | None:
    """Returns the model and state of the newest checkpoint that is sound, None if there is none.

    A damaged one is told and passed over.
    """
    for checkpoint in checkpoints(run):
        try:
            with loading_errors(checkpoint.folder):
                return load_model(checkpoint.folder, device), TrainingState.read(checkpoint.folder)
        except CheckpointError as error:
            logger.warning("%s; it is passed over", error)
    return None


def prune(run: Path, keep_last: int, keep_best: int) -> None:
    """Removes the checkpoints of a run that are neither among its newest nor among its best."""
    newest = checkpoints(run)
    losses = {c.step: c.validation_loss for c in newest}
    evaluated = sorted((loss, step) for step, loss in losses.items() if loss is not None and math.isfinite(loss))
    kept = {c.step for c in newest[:keep_last]} | {step for _, step in evaluated[:keep_best]}
    for checkpoint in newest:
        if checkpoint.step not in kept:
            _remove(checkpoint)


def remove_after(run: Path, step: int) -> None:
    """Removes checkpoints of later steps than the one a run goes on from: passed over, they would count as newest."""
    for checkpoint in checkpoints(run):
        if checkpoint.step > step:
            _remove(checkpoint)


def _remove(checkpoint: Checkpoint) -> None:
    # Out of sight first, so that a kill in between leaves no checkpoint with half of its files.
    retired = checkpoint.folder.with_name(f".{checkpoint.folder.name}-retired")
    checkpoint.folder.rename(retired)
    shutil.rmtree(retired, ignore_errors=True)


def finish(run: Path, keep_best: int) -> None:
    """Removes what a finished run does not need: all checkpoints but the best, and the moments beside those."""
    prune(run, keep_last=0, keep_best=keep_best)
    for checkpoint in checkpoints(run):
        # What the manifest says of the other files stays: hashed anew, a damaged one would become sound.
        kept = {name: digest for name, digest in recorded_hashes(checkpoint.folder).items() if name != TENSORS}
        write_hashes(checkpoint.folder, kept)
        (checkpoint.folder / TENSORS).unlink(missing_ok=True)
