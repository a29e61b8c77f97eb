"""Exact top-k by inner product: one float32 pass finds the candidates, float64 settles their order.

BLAS sums in an order that depends on a row's place and the batch's size, so its float32 scores of
equal vectors differ in the last bits. It is therefore only trusted to within `slack`: everything
that near to the k-th score is a candidate, and candidates are scored again one row at a time. So
every worker, page and batch gives the same hits in the same order.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import numpy as np
import numpy.typing as npt

from store.base import Metric, Vectors
from store.budget import UNBOUNDED, Budget
from store.rows import Mask, RowNumbers

# Rows of one block: the scores of 64 queries stay in the cache; larger gains nothing.
BLOCK = 8192
# Rows that one thread scores before it asks for more: 25 MB of 384 floats. Blocks of 1024 and 4096
# rows were up to 15 % slower in one of three runs.
STRETCH = 16384
# Two cores gained nothing over one where it was measured; more than four were never tried.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = min(4, CORES)
# Scores whose greatest stands for them when the k-th best is bounded.
GROUP = 256
# More than these are not asked of a graph but of the matrix. A choice, not a measurement.
MOST_NEAREST = 2048
# Rows copied out at a time: 1024 x 384 floats stay in the L2 cache, in one buffer used again.
GATHER_BLOCK = 1024
# Rows that match are copied out below this share of all rows, and masked above it.
GATHER_SHARE = 0.2

Scores = npt.NDArray[np.float32]


def slack(queries: Vectors, largest_norm: float) -> Scores:
    """Return by how much BLAS may miss each query's scores, (q,).

    Each of some 16 partial sums adds d/16 products, each with a relative error of 2**-24; doubled.
    """
    d = queries.shape[1]
    norms = np.sqrt(np.sum(queries.astype(np.float64) ** 2, axis=1))
    return np.asarray(norms * largest_norm * (d / 8 + 16) * 2.0**-24, np.float32)


def candidates(
    matrix: Vectors, queries: Vectors, want: int, allowed: Mask | None, margin: Scores,
    budget: Budget = UNBOUNDED,
) -> list[RowNumbers]:  # fmt: skip
    """Return for each query the rows that may be among its `want` best.

    matrix (n, d), queries (q, d), allowed (n,) or None for all, margin (q,) from `slack`.
    """
    if allowed is not None:
        rows = np.flatnonzero(allowed)
        if len(rows) < GATHER_SHARE * len(matrix):
            picked = _Gathered(matrix, rows)
            return [rows[found] for found in _scan(picked, queries, want, None, margin, budget)]
        if len(rows) == len(matrix):
            allowed = None
    return _scan(matrix, queries, want, allowed, margin, budget)


class Nearest(Protocol):
    """Names rows near to a query without looking at all of them: `graph_index.Graph`."""

    rows: int  # the first so many are known to it

    def nearest(self, queries: Vectors, count: int) -> RowNumbers:
        """Return about the `count` nearest rows of each query, (q, count); (q, 0) if too few."""


def approximate(
    graph: Nearest, matrix: Vectors, queries: Vectors, want: int, allowed: Mask | None, count: int,
    margin: Scores, budget: Budget = UNBOUNDED,
) -> list[RowNumbers] | None:  # fmt: skip
    """Return for each query rows among which its `want` best most likely are.

    As `candidates`; `count` rows are allowed. None where the graph would leave a query short of
    `want`, or where so few are allowed that looking at all of them is better.
    """
    if count < max(want, GATHER_SHARE * len(matrix)):
        return None
    fetch = min(want if allowed is None else want * len(matrix) * 3 // (count * 2) + 16, graph.rows)
    if fetch > MOST_NEAREST:
        return None
    later = None if allowed is None else allowed[graph.rows :]
    newer = candidates(matrix[graph.rows :], queries, want, later, margin, budget)
    found = []
    for near, new in zip(graph.nearest(queries, fetch), newer, strict=True):
        kept = near if allowed is None else near[allowed[near]]
        if len(kept) < want:
            return None
        found.append(np.concatenate([kept, new + graph.rows]))
    return found


# Buffers to use again: fresh memory costs a page fault every 4 KiB, which doubled the time of a
# search among 10,000 rows.
SPARE = 8
_spare: list[Vectors] = []


class _Gathered:
    """Some rows of a matrix, copied out block by block; a block lasts until the next."""

    def __init__(self, matrix: Vectors, rows: RowNumbers) -> None:
        self.matrix, self.rows = matrix, rows
        size = GATHER_BLOCK * matrix.shape[1]
        self._buffer: Vectors = np.empty(0, np.float32)
        with suppress(IndexError):
            self._buffer = _spare.pop()
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.float32)

    def __del__(self) -> None:
        if len(_spare) < SPARE:
            _spare.append(self._buffer)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Vectors:
        rows = self.rows[part]
        shape = len(rows), self.matrix.shape[1]
        out = self._buffer[: shape[0] * shape[1]].reshape(shape)
        return np.take(self.matrix, rows, axis=0, out=out, mode="clip")


def _scan(
    matrix: Vectors | _Gathered, queries: Vectors, want: int, allowed: Mask | None, margin: Scores,
    budget: Budget,
) -> list[RowNumbers]:  # fmt: skip
    size = BLOCK if isinstance(matrix, np.ndarray) else GATHER_BLOCK
    if len(queries) == 1:
        scores = _scores(matrix, queries[0])
        if allowed is not None:
            scores[~allowed] = -np.inf
        return [_best(scores, want, margin[0])]
    best = [_Best(want, float(each)) for each in margin]
    for start in range(0, len(matrix), size):
        budget.check()
        block = queries @ matrix[start : start + size].T  # (q, rows of the block)
        if allowed is not None:
            block[:, ~allowed[start : start + size]] = -np.inf
        floor = np.array([each.floor for each in best], np.float32)
        for i in np.flatnonzero(block.max(axis=1) > floor):
            found = np.flatnonzero(block[i] > floor[i])
            best[i].add(block[i, found], found + start)
    return [each.rows() for each in best]


def _scores(matrix: Vectors | _Gathered, query: Vectors) -> Scores:
    """Return the inner products of all rows with one query, (n,), by as many threads as it pays.

    One dot product a row, since gemv takes 1.25 times as long: 200,000 x 384 by gemv on two
    cores 12.9 ms, by dot products 10.1, a mere read 10.0.
    """
    out = np.empty(len(matrix), np.float32)
    # Rows taken at a time, and the fewest for which one more thread pays.
    whole = isinstance(matrix, np.ndarray)
    stretch, least = (STRETCH, STRETCH) if whole else (GATHER_BLOCK, 4 * GATHER_BLOCK)
    starts = iter(range(0, len(matrix), stretch))  # shared: who is faster takes more

    def work(rows: Vectors | _Gathered) -> None:
        for start in starts:
            part = slice(start, start + stretch)
            np.vecdot(rows[part], query, out=out[part])

    helpers = []
    for _ in range(min(THREADS, len(matrix) // least) - 1):  # each with a buffer of its own
        own = _Gathered(matrix.matrix, matrix.rows) if isinstance(matrix, _Gathered) else matrix
        helpers.append(threading.Thread(target=work, args=(own,)))
        helpers[-1].start()
    work(matrix)
    for helper in helpers:
        helper.join()
    return out


class _Best:
    """The candidates of one query so far."""

    def __init__(self, want: int, margin: float) -> None:
        self._want, self._margin = want, margin
        self._scores: list[Scores] = []
        self._rows: list[RowNumbers] = []
        self._held = 0
        self.floor = -np.inf  # what a score must be above to matter

    def add(self, scores: Scores, rows: RowNumbers) -> None:
        self._scores.append(scores)
        self._rows.append(rows)
        self._held += len(rows)
        if self._held >= 2 * self._want or self.floor == -np.inf:
            self._settle()

    def _settle(self) -> None:
        scores, rows = np.concatenate(self._scores), np.concatenate(self._rows)
        keep = _best(scores, self._want, self._margin)
        self._scores, self._rows, self._held = [scores[keep]], [rows[keep]], 0
        if len(scores) >= self._want:
            kth = np.partition(self._scores[0], -self._want)[-self._want]
            self.floor = float(np.nextafter(np.float32(kth - self._margin), np.float32(-np.inf)))

    def rows(self) -> RowNumbers:
        if not self._rows:
            return np.empty(0, np.int64)
        self._settle()
        return self._rows[0]


def _best(scores: Scores, want: int, margin: float | np.floating) -> RowNumbers:
    """Return where the scores are not clearly below the `want`-th best, (m,)."""
    rows = None
    groups = len(scores) // GROUP
    if groups >= 4 * want:  # the want-th greatest of the groups' greatest is not above the k-th
        greatest = scores[: groups * GROUP].reshape(-1, GROUP).max(axis=1)
        bound = np.partition(greatest, -want)[-want] - margin
        rows = np.flatnonzero(scores >= bound)
        scores = scores[rows]
    kth = np.partition(scores, -want)[-want] if len(scores) > want else -np.inf
    near = np.flatnonzero((scores >= kth - margin) & (scores > -np.inf))
    return near if rows is None else rows[near]


def settle(
    matrix: Vectors, rows: RowNumbers, query: Vectors, ids_of: Callable[[RowNumbers], list[str]],
    metric: Metric, first: int, count: int, min_score: float | None, budget: Budget = UNBOUNDED,
) -> list[tuple[int, float]]:  # fmt: skip
    """Return (row, score) of the candidates in their final order, `count` from `first` on.

    Ids are read only of rows whose place among equal scores depends on them.
    """
    scores, wide = np.empty(len(rows), np.float32), query.astype(np.float64)
    for start in range(0, len(rows), GATHER_BLOCK):  # summed row by row
        budget.check()
        part = matrix[rows[start : start + GATHER_BLOCK]].astype(np.float64)
        scores[start : start + GATHER_BLOCK] = np.sum(part * wide, axis=1)
    if metric == "cosine":
        np.clip(scores, -1, 1, out=scores)
    if min_score is not None:
        near = scores >= np.float32(min_score)
        rows, scores = rows[near], scores[near]
    order = np.argsort(-scores, kind="stable")
    rows, scores = rows[order], scores[order]
    window = scores[first : first + count]
    if not len(window):
        return []
    start = int(np.searchsorted(-scores, -window[0]))  # the ties of both ends, too
    stop = int(np.searchsorted(-scores, -window[-1], side="right"))
    inside, ranked = rows[start:stop], list(range(stop - start))
    if (scores[start + 1 : stop] == scores[start : stop - 1]).any():
        keys = list(zip((-scores[start:stop]).tolist(), ids_of(inside), strict=True))
        ranked.sort(key=keys.__getitem__)
    ranked = ranked[first - start : first - start + count]
    return list(zip(inside[ranked].tolist(), scores[start:stop][ranked].tolist(), strict=True))
