"""The exact nearest neighbours of each of many vectors, by cosine."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.budget import UNBOUNDED, Budget

MOST = 15  # neighbours of each; UMAP's own default
BLOCK = 1 << 23  # similarities at once: 32 MB
GROUP = 16  # columns of which only the best is compared first


@dataclass(frozen=True)
class Neighbours:
    """Those of some of the vectors, nearest first: indices and distances, both (rows, k).

    `start` is the first of these vectors. A distance is 1 minus the cosine.
    """

    start: int
    indices: NDArray[np.uint32]
    distances: NDArray[np.float32]


def directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, d) vectors at length 1, made in place; one of length 0 stays."""
    lengths = np.sqrt(np.vecdot(vectors, vectors))[:, None]
    vectors /= np.where(lengths > 0, lengths, 1)
    return vectors


def nearest(
    rows: NDArray[np.float32], start: int, most: int, budget: Budget = UNBOUNDED
) -> Neighbours:
    """Return the neighbours of unit vectors (n, d) from `start` on, up to `most` of these vectors.

    Raises DeadlineExceeded and ClientGone. All of 20,000 x 384 take 4 s of one core, of 50,000 x
    384 27 s (AMD EPYC, 2026-11-30).
    """
    n = len(rows)
    if n < 2:
        none = np.empty((n, 0))
        return Neighbours(start, none.astype(np.uint32), none.astype(np.float32))
    k, step, end = min(MOST, n - 1), max(1, BLOCK // n), min(n, start + most)
    indices, distances = [np.empty((0, k), np.uint32)], [np.empty((0, k), np.float32)]
    for at in range(start, end, step):
        budget.check()
        upto = min(end, at + step)
        alike = rows[at:upto] @ rows.T
        own = np.arange(upto - at)
        alike[own, at + own] = -np.inf
        best = _best(alike, k)
        values = np.take_along_axis(alike, best, 1)
        order = np.lexsort((best, -values))
        indices.append(np.take_along_axis(best, order, 1).astype(np.uint32))
        distances.append((1 - np.take_along_axis(values, order, 1)).clip(0))
    return Neighbours(start, np.concatenate(indices), np.concatenate(distances))


def _best(alike: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the columns of the `k` largest of each row, in no order.

    They are in the `k` groups whose largest are the largest, and a group's largest is found many
    times as fast as the `k` largest of a whole row.
    """
    rows, n = alike.shape
    width = n // GROUP
    if width <= 2 * k:
        return np.argpartition(alike, n - k, 1)[:, n - k :]
    tops = alike[:, : width * GROUP].reshape(rows, GROUP, width).max(axis=1)
    groups = np.argpartition(tops, width - k, 1)[:, width - k :]
    columns = (groups[:, :, None] + width * np.arange(GROUP)).reshape(rows, -1)
    rest = np.broadcast_to(np.arange(width * GROUP, n), (rows, n - width * GROUP))
    columns = np.concatenate([columns, rest], 1)
    found = np.take_along_axis(alike, columns, 1)
    inside = np.argpartition(found, found.shape[1] - k, 1)[:, -k:]
    return np.take_along_axis(columns, inside, 1)
