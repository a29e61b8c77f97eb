"""A collection as one call sees it: the rows of the matrix and the records that belong to them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import ge
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from store.base import Metric, Part, Record, Vectors
from store.budget import Budget
from store.filters import Filter
from store.matrix import Matrix
from store.metadata_columns import MetadataColumns, ReadMetadata
from store.records import (
    BRIEF,
    COLUMNS,
    after_row,
    by_id,
    by_row,
    damaged,
    damaged_file,
    decoded,
    metadata_of,
)
from store.rows import Mask, RowNumbers, Rows


@dataclass
class Snapshot:
    """A collection as it is at one moment, while its transaction lasts.

    What belongs to a generation comes with it: others may take in the next one meanwhile, and the
    collection may be closed.
    """

    connection: apsw.Connection
    file: Path
    generation: int
    metric: Metric
    numbering: Rows
    columns: MetadataColumns  # of the generation; whoever reads them holds `deciding`
    stored: Matrix  # the generation's file, for the writer
    matrix: Vectors  # (n, d)
    lost: RowNumbers  # places whose rows are not known: their records are damaged
    allowed: Mask | None  # (n,) living and matching, None: all
    count: int  # of the allowed

    def places(self) -> RowNumbers:
        """Return the allowed places of the matrix, in order."""
        return np.arange(len(self.matrix)) if self.allowed is None else np.flatnonzero(self.allowed)

    def matching(self, tree: Filter, budget: Budget) -> Mask:
        """Return which places match, dead ones too, (n,). With `deciding` held."""
        read, n = reader(self.connection, self.numbering, self.file), len(self.matrix)
        self.columns.follow(read, n, budget)
        return self.columns.mask(tree, read, n, budget)

    def ids(self, places: RowNumbers) -> list[str]:
        """Return the ids of the records at some places, in their order."""
        rows = self.numbering.rows(places)
        ids = dict(by_row(self.connection, rows, "row, id"))
        found: list[Any] = [ids.get(row) for row in rows.tolist()]
        if not all(isinstance(id_, str) for id_ in found):
            raise damaged_file(self.file)
        return found

    def check_rows(self) -> None:
        """Raise Corrupt if the row of an allowed record is not known, so that none can rank it."""
        lost = self.lost if self.allowed is None else self.lost[self.allowed[self.lost]]
        if len(lost):
            raise damaged(self.ids(lost[:1])[0], self.file)

    def records(
        self, places: Sequence[int], parts: frozenset[Part], budget: Budget
    ) -> Iterator[tuple[int, Record]]:
        """Yield (place, record) for some places, some at a time."""
        for start in range(0, len(places), 32):
            budget.check()
            some = np.array(places[start : start + 32], np.int64)
            rows = self.numbering.rows(some)
            found = self._decoded(by_row, rows, parts)
            if len(found) < len(rows):
                raise damaged_file(self.file)
            yield from zip(some.tolist(), map(found.__getitem__, rows.tolist()), strict=True)

    def named(self, ids: list[str], parts: frozenset[Part], budget: Budget) -> Iterator[Record]:
        """Yield the records of those ids that exist, in their order, some at a time."""
        for start in range(0, len(ids), 32):
            budget.check()
            some = ids[start : start + 32]
            found = {each.id: each for each in self._decoded(by_id, some, parts).values()}
            if not found.keys() <= set(some):  # the index leads to another record
                raise damaged(next(iter(found.keys() - set(some))), self.file)
            yield from (found[id_] for id_ in some if id_ in found)

    def _decoded(
        self, select: Callable[..., list[Any]], wanted: object, parts: frozenset[Part]
    ) -> dict[int, Record]:
        stored = select(self.connection, wanted, COLUMNS if "vector" in parts else BRIEF)
        dim = self.matrix.shape[1]
        return {each[0]: decoded(each, parts, self.file, dim) for each in stored}

    def after(self, cursor: str | None, limit: int, budget: Budget) -> list[str]:
        """Return up to `limit` allowed ids behind `cursor`, in order."""
        if self.count <= 10 * limit and self.allowed is not None:
            ids = sorted(self.ids(self.places()))
            self._check_rising(ids)
            return [id_ for id_ in ids if cursor is None or id_ > cursor][:limit]
        found: list[str] = []
        sql = "SELECT id, row FROM records WHERE id > ? ORDER BY id LIMIT ?"
        while len(found) < limit:
            budget.check()
            some: list[Any] = self.connection.execute(sql, (cursor or "", 2 * limit)).fetchall()
            if not some:
                break
            self._check_rising([cursor or "", *(id_ for id_, _ in some)])
            places = self.numbering.places([row for _, row in some], len(self.matrix))
            fits = [True] * len(some) if self.allowed is None else self.allowed[places].tolist()
            found += [id_ for (id_, _), fit in zip(some, fits, strict=True) if fit]
            cursor = some[-1][0]
        return found[:limit]

    def _check_rising(self, ids: list[str]) -> None:
        """Raise Corrupt if an id comes twice or out of order: the index is damaged."""
        if not all(isinstance(id_, str) for id_ in ids) or any(map(ge, ids, ids[1:])):
            raise damaged_file(self.file)


def reader(connection: apsw.Connection, numbering: Rows, file: Path) -> ReadMetadata:
    """Return what yields (place, metadata) of the records between two places, in order."""

    def read(place: int, n: int) -> Iterator[tuple[int, dict[str, Any]]]:
        row = numbering.row(place)
        while some := after_row(connection, row, file, BRIEF):
            places = numbering.places([each[0] for each in some])
            for at, metadata in zip(places.tolist(), metadata_of(some, file), strict=True):
                if at >= n:
                    return
                yield at, metadata
            row = some[-1][0] + 1

    return read
