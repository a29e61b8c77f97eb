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
    dim = store.info(name).dim
    vectors = np.array([record.vector for record in records], np.float32).reshape(-1, dim)
    return Chart(records, project(vectors), store.info(name).count)


def project(vectors: Points) -> Plane:
    """Project (n, d) vectors on their first two principal components; each axis fits -1 to 1.

    Solved on the smaller of the (d, d) and (n, n) products, in float64. A component's sign is free;
    here its largest entry is positive, so that the same vectors always give the same picture.
    """
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=0) if len(centred) else 0.0
    n, d = centred.shape
    points = np.zeros((n, 2))
    wide = d > n
    values, axes = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    total = float(values.clip(0).sum())
    shares = [0.0, 0.0]
    if total <= 1e-9 * max(n, 1):  # all the same vector, or none: there is nothing to spread
        return Plane(points.astype(np.float32), (0.0, 0.0))
    for column in range(min(2, len(values))):
        value = max(float(values[-1 - column]), 0.0)
        axis = axes[:, -1 - column]
        place = axis * np.sqrt(value) if wide else centred @ axis
        points[:, column] = place * (np.sign(place[np.abs(place).argmax()]) or 1.0)
        shares[column] = value / total
    reach = np.abs(points).max()
    return Plane((points / reach).astype(np.float32), (shares[0], shares[1]))
