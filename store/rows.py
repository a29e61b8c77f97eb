"""Which id is in which row of the matrix, which rows are live, and where their records lie.

Rows are numbered by their order in the journal, so that every process counts alike. A replaced or
deleted row stays where it is, dead, until compaction. Owned by a collection, which holds its lock.
"""

import bisect
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

RowNumbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class RowTable:
    """The rows of one generation of a journal."""

    def __init__(self) -> None:
        self.ids: list[str] = []  # by row; only ever appended to
        self.row_of: dict[str, int] = {}  # live ids
        self._alive: Mask = np.zeros(1024, np.bool_)
        self._first: list[int] = []  # first row of each record
        self._offset: list[int] = []  # where each record starts in the journal
        self._sorted: list[str] = []
        self._sorted_upto = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dead(self) -> int:
        """How many rows are dead."""
        return len(self.ids) - len(self.row_of)

    def put(self, ids: list[str], offset: int) -> None:
        """Add a record's rows; rows that had these ids die."""
        first = len(self.ids)
        self._first.append(first)
        self._offset.append(offset)
        self.ids += ids
        while len(self._alive) < len(self.ids):
            self._alive = np.concatenate([self._alive, np.zeros_like(self._alive)])
        self._alive[first : len(self.ids)] = True
        for row, id_ in enumerate(ids, first):
            old = self.row_of.get(id_)
            if old is not None:
                self._alive[old] = False
            self.row_of[id_] = row

    def remove(self, ids: Iterable[str]) -> None:
        """Let the rows of these ids die."""
        for id_ in ids:
            row = self.row_of.pop(id_, None)
            if row is not None:
                self._alive[row] = False

    def alive(self) -> Mask | None:
        """Return which rows are live, now and ever after; None when all are."""
        return self._alive[: len(self.ids)].copy() if self.dead else None

    def place(self, row: int) -> tuple[int, int]:
        """Return the offset of a row's record and the row's number within it."""
        record = bisect.bisect_right(self._first, row) - 1
        return self._offset[record], row - self._first[record]

    def records(self, first_row: int) -> list[tuple[int, int]]:
        """Return (first row, offset) of the records that hold `first_row` and all after it."""
        start = max(bisect.bisect_right(self._first, first_row) - 1, 0)
        offsets = self._offset[start:]  # while rows are added: `put` adds to these last
        return list(zip(self._first[start:], offsets, strict=False))

    def after(self, cursor: str | None) -> Iterable[str]:
        """Yield the live ids behind `cursor`, in order."""
        if self._sorted_upto < len(self.ids):  # almost sorted already, which sort() is fast on
            self._sorted += self.ids[self._sorted_upto :]
            self._sorted.sort()
            self._sorted_upto = len(self.ids)
        start = 0 if cursor is None else bisect.bisect_right(self._sorted, cursor)
        last = cursor
        for i in range(start, len(self._sorted)):
            id_ = self._sorted[i]
            if id_ != last and id_ in self.row_of:
                yield id_
            last = id_
