"""`memlm graft`: a dense model with a memory that alone was trained, as a model folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from memlm.data.corpus import documents, find_sources
from memlm.data.sampler import Sampler
from memlm.data.source import Reading
from memlm.errors import CheckpointError, DataError, RunError
from memlm.experiment.trained import default_device
from memlm.export.card import HEAD
from memlm.export.code import GRAFTED, auto_map, flat_code
from memlm.export.folder import refuse_taken
from memlm.hf import GraftedForCausalLM
from memlm.model.graft import GraftConfig
from memlm.storage import replaced_folder, write_json, write_text
from memlm.train.loading import loading_errors
from memlm.train.trust import refuse_code

HELD_OUT = 0.05
"""Share of the tokens, the last ones, that measure and do not train."""
MOST_MEASURED = 256
"""Sequences of the held-out text that are measured."""

CARD = (
    HEAD
    + """
# {dense} with a memory

The model {dense} with a memory beside the feed-forward layers of some of its blocks. Only what was added was trained.
Load it with `trust_remote_code=True`, or with memlm installed after `import memlm.hf`.

| | |
|---|---|
| added parameters | {added:,} |
| tokens trained on | {tokens:,} |
| held-out loss before, nats per token | {before:.4f} |
| held-out loss after | {after:.4f} |

The held-out text is of the same source as the training text. No dense control was trained on that text: how much of the
difference is the memory's, this does not tell.

```json
{graft}
```
"""
)


@dataclass(frozen=True)
class Grafted:
    """What came of a graft: added parameters, trained tokens, and the held-out loss in nats per token."""

    added: int
    tokens: int
    before: float
    after: float


def graft(dense: Path, folder: Path, config: GraftConfig, progress: Callable[[int, float], None]) -> Grafted:
    """Adds a memory to the model in ``dense``, trains it, and writes both into ``folder``.

    Args:
        dense: A folder of a Hugging Face causal model of Llama's or Qwen's form, and of its tokenizer.
        folder: The new folder.
        config: What is added, and how it is trained.
        progress: Is told each step, from 1, and its loss.

    Raises:
        RunError: the folder is taken, the model has another form or fewer positions than ``seq_len``, memory runs out,
            or the loss is not finite.
        CheckpointError: there is no model, or it cannot be loaded, or brings code.
        DataError: the text cannot be read, or is too short.
    """
    disable_progress_bar()
    refuse_taken(folder)
    if not (dense / "config.json").is_file():
        reason = "there is no model in this folder (no config.json)" if dense.is_dir() else "there is no such folder"
        raise CheckpointError(f"{dense}: {reason}; give one that save_pretrained wrote")
    refuse_code(dense)
    device = default_device()
    with loading_errors(dense):
        base = AutoModelForCausalLM.from_pretrained(dense, local_files_only=True, use_safetensors=True).float()
        tokenizer = AutoTokenizer.from_pretrained(dense, local_files_only=True)
    longest = getattr(base.config, "max_position_embeddings", None) or config.seq_len
    if config.seq_len > longest:
        raise RunError(f"seq_len: {config.seq_len} is longer than the {longest} positions of {dense}; take {longest}")
    train, held_out = _tokens(config, tokenizer)
    torch.manual_seed(config.seed)
    try:
        model = GraftedForCausalLM.onto(base, config)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise RunError(f"{dense}: {error}") from None
    try:
        model.to(device)  # pyright: ignore[reportArgumentType]
        before = _loss(model, held_out)
        _train(model, train, config, progress)
        after = _loss(model, held_out)
    except torch.OutOfMemoryError:
        raise RunError(f"{dense}: out of memory; lower batch_size, seq_len or memory.n_keys") from None
    added = sum(p.numel() for p in model.added())
    found = Grafted(added, config.steps * config.batch_size * config.seq_len, before, after)
    _write(model, tokenizer, folder, dense.resolve().name, found)
    return found


def _tokens(config: GraftConfig, tokenizer: Any) -> tuple[Sampler, np.ndarray]:
    """Returns training text in batches, and held-out sequences [N, T + 1]."""
    reading = Reading(is_set=False)
    ids: list[int] = []
    for document in documents(find_sources(config.corpus, reading), reading):
        ids += tokenizer(document.text, add_special_tokens=False).input_ids
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
    tokens = np.asarray(ids, dtype=np.int64)
    T, border = config.seq_len, len(tokens) - max(config.seq_len + 1, int(HELD_OUT * len(tokens)))
    if border < T + 1:
        raise DataError(f"{config.corpus}: {len(tokens)} tokens are too few for sequences of seq_len = {T}; take fewer")
    rest = tokens[border:]
    starts = range(0, len(rest) - T, T)[:MOST_MEASURED]
    sampler = Sampler(tokens[:border], T, config.batch_size, config.seed)
    return sampler, np.stack([rest[start : start + T + 1] for start in starts])


def _nats(model: GraftedForCausalLM, sequences: np.ndarray) -> Tensor:
    batch = torch.from_numpy(sequences).to(model.device)
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def _loss(model: GraftedForCausalLM, sequences: np.ndarray) -> float:
    """Returns the mean loss of sequences [N, T + 1], each of which counts alike."""
    model.eval()
    return float(np.mean([_nats(model, sequences[i : i + 1]).item() for i in range(len(sequences))]))


def _train(
    model: GraftedForCausalLM, sampler: Sampler, config: GraftConfig, progress: Callable[[int, float], None]
) -> None:
    model.requires_grad_(False)
    for parameter in model.added():
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(model.added(), lr=config.lr, weight_decay=0.0)  # decay would wear unread rows away
    for step in range(config.steps):
        loss = _nats(model, sampler.batch(step))  # in eval mode: the dense model stays as it is, dropout and all
        if not math.isfinite(value := loss.item()):
            raise RunError(f"step {step + 1}: the loss is {value}; nothing was written: take a lower lr")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.added(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1, value)


def _write(model: GraftedForCausalLM, tokenizer: Any, folder: Path, dense: str, found: Grafted) -> None:
    config = GraftConfig.model_validate(model.config.graft)
    with replaced_folder(folder) as staged:
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        written = json.loads((staged / "config.json").read_text(encoding="utf-8"))
        write_json(staged / "config.json", written | {"auto_map": auto_map(GRAFTED)})
        for name, text in flat_code(config, GRAFTED).items():
            write_text(staged / name, text)
        shown = json.dumps(model.config.graft, indent=2)
        write_text(staged / "README.md", CARD.format(dense=dense, graft=shown, **vars(found)))
