"""Which record is at which place of the matrix.

Records are numbered as they are written (`row`), and lie in the matrix in that order (`place`).
A compaction leaves the dead out: the rows it kept come first, all later ones follow.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from errors import Corrupt

RowNumbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """The numbering of one generation of the matrix."""

    kept: RowNumbers  # rising; their places are 0, 1, ...
    first: int  # the row that has the place after them
    file: Path  # that has the records

    def row(self, place: int) -> int:
        """Return the row at one place."""
        n = len(self.kept)
        return int(self.kept[place]) if place < n else self.first + place - n

    def place(self, row: int) -> int:
        """Return the place of one row."""
        n = len(self.kept)
        return row - self.first + n if row >= self.first else int(np.searchsorted(self.kept, row))

    def rows(self, places: RowNumbers) -> RowNumbers:
        """Return the rows at some places, (n,)."""
        n = len(self.kept)
        out = places + (self.first - n)
        old = places < n
        out[old] = self.kept[places[old]]
        return out

    def places(self, found: list[Any], n: int = sys.maxsize) -> RowNumbers:
        """Return the places of some rows. Raises Corrupt for one without a place below `n`."""
        try:
            rows = np.array(found, np.int64)
            out = rows - (self.first - len(self.kept))
            old = rows < self.first
            out[old] = np.searchsorted(self.kept, rows[old])
            if not len(out) or (out.max() < n and (self.rows(out) == rows).all()):
                return out
        except (TypeError, ValueError, OverflowError, IndexError):
            pass
        raise Corrupt(f"{self.file} is damaged; run: python -m store repair")


class Alive:
    """Which places hold a living record. Owned by a collection, which holds its lock."""

    def __init__(self, n: int) -> None:
        self.n, self.dead = n, 0  # places, and how many of them are dead
        self._mask: Mask = np.ones(max(n, 1024), np.bool_)

    def grow(self, n: int) -> None:
        """Add places up to `n`, all living."""
        while len(self._mask) < n:
            self._mask = np.concatenate([self._mask, np.ones_like(self._mask)])
        self.n = max(n, self.n)

    def kill(self, places: RowNumbers) -> None:
        """Mark places as dead."""
        self._mask[places] = False
        self.dead += len(places)

    def living(self) -> int:
        """Return how many places live."""
        return int(np.count_nonzero(self._mask[: self.n]))

    def mask(self) -> Mask | None:
        """Return which places live, now and ever after, (n,); None when all do."""
        return self._mask[: self.n].copy() if self.dead else None
