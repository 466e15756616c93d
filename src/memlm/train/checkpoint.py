"""Writing a model to a folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast


def save_model(model: PreTrainedModel, tokenizer: Path, folder: Path) -> None:
    """Writes model and tokenizer in Hugging Face's form, replacing ``folder`` at once.

    A reader sees the old folder or the new one, never a part of either.

    Args:
        model: The model.
        tokenizer: Its tokenizer.json.
        folder: Where to write.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(staged)
        # tokenizers' own words for the end and the padding; transformers would otherwise know of neither.
        fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="<|end|>", pad_token="<|pad|>")
        fast.save_pretrained(staged)
        for path in staged.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        retired = folder.with_name(f".{folder.name}-retired")
        shutil.rmtree(retired, ignore_errors=True)
        if folder.exists():
            folder.rename(retired)
        staged.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
