"""Writing a model to a folder, whole or not at all, and loading it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memlm.data.tokenizer import END, PAD
from memlm.errors import CheckpointError
from memlm.hf import MemlmForCausalLM
from memlm.storage import replaced_folder

LOADING_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def save_model(model: PreTrainedModel, tokenizer: Path, folder: Path) -> None:
    """Writes model and tokenizer in Hugging Face's form, replacing ``folder`` at once.

    A reader sees the old folder, for an instant none, or the new one; never a part of either.

    Args:
        model: The model.
        tokenizer: Its tokenizer.json.
        folder: Where to write.
    """
    with replaced_folder(folder) as staged:
        model.save_pretrained(staged)
        # transformers knows the special tokens only by their names here.
        has_pad = Tokenizer.from_file(str(tokenizer)).token_to_id(PAD) is not None
        fast = PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer), eos_token=END, bos_token=END, pad_token=PAD if has_pad else END
        )
        fast.save_pretrained(staged)


def load_model(folder: Path, device: torch.device) -> MemlmForCausalLM:
    """Returns the model in ``folder`` on ``device``.

    Raises:
        CheckpointError: it is not there, or its weights do not fit its configuration exactly.
    """
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} holds no model")
    model, info = MemlmForCausalLM.from_pretrained(folder, output_loading_info=True)  # pyright: ignore[reportGeneralTypeIssues]
    faults = [f"{kind.replace('_', ' ')} {sorted(info[kind])}" for kind in LOADING_FAULTS if info[kind]]
    if faults:
        raise CheckpointError(f"{folder} does not fit its own configuration: {'; '.join(faults)}")
    return model.to(device)
