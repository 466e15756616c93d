"""A cell of the grid of product keys for every entry: rows by one half of its vector, columns by the other.

Halves are clustered by k-means; rows take no more entries than they have cells. Then the columns of each row's entries
are assigned anew, and the rows of each column's, each time the best way there is (the assignment problem, Kuhn 1955),
so that no two entries share a cell and the sum of similarities to the centroids only grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from memlm.extras import optional
from memlm.fill.embedding import unit
from memlm.fill.progress import Progress, told

BLOCK = 8192
"""Entries whose similarities to all centroids exist at a time."""
SAMPLE = 1 << 17
"""Entries that centroids are found from, at most."""
SWEEPS = 4
"""Times that columns and rows are assigned anew; a fifth moves next to nothing."""


@dataclass(frozen=True)
class Grid:
    """Cells that entries may have: the first ``n_cells`` of a grid with ``n_columns`` columns, row by row."""

    n_cells: int
    n_columns: int

    @property
    def n_rows(self) -> int:
        """Rows of which at least one cell is to be had."""
        return -(-self.n_cells // self.n_columns)

    def columns_of(self, row: int) -> int:
        """Returns how many cells a row has, from its first on."""
        return min(self.n_columns, self.n_cells - row * self.n_columns)

    def rows_of(self, column: int) -> int:
        """Returns how many cells a column has, from its first on."""
        return -(-(self.n_cells - column) // self.n_columns)


def clustered(halves: tuple[np.ndarray, np.ndarray], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row and the column of every entry, [N] each, no cell twice.

    Args:
        halves: The halves of the entries' vectors, [N, C] each; only their direction counts.
        grid: Where they go; there are at least N cells.
    """
    left, right = unit(halves[0]), unit(halves[1])
    lines = ((left, grid.n_rows), (right, grid.n_columns))
    over_rows, over_columns = (_centroids(*each) for each in told("clustering halves", lines, len(lines)))
    rows = _within_capacity(left, over_rows, [grid.columns_of(row) for row in range(grid.n_rows)])
    columns = np.zeros_like(rows)
    progress = Progress("placing entries", SWEEPS * (grid.n_rows + grid.n_columns))
    for _ in range(SWEEPS):
        columns = assigned(rows, grid.n_rows, right, over_columns, grid.columns_of, progress)
        over_columns = _means(right, columns, over_columns)
        rows = assigned(columns, grid.n_columns, left, over_rows, grid.rows_of, progress)
        over_rows = _means(left, rows, over_rows)
    return rows, columns


def assigned(
    lines: np.ndarray,
    n_lines: int,
    vectors: np.ndarray,
    keys: np.ndarray,
    cells_of: Callable[[int], int],
    progress: Progress,
) -> np.ndarray:
    """Returns the best place for every entry within its line, each place once.

    Args:
        lines: The line (row or column) of every entry, [N].
        n_lines: How many there are.
        vectors: The half that decides, [N, C].
        keys: The key of each place of a line, [M, C].
        cells_of: Returns how many places a line has, from the first on.
        progress: Is told of each line.
    """
    places = np.empty_like(lines)
    ends = np.bincount(lines, minlength=n_lines).cumsum()
    for line, members in enumerate(np.split(lines.argsort(kind="stable"), ends[:-1])):
        scores = vectors[members] @ keys[: cells_of(line)].T
        chosen, found = linear_sum_assignment(scores, maximize=True)
        places[members[chosen]] = found
        progress.step()
    return places


def _centroids(vectors: np.ndarray, n_clusters: int) -> np.ndarray:
    """Returns the directions of clusters, [n_clusters, C]; entries stand for the clusters that are too many."""
    cluster = optional("sklearn.cluster", "fill", "filling a bank from a database")
    if len(vectors) <= n_clusters:
        return vectors[np.arange(n_clusters) % len(vectors)]
    sample = vectors[:: -(-len(vectors) // max(SAMPLE, n_clusters))]
    found = cluster.MiniBatchKMeans(n_clusters, random_state=0, batch_size=4096, n_init=1, max_iter=30).fit(sample)
    return unit(found.cluster_centers_.astype(np.float32))


def _within_capacity(vectors: np.ndarray, centroids: np.ndarray, capacity: list[int]) -> np.ndarray:
    """Returns a centroid for every vector, the best that is not full; where too many want one, the nearest have it."""
    free = np.array(capacity)
    found = np.full(len(vectors), -1)
    waiting = np.arange(len(vectors))
    while len(waiting):
        wanted, score = np.empty_like(waiting), np.empty(len(waiting), np.float32)
        roomy = free.nonzero()[0]
        for start in range(0, len(waiting), BLOCK):
            part = slice(start, start + BLOCK)
            scores = vectors[waiting[part]] @ centroids[roomy].T
            best = scores.argmax(1)
            wanted[part], score[part] = roomy[best], scores[np.arange(len(best)), best]
        order = np.lexsort((-score, wanted))
        sizes = np.bincount(wanted, minlength=len(free))
        rank = np.arange(len(order)) - np.repeat(sizes.cumsum() - sizes, sizes)  # among those who want the same
        lucky = order[rank < free[wanted[order]]]
        found[waiting[lucky]] = wanted[lucky]
        free -= np.bincount(wanted[lucky], minlength=len(free))
        waiting = np.delete(waiting, lucky)
    return found


def _means(vectors: np.ndarray, labels: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Returns the direction of each label's mean, and the old one where no vector has the label."""
    sums = np.zeros_like(old)
    np.add.at(sums, labels, vectors)
    return np.where(np.bincount(labels, minlength=len(old))[:, None] > 0, unit(sums), old)
