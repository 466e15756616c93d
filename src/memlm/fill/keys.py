"""Half keys, and the map of vectors to queries, that tell an entry's cell from all others.

A centroid is near its members and says nothing of who else is near. So keys begin as centroids and are then trained, as
weights of a classifier: by the half of a query a row is to be told among all rows, by the other half a column. Vectors
come with noise, as a paraphrase lies beside its entry and not upon it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from memlm.fill.cells import Grid, assigned, clustered
from memlm.fill.embedding import unit
from memlm.fill.progress import Progress, told

ROUNDS = 3
"""Times that keys are trained; between two of them the entries are assigned anew."""
STEPS = 400
"""Steps of a round."""
BATCH = 2048
NOISE = 0.6
"""Norm of the noise over that of a vector; paraphrases of facts have a cosine of 0.86 with their entry."""
TEMPERATURE = 0.05
"""Of the softmax over cosines."""
RATE = 3e-3


def learned_keys(vectors: np.ndarray, grid: Grid, d_key: int) -> tuple[np.ndarray, np.ndarray, tuple[Tensor, Tensor]]:
    """Returns every entry's slot [N], the map to queries [W, d_key], and the half keys of rows and of columns.

    Args:
        vectors: Of the entries, [N, W], each of length one.
        grid: The cells; a cell's slot is its number.
        d_key: Width of a query, at most W.
    """
    generator = torch.Generator().manual_seed(0)
    X = torch.from_numpy(vectors)
    rotation = torch.linalg.qr(torch.randn(X.shape[1], X.shape[1], generator=generator))[0]
    queries = rotation[:, :d_key].contiguous()  # both halves see something of every component
    rows, columns, keys = _begun(_split(X @ queries), grid, generator)
    parameters = [tensor.requires_grad_() for tensor in (queries, *keys)]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    for number in range(ROUNDS):
        if number:
            rows, columns = _anew(rows, columns, X, parameters, grid)
        _train(optimizer, parameters, X, (torch.from_numpy(rows), torch.from_numpy(columns)), generator)
    queries, *keys = (tensor.detach() for tensor in parameters)
    return rows * grid.n_columns + columns, queries.numpy(), (keys[0], keys[1])


def _begun(
    halves: tuple[np.ndarray, np.ndarray], grid: Grid, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray, list[Tensor]]:
    """Returns the row and the column of every entry, and the keys of both; the halves are not held after that."""
    lines = clustered(halves, grid)
    sizes = (grid.n_rows, grid.n_columns)
    keys = [_key_means(*each, generator) for each in zip(halves, lines, sizes, strict=True)]
    return *lines, keys


def _split(queries: Tensor) -> tuple[np.ndarray, np.ndarray]:
    left, right = queries.detach().chunk(2, dim=1)
    return left.numpy(), right.numpy()


def _key_means(half: np.ndarray, labels: np.ndarray, n_keys: int, generator: torch.Generator) -> Tensor:
    """Returns the mean direction of each label's entries, a random one where there is none."""
    keys = torch.randn(n_keys, half.shape[1], generator=generator) * 1e-3
    keys.index_add_(0, torch.from_numpy(labels), torch.from_numpy(unit(half)))
    return F.normalize(keys, dim=1)


def _train(
    optimizer: torch.optim.Optimizer,
    parameters: list[Tensor],
    X: Tensor,
    labels: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> None:
    queries, *keys = parameters
    for step in told("training keys", range(STEPS), STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        chosen = torch.randint(len(X), (min(len(X), BATCH),), generator=generator)
        noise = torch.randn(len(chosen), X.shape[1], generator=generator) * (NOISE * X.shape[1] ** -0.5)
        halves = ((X[chosen] + noise) @ queries).chunk(2, dim=1)
        loss = torch.zeros(())
        for half, key, label in zip(halves, keys, labels, strict=True):
            cosines = F.normalize(half, dim=1) @ F.normalize(key, dim=1).T
            loss = loss + F.cross_entropy(cosines / TEMPERATURE, label[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _anew(
    rows: np.ndarray, columns: np.ndarray, X: Tensor, parameters: list[Tensor], grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and columns that suit the keys as they are now."""
    queries, *keys = (tensor.detach() for tensor in parameters)
    left, right = (unit(half) for half in _split(X @ queries))
    over_rows, over_columns = (F.normalize(key, dim=1).numpy() for key in keys)
    progress = Progress("placing entries anew", grid.n_rows + grid.n_columns)
    columns = assigned(rows, grid.n_rows, right, over_columns, grid.columns_of, progress)
    return assigned(columns, grid.n_columns, left, over_rows, grid.rows_of, progress), columns
