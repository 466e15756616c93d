"""Opens a finished run for inspection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from tokenizers import Tokenizer

from memlm.evaluate.loss import spread_starts
from memlm.experiment.edited import put_in_force
from memlm.experiment.finished import open_finished
from memlm.experiment.paths import inside
from memlm.experiment.text import sampler_of
from memlm.inspect import store
from memlm.inspect.contexts import Contexts, find_contexts
from memlm.inspect.inspection import Inspection
from memlm.train import writers


def open_inspection(
    folder: Path, max_tokens: int, progress: Callable[[int, int], None], shows_bars: bool = False
) -> Inspection:
    """Loads a run's model and text, and goes through the text if its contexts are not kept in the folder yet.

    The model has its edits in force, and contexts are of the checkpoint: what was kept of it stays right, whatever is
    edited.

    Args:
        folder: The run's folder.
        max_tokens: Most training tokens to go through.
        progress: Is told how many of how many are done.
        shows_bars: Show bars while the text is prepared.

    Raises:
        EditError: the log of edits is damaged or belongs to other weights; told before the text is gone through.
        MemlmError: as `open_finished`.
    """
    for name in (*(f"{store.FOLDER}/{name}" for name in store.FILES), f"{writers.FOLDER}/{writers.FILE}"):
        inside(folder, name)
    finished = open_finished(folder, "inspect", shows_bars)
    config, data, run, model = finished.config, finished.data, finished.run, finished.model
    ids, seq_len = data.train.ids, config.data.seq_len
    editor = put_in_force(run, model)  # before the pass, which takes its time: a damaged log is told at once

    def of_checkpoint() -> list[Contexts]:
        with editor.without_edits() if editor else nullcontext():
            return find_contexts(model.decoder, ids, seq_len, max_tokens, progress)

    contexts = store.kept_or_found(
        folder / store.FOLDER,
        store.fingerprint(finished.weights, data.fingerprint, seq_len, max_tokens),
        of_checkpoint,
    )
    return Inspection(
        name=finished.name,
        model=model,
        edits={edit.id: edit.rows for edit in editor.edits} if editor else {},
        tokenizer=Tokenizer.from_file(str(data.tokenizer)),
        sampler=sampler_of(config, data, run.record.seed),
        sequences_per_step=config.train.batch_size * config.train.accumulation,
        contexts=contexts,
        writers=writers.read_writers(folder, [each.n_slots for each in contexts]),
        tokens=len(spread_starts(len(ids), seq_len, max_tokens)) * seq_len,
    )
