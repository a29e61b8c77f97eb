"""A collection as points on a plane: its vectors, projected to where they differ most.

Reads any vector store through its contract. Knows no HTTP, no model and no drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store import Record, VectorStore

Points = NDArray[np.float32]
PAGE = 500  # records read at once


@dataclass(frozen=True)
class Plane:
    """Points (n, 2), and the share of all variance that each of the two axes shows."""

    points: Points
    explained: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """Records with their places on the plane; `total` is how many the collection holds."""

    records: Sequence[Record]
    plane: Plane
    total: int


def chart(store: VectorStore, name: str, limit: int) -> Chart:
    """Place the first `limit` records of a collection, by id, on a plane. Raises NotFound."""
    records = _first(store, name, limit)
    info = store.info(name)
    return Chart(records, project(_vectors(records, info.dim)), info.count)


def chart_of(store: VectorStore, name: str, limit: int, ids: Sequence[str]) -> Chart:
    """Place those of `ids` that exist where `chart` with the same `limit` has or would have them.

    Raises NotFound.
    """
    base = _first(store, name, limit)
    info = store.info(name)
    records = store.get(name, ids, include=["vector", "text"])
    axes = _vectors(base, info.dim)
    return Chart(records, project(axes, _vectors(records, info.dim)), info.count)


def _first(store: VectorStore, name: str, limit: int) -> list[Record]:
    records: list[Record] = []
    cursor: str | None = None
    while len(records) < limit:
        page = store.scroll(
            name, cursor, min(PAGE, limit - len(records)), include=["vector", "text"]
        )
        records += page.records
        cursor = page.next_cursor
        if cursor is None:
            break
    return records


def _vectors(records: Sequence[Record], dim: int) -> Points:
    return np.array([record.vector for record in records], np.float32).reshape(-1, dim)


def project(vectors: Points, asked: Points | None = None) -> Plane:
    """Project (n, d) vectors on their first two principal components; each axis fits -1 to 1.

    With `asked` (m, d) the points are those, on the axes of `vectors`; what is further out than
    all of `vectors` lies on the edge.

    Solved on the smaller of the (d, d) and (n, n) products, in float64. A component's sign is free;
    here its largest entry is positive, so that the same vectors always give the same picture.
    """
    centre = vectors.mean(axis=0, dtype=np.float64) if len(vectors) else 0.0
    centred = vectors.astype(np.float64) - centre
    axes, shares = _axes(centred)
    points = centred @ axes
    reach = np.abs(points).max(initial=0.0) or 1.0
    if asked is not None:
        points = (asked.astype(np.float64) - centre) @ axes
    return Plane((points / reach).clip(-1, 1).astype(np.float32), shares)


def _axes(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return the two axes (d, 2) along which centred (n, d) rows differ most, and their shares.

    An axis along which nothing differs is zero.
    """
    n, d = centred.shape
    axes = np.zeros((d, 2))
    shares = [0.0, 0.0]
    wide = d > n
    values, found = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    total = float(values.clip(0).sum())
    if total <= 1e-9 * max(n, 1):  # all the same vector, or none: there is nothing to spread
        return axes, (0.0, 0.0)
    for column in range(min(2, len(values))):
        value = float(values[-1 - column])
        if value <= 1e-12 * total:
            continue
        axis = found[:, -1 - column]
        if wide:
            axis = centred.T @ axis / np.sqrt(value)
        place = centred @ axis
        axes[:, column] = axis * (np.sign(place[np.abs(place).argmax()]) or 1.0)
        shares[column] = value / total
    return axes, (shares[0], shares[1])
