"""A collection as points on a plane: its vectors on their first two principal components."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from errors import Busy
from store import Record, VectorStore
from store.base import Part
from store.budget import UNBOUNDED, Budget

Points = NDArray[np.float32]
PAGE, NUMBERS = 500, 1_000_000  # records, and numbers, that are read at once
# If the smaller side of the vectors is at most this the axes are exact: 512 take 0.1 s.
EXACT_SIDE = 512
# Else so many directions are followed so often: 2,000 x 16,000 take 2 s of one core instead of 12,
# and 2,000 x 1,536 show 0.9996 of the exact variance (2026-11-29).
DIRECTIONS, ROUNDS = 12, 12
# One map at a time: the largest, 2,000 x 16,000, holds some 300 MB, from PostgreSQL 500. So many
# others wait so long, each on one of the service's threads.
TURN_S, STEP_S, WAITING_MOST = 5.0, 0.1, 2
SMALL = 200_000  # numbers of a map that does not wait: it takes a few MB and 0.1 s
_turn, _waiting = threading.Lock(), threading.Semaphore(WAITING_MOST)


@dataclass(frozen=True)
class Plane:
    """Points (n, 2) from -1 to 1, and the share of all variance that each axis shows."""

    points: Points
    explained: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """Records and their points; `total` is the number of records in the collection."""

    records: Sequence[Record]
    plane: Plane
    total: int


def chart(
    store: VectorStore, name: str, limit: int, budget: Budget = UNBOUNDED,
    ids: Sequence[str] | None = None,
) -> Chart:  # fmt: skip
    """Return a map of up to `limit` random records of a collection.

    With `ids` it shows those that exist instead, on the same axes. Raises NotFound, Busy.
    """
    wanted = list(dict.fromkeys(ids or ()))
    dim, total = store.identity(name).dim, store.count(name, budget=budget)
    with _one_at_a_time((min(limit, total) + len(wanted)) * dim, budget):
        asked = None if ids is None else _read(store, name, wanted, dim, budget)
        sample = store.sample(name, limit, budget)
        records, vectors = _read(store, name, sample, dim, budget, texts=asked is None)
        if asked is None:
            return Chart(records, project(vectors, budget=budget), total)
        return Chart(asked[0], project(vectors, asked[1], budget), total)


@contextmanager
def _one_at_a_time(numbers: int, budget: Budget) -> Iterator[None]:
    budget.check()
    if numbers <= SMALL:
        yield
        return
    if not (_turn.acquire(blocking=False) or _waited(budget)):
        raise Busy("another map is being made: ask again", retry_after_s=2)
    try:
        yield
    finally:
        _turn.release()


def _waited(budget: Budget) -> bool:
    """Wait for the turn, unless enough others do; return whether it came."""
    if not _waiting.acquire(blocking=False):
        return False
    try:
        end = time.monotonic() + TURN_S
        while time.monotonic() < end:
            budget.check()
            if _turn.acquire(timeout=STEP_S):
                return True
        return False
    finally:
        _waiting.release()


def _read(
    store: VectorStore, name: str, ids: Sequence[str], dim: int, budget: Budget, texts: bool = True
) -> tuple[list[Record], Points]:
    """Return the existing records without vectors, and their vectors (n, d).

    Vectors are not in the reply, so only the texts count against the budget.
    """
    records: list[Record] = []
    vectors = np.empty((len(ids), dim), np.float32)
    include: list[Part] = ["text"] if texts else []
    step = min(PAGE, max(1, NUMBERS // dim))
    for start in range(0, len(ids), step):
        page = ids[start : start + step]
        of = {record.id: record for record in store.get(name, page, include, budget)}
        for each in store.get(name, page, ["vector"], budget.unmetered()):
            if each.id in of:  # not deleted between the two
                vectors[len(records)] = each.vector
                records.append(of[each.id])
    return records, vectors[: len(records)]


def project(vectors: Points, asked: Points | None = None, budget: Budget = UNBOUNDED) -> Plane:
    """Return (n, d) vectors on their first two principal components, scaled to -1 to 1.

    With `asked` (m, d) the points are those instead, clipped to the reach of `vectors`. A component
    is signed so that its largest entry is positive: the same vectors give the same picture.
    """
    centre = vectors.mean(axis=0, dtype=np.float64) if len(vectors) else np.zeros(vectors.shape[1])
    small = min(vectors.shape) <= EXACT_SIDE
    centred = vectors.astype(np.float64) - centre if small else vectors - centre.astype(np.float32)
    axes, shares = _axes(centred, budget)
    points = centred @ axes
    reach = np.abs(points).max(initial=0.0) or 1.0
    if asked is not None:
        points = (asked.astype(np.float64) - centre) @ axes
    return Plane((points / reach).clip(-1, 1).astype(np.float32), shares)


def _axes(centred: NDArray[Any], budget: Budget) -> tuple[NDArray[Any], tuple[float, float]]:
    """Return the first two principal axes (d, 2) of centred (n, d) rows, and their shares.

    An axis without variance is zero.
    """
    n, d = centred.shape
    axes = np.zeros((d, 2), centred.dtype)
    shares = [0.0, 0.0]
    total = float(np.vecdot(centred, centred).sum(dtype=np.float64))
    if total <= 1e-9 * max(n, 1):  # all vectors are the same
        return axes, (0.0, 0.0)
    small = centred.T if d > n else centred  # columns are the smaller side
    exact = min(n, d) <= EXACT_SIDE
    values, found = np.linalg.eigh(small.T @ small) if exact else _strongest(small, budget)
    values, found = values[-2:], found[:, -2:]  # the largest two, ascending
    if d > n:
        found = centred.T @ (found / np.sqrt(values.clip(np.finfo(np.float32).tiny)))
    for column in range(min(2, len(values))):
        value = float(values[-1 - column])
        if value <= 1e-12 * total:
            continue
        axis = found[:, -1 - column].astype(centred.dtype)
        place = centred @ axis
        axes[:, column] = axis * (np.sign(place[np.abs(place).argmax()]) or 1.0)
        shares[column] = value / total
    return axes, (shares[0], shares[1])


def _strongest(rows: NDArray[Any], budget: Budget) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the largest variances of (m, s) rows, ascending, and nearly their axes (s, k).

    Subspace iteration (Halko, Martinsson, Tropp 2011) from fixed directions.
    """
    basis = np.random.default_rng(0).standard_normal((rows.shape[1], DIRECTIONS))
    basis = basis.astype(np.float32)
    for _ in range(ROUNDS):
        budget.check()
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    places = (rows @ basis).astype(np.float64)
    values, turned = np.linalg.eigh(places.T @ places)
    return values, basis @ turned.astype(np.float32)
