"""Where the sentences of a database go in a memory with product keys: found once, and kept under a fingerprint."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from memlm.data.cache import default_cache
from memlm.errors import DataError
from memlm.fill.cells import Grid
from memlm.fill.database import Database
from memlm.fill.embedding import Embedding
from memlm.fill.keys import learned_keys
from memlm.kernels.product_key_select import product_key_select
from memlm.storage import replaced_folder

logger = logging.getLogger(__name__)

FILE = "filling.safetensors"
VERSION = 3
"""Raised when other code would fill otherwise."""
WIDTH = 1024
"""Least components of a sentence; else twice the width of a query."""
BLOCK = 1024
"""Sentences that are looked up at a time."""


@dataclass(frozen=True)
class Filling:
    """Entries in their slots, and the keys that lead there.

    Attributes:
        slots: The slot of each sentence, [N] int64.
        row_keys: Half keys of the rows that hold entries, [rows, C].
        column_keys: Half keys of the columns, [M, C].
        embedding: Makes the queries of sentences, [N, 2 C].
    """

    slots: Tensor
    row_keys: Tensor
    column_keys: Tensor
    embedding: Embedding

    def share_found(self, asked: Sequence[tuple[str, int]], top_k: int = 8) -> float:
        """Returns for which share of texts, each with a slot, that slot is among the best ``top_k`` for its query.

        Selection is the memory's own, with halves of queries and keys normed. 0 if nothing is asked.
        """
        slots = torch.tensor([slot for _, slot in asked])
        M, R = len(self.column_keys), len(self.row_keys)
        rows = torch.zeros_like(self.column_keys)
        rows[:R] = F.normalize(self.row_keys, dim=1)
        keys = torch.stack([rows, F.normalize(self.column_keys, dim=1)])[None]  # rows of zeros score 0: no entry's
        queries = torch.from_numpy(self.embedding([text for text, _ in asked])).unflatten(1, (1, 2, -1))
        hits = 0
        for query, wanted in zip(F.normalize(queries, dim=-1).split(BLOCK), slots.split(BLOCK), strict=True):
            best, _ = product_key_select(query, keys, min(top_k, M))
            hits += int((best.flatten(1) == wanted[:, None]).any(1).sum())
        return hits / max(1, len(asked))


def filled(database: Database, grid: Grid, d_key: int) -> Filling:
    """Returns where a database's sentences go, from the cache or found now.

    Args:
        database: The sentences.
        grid: The cells for entries.
        d_key: Width of a query.

    Raises:
        DataError: there are more sentences than cells.
        MissingDependencyError: scikit-learn is not installed.
    """
    if len(database.texts) > grid.n_cells:
        raise DataError(
            f"the database has {len(database.texts):,} sentences and the bank {grid.n_cells:,} slots for entries; "
            "raise n_keys, lower bank.learned_share, or give fewer"
        )
    decides = [VERSION, database.fingerprint, grid.n_cells, grid.n_columns, d_key]
    folder = default_cache() / "fillings" / hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
    known = _read(folder / FILE)
    if known is not None:
        return known
    embedding = Embedding.fitted(database.texts, max(WIDTH, 2 * d_key))
    slots, queries, keys = learned_keys(embedding(database.texts), grid, d_key)
    filling = Filling(torch.from_numpy(slots), *keys, embedding.then(queries))
    with replaced_folder(folder) as staged:
        save_file({name: tensor.contiguous() for name, tensor in _tensors(filling).items()}, staged / FILE)
    return filling


def _tensors(filling: Filling) -> dict[str, Tensor]:
    embedding = {name: torch.from_numpy(np.asarray(array)) for name, array in vars(filling.embedding).items()}
    return {name: tensor for name, tensor in vars(filling).items() if name != "embedding"} | embedding


def _read(path: Path) -> Filling | None:
    """Returns what is in the cache, None if nothing is; what is damaged is found again, which is logged."""
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        embedding = Embedding(**{name: tensors.pop(name).numpy() for name in Embedding.__dataclass_fields__})
        return Filling(**tensors, embedding=embedding)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s) and is made again", path, error)
        return None
