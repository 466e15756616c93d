"""A finished run's model as its user has it: the checkpoint with the edits in force.

Whoever reads, asks or serves a run opens it here. What is measured, compared and recorded is the checkpoint alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from memlm.edit import log
from memlm.edit.editor import Editor
from memlm.edit.lines import Edit, read_lines
from memlm.edit.request import plain_wordings
from memlm.experiment.reading import Run, read_finished
from memlm.experiment.recorded_edits import log_folder, way_out
from memlm.experiment.trained import ON_DEVICE, checkpoint_of, load_unplaced, open_tokenizer, placed
from memlm.hf import MemlmForCausalLM
from memlm.train.manifest import weights_hash


@dataclass(frozen=True)
class Edited:
    """A run's model with its edits in force.

    Attributes:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        edits: The edits, in order.
    """

    model: MemlmForCausalLM
    tokenizer: PreTrainedTokenizerFast
    edits: Sequence[Edit]


def open_edited(folder: Path, device: str | None = None, values: str = ON_DEVICE) -> Edited:
    """Loads a finished run's model with its edits in force, and its tokenizer.

    Args:
        folder: The run's folder.
        device: Where the model goes, as of `open_model`.
        values: How its memory's values are held, as of `open_model`.

    Raises:
        EditError: as `put_in_force`.
        MemlmError: as `open_model`.
    """
    run = read_finished(folder)
    model = load_unplaced(run, values)
    editor = put_in_force(run, model)
    edits = editor.edits if editor else ()
    return Edited(placed(model, device, values), open_tokenizer(checkpoint_of(run)), edits)


def put_in_force(run: Run, model: MemlmForCausalLM) -> Editor | None:
    """Applies a run's log of edits to its model, and returns the editor that holds them; None if there are none.

    Args:
        run: The run.
        model: Its model as `load_unplaced` or `model_of` loads it, which has compared the checkpoint with its manifest.

    Raises:
        EditError: the log is damaged or belongs to other weights, or what is in its place is no folder.
        RunError: a part of it is a link out of the run.
    """
    folder = log_folder(run.folder)
    with way_out(folder):
        if not read_lines(folder):
            return None
    checkpoint = checkpoint_of(run)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    editor = Editor(model, tokenizer, (), weights_hash(checkpoint), plain_wordings)
    load_log(editor, run.folder)
    return editor


def load_log(editor: Editor, run: Path) -> None:
    """Applies the log in a run's folder to its editor's model; raises as `put_in_force`."""
    folder = log_folder(run)
    with way_out(folder):
        editor.load(log.read_log(folder, editor.base, editor.rows), str(folder))
