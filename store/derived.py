"""What is derived from a collection's records for searches, and how it follows them.

The matrix with its numbering, which of its rows live, and the metadata columns. All of it can be
made again from the records. Its owner holds the locks.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from errors import Corrupt
from store.base import Part
from store.budget import Budget
from store.filters import Path as Field
from store.local_disk import boot_id, failures
from store.matrix import Matrix, directions, longest
from store.metadata_columns import MetadataColumns
from store.records import after_row, damaged_file, decoded, own_state, write_state
from store.rows import Alive, RowNumbers, Rows
from store.snapshot import Snapshot, reader

log = logging.getLogger("store")

STATE = (
    "SELECT generation, boot, (SELECT max(row) FROM records), (SELECT max(seq) FROM deaths) "
    "FROM state"
)
COUNTS = "SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM deaths)"
COMPACT_ROWS = 4096  # rows copied at a time
VECTOR: frozenset[Part] = frozenset({"vector"})


class Derived:
    """The derived state of one collection in this process; empty until `catch_up`."""

    def __init__(self, file: Path, keep: Sequence[Field], deciding: threading.Lock) -> None:
        """`keep` are the declared fields, `deciding` the lock that whoever filters holds."""
        self._file, self._keep, self._deciding = file, keep, deciding
        self.generation = -1  # of the matrix that is loaded; -1: none
        self._seq = 0  # of the last death taken in
        self._norms = -1, 0, 0.0  # generation, rows looked at, the longest of them

    def catch_up(self, connection: apsw.Connection, alone: bool) -> bool:
        """Take in what a transaction sees and this process has not.

        False where the matrix has to be made or compared first, which only the writer may do, who
        is `alone`.
        """
        found: Any = connection.execute(STATE).fetchone()
        if found is None:
            raise damaged_file(self._file)
        generation, boot, last, seq = found
        unproven, new = False, generation != self.generation
        if new:
            unproven = not boot or boot != boot_id()
            path = self._file.with_name(f"matrix.{generation}")
            if not alone and (unproven or not path.exists()):
                return False
            try:
                self._load(connection, generation, path)
            except FileNotFoundError:  # a compaction removed it after this transaction began
                return False
            records, n = self._counts(connection, last)
        if last is not None:
            self.alive.grow(self.numbering.place(last) + 1)
        if seq is not None and seq > self._seq:
            sql = "SELECT row FROM deaths WHERE seq > ?"
            died = [row for (row,) in connection.execute(sql, (self._seq,))]
            places = self.numbering.places(died, self.alive.n + len(died))
            self.alive.grow(int(places.max()) + 1)
            self.alive.kill(places)
            self._seq = seq
        if new and (self.alive.n, self.alive.living()) != (n, records):
            raise damaged_file(self._file)
        short = not self.matrix.holds(self.alive.n)
        if short and not alone:
            self.generation = -1
            return False
        if short or unproven:
            self.mend(connection)
        self.generation = generation
        if self._keep and self._deciding.acquire(blocking=False):  # else the next filter reads it
            try:
                read = reader(connection, self.numbering, self._file)
                self.columns.follow(read, self.alive.n)
            except Corrupt as exc:  # the filters that need it are refused, nothing else
                log.error("%s", exc.message)
            finally:
                self._deciding.release()
        return True

    def _load(self, connection: apsw.Connection, generation: int, path: Path) -> None:
        """Start over with a generation. Raises FileNotFoundError if its matrix has just gone."""
        self.generation = -1
        state = own_state(connection, self._file)
        self.dim, self.metric = state.dim, state.metric
        self.matrix = Matrix(path, self.dim, create=not path.exists())
        self.numbering = Rows(_numbers(state.kept), state.first, self._file)
        self.lost = self.numbering.places(_numbers(state.lost).tolist())
        self.alive = Alive(len(self.numbering.kept))
        self.columns = MetadataColumns(self._keep)
        self._seq = 0

    def _counts(self, connection: apsw.Connection, last: int | None) -> tuple[int, int]:
        """Return how many records and how many places there are: each has a record, or died.

        Raises Corrupt if the last row is beyond.
        """
        counts: Any = connection.execute(COUNTS).fetchone()
        old, n = len(self.numbering.kept), sum(counts)
        if n < old or (last is not None and self.numbering.place(last) >= n):
            raise damaged_file(self._file)
        return counts[0], n

    def mend(self, connection: apsw.Connection) -> int:
        """Make the matrix what the records say; return how many rows were not. In a write.

        Rows of the dead become zeros, and those of damaged records, which searches then refuse.
        """
        wrong, n, row, place = 0, self.alive.n, -1, 0
        lost: dict[int, Corrupt] = {}
        with failures("write vectors"):
            if not self.matrix.holds(n):
                self.matrix.write(n - 1, np.zeros((1, self.dim), np.float32))
            while some := after_row(connection, row, self._file):
                places = self.numbering.places([each[0] for each in some], n)
                row, upto = some[-1][0] + 1, int(places[-1]) + 1
                rows = np.zeros((upto - place, self.dim), np.float32)
                for at, stored in zip((places - place).tolist(), some, strict=True):
                    try:
                        vector = decoded(stored, VECTOR, self._file, self.dim).vector
                    except Corrupt as exc:
                        lost[stored[0]] = exc
                        continue
                    assert vector is not None
                    rows[at] = directions(vector[None], self.metric)
                differs = (self.matrix.view(n)[place:upto] != rows).any(axis=1)
                if differs.any():
                    self.matrix.write(place, rows)
                    wrong += int(np.count_nonzero(differs))
                place = upto
        if wrong:
            log.warning("%s: %d rows of the matrix were not as stored", self._file.parent, wrong)
        if lost:
            log.error("%s (%d such records)", next(iter(lost.values())).message, len(lost))
        self.lost = self.numbering.places(list(lost), n)
        state = own_state(connection, self._file)
        write_state(connection, replace(state, lost=_bytes([*lost])), boot_id())
        return wrong

    def snapshot(self, connection: apsw.Connection) -> Snapshot:
        """Return what the transaction sees, once `catch_up` has taken it in."""
        n, alive = self.alive.n, self.alive
        return Snapshot(
            connection, self._file, self.generation, self.metric, self.numbering, self.columns,
            self.matrix, self.matrix.view(n), self.lost, alive.mask(), n - alive.dead,
        )  # fmt: skip

    def norm_bound(self, shot: Snapshot, budget: Budget) -> float:
        """Return a bound on the length of the matrix's rows."""
        if shot.metric == "cosine":
            return 1.0
        generation, upto, largest = self._norms
        if generation != shot.generation:
            upto, largest = 0, 0.0
        largest = max(largest, longest(shot.matrix[upto:], budget))
        self._norms = shot.generation, len(shot.matrix), largest
        return largest


def compact(shot: Snapshot) -> int:
    """Write the living rows into the next generation's file, and note it in a transaction."""
    places, generation = shot.places(), shot.generation + 1
    path = shot.file.with_name(f"matrix.{generation}")
    new = Matrix(path, shot.matrix.shape[1], create=True)
    for start in range(0, len(places), COMPACT_ROWS):
        new.write(start, shot.matrix[places[start : start + COMPACT_ROWS]])
    kept, first = shot.numbering.rows(places), shot.numbering.row(len(shot.matrix))
    state = replace(
        own_state(shot.connection, shot.file), generation=generation, first=first,
        kept=_bytes(kept), lost=_bytes(shot.numbering.rows(np.intersect1d(shot.lost, places))),
    )  # fmt: skip
    write_state(shot.connection, state, boot_id())
    shot.connection.execute("DELETE FROM deaths")
    return generation


def _bytes(rows: RowNumbers | list[int]) -> bytes:
    return np.array(rows, "<i8").tobytes()


def _numbers(raw: bytes) -> RowNumbers:
    return np.frombuffer(raw, "<i8").astype(np.int64)
