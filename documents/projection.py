"""Vectors as points on a plane: on their first two principal components."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.budget import UNBOUNDED, Budget

Points = NDArray[np.float32]
# If the smaller side of the vectors is at most this the axes are exact: 512 take 0.1 s.
EXACT_SIDE = 512
# Else so many directions are followed so often: 2,000 x 16,000 take 2 s of one core instead of 12,
# and 2,000 x 1,536 show 0.9996 of the exact variance (2026-11-29).
DIRECTIONS, ROUNDS = 12, 12


@dataclass(frozen=True)
class Plane:
    """Points (n, 2) from -1 to 1, and the share of all variance that each axis shows."""

    points: Points
    explained: tuple[float, float]


def project(vectors: Points, budget: Budget = UNBOUNDED) -> Plane:
    """Return (n, d) vectors on their first two principal components, scaled to -1 to 1.

    A component is signed so that its largest entry is positive: the same vectors give the same
    picture.
    """
    centre = vectors.mean(axis=0, dtype=np.float64) if len(vectors) else np.zeros(vectors.shape[1])
    small = min(vectors.shape) <= EXACT_SIDE
    centred = vectors.astype(np.float64) - centre if small else vectors - centre.astype(np.float32)
    axes, shares = _axes(centred, budget)
    points = centred @ axes
    reach = np.abs(points).max(initial=0.0) or 1.0
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
