"""Writes a finished run as a model folder that transformers loads without memlm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from memlm.errors import RunError
from memlm.experiment.reading import read_finished
from memlm.experiment.trained import checkpoint_of, open_tokenizer
from memlm.export.card import card
from memlm.export.code import MODELING, auto_map, flat_code
from memlm.hf import MemlmConfig
from memlm.storage import replaced_folder, write_json, write_text
from memlm.train.loading import loading_errors
from memlm.train.manifest import verify
from memlm.train.trust import refuse_code

COPIED = ("model.safetensors", "generation_config.json")


def export_run(run: Path, folder: Path, experiment: Path | None = None) -> None:
    """Writes the model of a finished run into a new folder, whole or not at all.

    Args:
        run: The run's folder.
        folder: Where to write; it must not exist, or be empty.
        experiment: What the model card tells of; the run's own if not given.

    Raises:
        RunError: there is no finished run, the folder holds something, or the model's code is not memlm's.
        CheckpointError: the model is damaged.
    """
    found = read_finished(run)
    checkpoint = checkpoint_of(found)
    refuse_taken(folder)
    verify(checkpoint)
    refuse_code(checkpoint)
    with loading_errors(checkpoint):
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        code = flat_code(MemlmConfig.from_pretrained(checkpoint, local_files_only=True).shape)
        tokenizer = open_tokenizer(checkpoint)
    with replaced_folder(folder) as staged:
        for name in COPIED:
            shutil.copyfile(checkpoint / name, staged / name)
        tokenizer.save_pretrained(staged)
        write_json(staged / "config.json", config | {"auto_map": auto_map(MODELING)})
        for name, text in code.items():
            write_text(staged / name, text)
        write_text(staged / "README.md", card(found, experiment or run.parent))


def refuse_taken(folder: Path) -> None:
    """Refuses a folder that holds something.

    Raises:
        RunError: it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: is there already; give a folder that does not exist yet")
