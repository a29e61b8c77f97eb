"""A collection as it was at one moment, and reading its rows back from the journal."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from errors import Corrupt
from store.base import Part, Record, Vectors
from store.filters import Filter, matches
from store.frames import read_pickle, read_raw
from store.journal import Journal
from store.rows import Mask, RowNumbers, RowTable
from store.unpickle import loads


@dataclass(frozen=True)
class Snapshot:
    """A collection as it was at one moment; later writes do not change what it answers."""

    journal: Journal
    matrix: Vectors  # (n, d)
    table: RowTable
    allowed: Mask | None  # (n,) live and matching, None: all
    count: int  # of the allowed

    def rows(self) -> RowNumbers:
        """Return the allowed rows, in order."""
        return np.arange(len(self.matrix)) if self.allowed is None else np.flatnonzero(self.allowed)

    def ids(self) -> list[str]:
        """Return the ids of the allowed rows."""
        return [self.table.ids[row] for row in self.rows().tolist()]

    def has(self, row: int, tree: Filter | None) -> bool:
        """Tell whether a row that lives matches what the snapshot was narrowed to, `tree`."""
        if row < len(self.matrix):
            return self.allowed is None or bool(self.allowed[row])
        return matches(tree, self.record(row, frozenset({"metadata"})).metadata or {})

    def record(self, row: int, parts: frozenset[Part]) -> Record:
        """Read one row back from the journal."""
        return next(self.records([row], parts))

    def records(self, rows: Iterable[int], parts: frozenset[Part]) -> Iterator[Record]:
        """Read rows, with those parts that are asked for.

        A record of the journal holds many rows: it is read once for those that come in a row.
        """
        at, raw = -1, b""
        data: dict[str, Any] = {}
        dim = self.matrix.shape[1]
        for row in rows:
            offset, i = self.table.place(row)
            if offset != at:
                if "vector" in parts:
                    raw = read_raw(self.journal.read, offset)
                if "text" in parts or "metadata" in parts:
                    data = loads(read_pickle(self.journal.read, offset))
                at = offset
            yield Record(
                self.table.ids[row],
                np.frombuffer(raw, "<f4", dim, i * dim * 4).astype(np.float32)
                if "vector" in parts
                else None,
                data["t"][i] if "text" in parts else None,
                data["m"][i] if "metadata" in parts else None,
            )


class MetadataReader:
    """Reads the metadata of a row and all after it, in order, from the journal."""

    def __init__(self, journal: Journal, table: RowTable) -> None:
        self._journal, self._table = journal, table

    def __call__(self, first_row: int) -> Iterator[dict[str, Any]]:
        """Yield the metadata of `first_row` and of all rows after it."""
        for first, offset in self._table.records(first_row):
            metadata = loads(read_pickle(self._journal.read, offset))["m"]
            yield from metadata[max(first_row - first, 0) :]


class RecordCache:
    """Reads rows one by one, each record but once while they come in order."""

    def __init__(self, journal: Journal, dim: int) -> None:
        self._journal, self._bytes = journal, dim * 4
        self._offset = -1

    def __call__(self, offset: int, i: int) -> tuple[str | None, object, bytes]:
        """Return the text, metadata and raw vector of row `i` of the record at `offset`."""
        if offset != self._offset:
            self._data = loads(read_pickle(self._journal.read, offset))
            self._raw = read_raw(self._journal.read, offset)
            self._offset = offset
        raw = self._raw[i * self._bytes : (i + 1) * self._bytes]
        if len(raw) != self._bytes:
            raise Corrupt(f"the record at {offset} of the journal is too short")
        return self._data["t"][i], self._data["m"][i], raw
