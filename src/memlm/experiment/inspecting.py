"""Opens a finished run for inspection."""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers.utils.logging import disable_progress_bar

from memlm.data.prepare import prepare
from memlm.data.sampler import Sampler
from memlm.errors import RunError
from memlm.evaluate.loss import spread_starts
from memlm.experiment.paths import inside
from memlm.experiment.reading import read_finished
from memlm.experiment.rerun import recorded_config
from memlm.inspect import store
from memlm.inspect.contexts import find_contexts
from memlm.inspect.inspection import Inspection
from memlm.train import writers
from memlm.train.checkpoint import FINAL, load_model


def open_inspection(
    folder: Path, max_tokens: int, progress: Callable[[int, int], None], shows_bars: bool = False
) -> Inspection:
    """Loads a run's model and text, and goes through the text if its contexts are not kept in the folder yet.

    Args:
        folder: The run's folder.
        max_tokens: Most training tokens to go through.
        progress: Is told how many of how many are done.
        shows_bars: Show bars while the text is prepared.

    Raises:
        RunError: the folder holds no finished run of a model with a memory, or its text is not the recorded one.
        MemlmError: of the data or the checkpoint.
    """
    disable_progress_bar()  # transformers would draw a bar of its own for the weights
    run = read_finished(folder)
    config = recorded_config(run)
    (model_config,) = config.variants.values()
    if model_config.memory is None:
        raise RunError(f"{folder}: {run.record.variant} has no memory to inspect; give a run of a variant that has one")
    for name in (FINAL, *(f"{store.FOLDER}/{name}" for name in store.FILES), f"{writers.FOLDER}/{writers.FILE}"):
        inside(folder, name)
    model = load_model(folder / FINAL, torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()
    data = prepare(config.data, progress=shows_bars)
    assert run.record.data is not None, "a finished run has recorded its data"
    if data.fingerprint != run.record.data.fingerprint:
        raise RunError(f"{folder}: data.corpus holds other text now; bring the recorded text back to inspect the run")
    ids, seq_len = data.train.ids, config.data.seq_len
    weights = inside(folder, f"{FINAL}/model.safetensors")
    contexts = store.kept_or_found(
        folder / store.FOLDER,
        store.fingerprint(weights, data.fingerprint, seq_len, max_tokens),
        lambda: find_contexts(model.decoder, ids, seq_len, max_tokens, progress),
    )
    return Inspection(
        name=f"{run.record.experiment}/{run.name}",
        model=model,
        tokenizer=Tokenizer.from_file(str(data.tokenizer)),
        sampler=Sampler(ids, seq_len, config.train.batch_size, run.record.seed),
        sequences_per_step=config.train.batch_size * config.train.accumulation,
        contexts=contexts,
        writers=writers.read_writers(folder, [each.n_slots for each in contexts]),
        tokens=len(spread_starts(len(ids), seq_len, max_tokens)) * seq_len,
    )
