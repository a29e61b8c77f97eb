"""One collection in a folder: its records in SQLite, and what is derived from them for searches.

    records.db  the truth (store/records.py)
    matrix.G    the matrix that is searched: the vectors of generation G, in the order of writes
    ann.G       the graph of an approximate search (store/graph_index.py)

What keeps them together:
- A row of the matrix belongs to one record for good: a replaced or deleted record's row is marked
  dead and not used again, until a compaction writes generation G + 1. So a reader may search the
  matrix without a lock while others write.
- Rows are written to the matrix before their records are committed, and no reader looks at a row
  whose record SQLite does not have.
- No place is written twice. A process that was killed while it committed may leave a whole commit
  in the log that no one sees until the log is read anew, after all processes have gone. So the next
  write leaves that one's places alone, and marks them as dead in its own commit, which ends it.
- A reader holds a read transaction, and takes from it how many rows there are and which are dead;
  so the matrix, the ids and the texts it sees are of one moment.
- The matrix is believed while the machine runs. After a boot, or where it is missing or short, the
  first process to open the collection compares it with the records and mends it.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from errors import Busy, Corrupt, ServiceError
from store.base import Metric, Mode, Vectors, Written
from store.budget import UNBOUNDED, Budget
from store.derived import Derived, compact
from store.filters import Filter, path_of
from store.graph_index import Ann, Graph
from store.local_disk import failures
from store.record_file import Options, RecordFile, Step, no_step
from store.records import INSERT, by_id, numbered
from store.snapshot import Snapshot
from store.validation import check_present
from store.writes import Queue, Write

log = logging.getLogger("store")

RETRY_S = 60.0  # after a compaction that failed: on a full disk it takes what others need
DELETE = "DELETE FROM records WHERE {} IN carray(?)"


class Collection:
    """The records of one collection, shared with every process that has its folder open.

    The fields `indexed` are ready for filters once it is open.
    """

    def __init__(
        self, folder: Path, options: Options, step: Step = no_step, indexed: Sequence[str] = ()
    ) -> None:
        self.folder, self.options, self.step = folder, options, step
        self.records = RecordFile(folder / "records.db", options)
        self._keep = [path for field in indexed if (path := path_of(field))]
        # Called under the lock before each commit, with a write's name; raises to refuse it.
        self.may_write: Callable[[str], None] = lambda name: None
        self.shape: tuple[int, Metric] | None = None  # as the catalogue has it
        self.users = 0  # calls at work; counted by who opens it
        self.reset()
        _all.add(self)

    def reset(self) -> None:
        """Start with new locks and nothing read: in a forked child others may hold the old ones."""
        self.state = threading.RLock()
        self._deciding = threading.Lock()  # filters, one at a time; never taken under `state`
        self._compacting = threading.Lock()
        self._compact_from = 0.0  # when; by the monotonic clock
        self.queue = Queue(self._commit, self.options.lock_timeout_s)
        self.ann = Ann(self.folder, self.options.ann_above, self._settled)
        self.derived = Derived(self.records.path, self._keep, self._deciding)

    # -- following the records -------------------------------------------------------------------

    @contextmanager
    def exclusive(self) -> Iterator[Snapshot]:
        """Be the only writer of all threads and processes, with the state up to date."""
        with self.records.writing(self.step) as connection:
            with self.state:
                self.derived.catch_up(connection, alone=True)
                shot = self._snapshot(connection)
            yield shot

    @contextmanager
    def current(self, budget: Budget = UNBOUNDED) -> Iterator[Snapshot]:
        """Give the collection as it is now; it stays so for the block."""
        for _ in range(3):
            with self.records.reading() as connection:
                with budget.holding(self.state):
                    known = self.derived.catch_up(connection, alone=False)
                    shot = self._snapshot(connection) if known else None
                if shot:
                    yield shot
                    return
            with self.exclusive():
                pass
        raise Busy(f"{self.folder} is being compacted again and again", retry_after_s=1)

    def _snapshot(self, connection: apsw.Connection) -> Snapshot:
        shot = self.derived.snapshot(connection)
        shape = shot.matrix.shape[1], shot.metric
        if shape != (self.shape or shape):
            has = f"{shape[0]} dimensions and metric {shape[1]}"
            raise Corrupt(f"{self.records.path} has {has}, not what the catalogue says")
        return shot

    @contextmanager
    def snapshot(
        self, tree: Filter | None = None, budget: Budget = UNBOUNDED, without: str | None = None
    ) -> Iterator[Snapshot]:
        """Give the collection as it is now, narrowed to what matches and has another id."""
        with ExitStack() as deciding:
            if tree is not None:  # before the snapshot: a column is never older than its rows
                deciding.enter_context(budget.holding(self._deciding))
            with self.current(budget) as shot:
                mask = None
                if tree is not None:
                    mask = shot.matching(tree, budget)
                    mask = mask if shot.allowed is None else mask & shot.allowed
                deciding.close()
                found = [] if without is None else by_id(shot.connection, [without], "row")
                if found:
                    mask = shot.allowed if mask is None else mask
                    mask = np.ones(len(shot.matrix), np.bool_) if mask is None else mask
                    mask[shot.numbering.places([*found[0]], len(shot.matrix))] = False
                if mask is not None:
                    shot.allowed, shot.count = mask, int(np.count_nonzero(mask))
                yield shot

    def graph(self, shot: Snapshot) -> Graph | None:
        """Return the graph for an approximate search, if one is wanted and ready."""
        if shot.metric != "cosine":  # by inner product it misses much: lengths differ
            return None
        return self.ann.graph(shot.generation, *shot.matrix.shape)

    def _settled(self) -> tuple[int, int]:
        """Bring everything to the disk; return the generation and its rows."""
        with self.current() as shot:
            self.records.sync()
            return shot.generation, len(shot.matrix)

    def figures(self) -> dict[str, object]:
        """Return figures for operators (JSON-ready)."""
        with self.current() as shot:
            rows = len(shot.matrix)
            return {
                "rows": shot.count,
                "dead_rows": rows - shot.count,
                "generation": shot.generation,
                "records_bytes": self._bytes("records.db*"),
                "matrix_bytes": self._bytes("matrix.*"),
                "columns_bytes": shot.columns.bytes(),
                "ann_rows": self.ann.rows,
                "poisoned": self.records.poison is not None,
            }

    def _bytes(self, pattern: str) -> int:
        total = 0
        for path in self.folder.glob(pattern):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def close(self) -> None:
        """Close the files, and end the build of a graph."""
        self.ann.close()
        self.records.close()
        with self.state:  # with the matrix go its two files
            self.derived = Derived(self.records.path, self._keep, self._deciding)

    # -- writing ---------------------------------------------------------------------------------

    def write(self, write: Write) -> Written | int:
        """Do a write, together with those that wait for the same lock; compact if that is due."""
        result = self.queue.submit(write)
        if result == Written(len(write.ids), 0) or time.monotonic() < self._compact_from:
            return result
        if self._compacting.acquire(blocking=False):
            try:
                with self.current() as shot:
                    dead = len(shot.matrix) - shot.count
                if dead >= self.options.compact_rows and dead * 2 > len(shot.matrix):
                    self.compact()
            except ServiceError as exc:  # the write is done all the same
                self._compact_from = time.monotonic() + RETRY_S
                log.warning("%s was not compacted: %s", self.folder, exc.message)
            finally:
                self._compacting.release()
        return result

    def _commit(self, group: list[Write]) -> None:
        """Write a group in one transaction. Each write gets its result or its error."""
        results: list[tuple[Write, Written | int]] = []
        rows: list[Vectors] = []
        with self.exclusive() as shot:
            n = len(shot.matrix)
            place = max(n, shot.stored.written())
            row = shot.numbering.row(place)
            may_write = cache(self.may_write)
            for write in group:
                try:
                    may_write(write.name)
                    if write.mode is None:
                        results.append((write, self._remove(shot, write)))
                    else:
                        results.append((write, self._put(shot.connection, write, write.mode, row)))
                        rows.append(write.rows)
                        row += len(write.rows)
                except ServiceError as exc:
                    write.error = exc
            if rows:
                undone = [(shot.numbering.row(at),) for at in range(n, place)]
                shot.connection.executemany("INSERT INTO deaths (row) VALUES (?)", undone)
                with failures("write vectors"):
                    vectors = np.concatenate(rows)
                    shot.stored.write(place, vectors)
                    shot.stored.note_written(place + len(vectors))
        self.step("committed")
        for write, result in results:
            write.result = result

    def _put(self, connection: apsw.Connection, write: Write, mode: Mode, row: int) -> Written:
        """Write items from `row` on. Raises Conflict or NotFound before anything is changed."""
        there = [id_ for (id_,) in by_id(connection, write.ids, "id")]
        check_present(mode, write.ids, set(there))
        if there:
            connection.execute(DELETE.format("id"), (apsw.carray(tuple(there)),))
        connection.executemany(
            INSERT, [numbered(at, record) for at, record in enumerate(write.records, row)]
        )
        return Written(len(write.ids) - len(there), len(there))

    def _remove(self, shot: Snapshot, write: Write) -> int:
        """Delete by ids or filter; return how many were there."""
        if write.by_filter:
            write.budget.check()
            places = shot.places()
            if write.filter is not None:
                with write.budget.holding(self._deciding):
                    places = places[shot.matching(write.filter, write.budget)[places]]
            gone: Any = shot.numbering.rows(places)
            key = "row"
        else:
            key, gone = "id", tuple(dict.fromkeys(write.ids))
        if not len(gone):
            return 0
        shot.connection.execute(DELETE.format(key), (apsw.carray(gone),))
        return shot.connection.changes()

    def compact(self) -> int:
        """Leave the dead rows out of the matrix; return the bytes freed."""
        before, begun = self._bytes("*"), False
        try:
            with self.exclusive() as shot, failures("compact a collection"):
                begun = True
                compact(shot)
                self.step("matrix-written")
            self.step("committed")
        finally:
            if begun:  # a generation that was left, or half written, takes the space of others
                with suppress(ServiceError), self.exclusive() as shot, failures("tidy up"):
                    for path in [*self.folder.glob("matrix.*"), *self.folder.glob("ann.[0-9]*")]:
                        if path.name.split(".")[1] != str(shot.generation):
                            path.unlink(missing_ok=True)  # those who have it open keep it
        return before - self._bytes("*")


# Children that were forked start over; what the parent had read may be half changed.
_all: "weakref.WeakSet[Collection]" = weakref.WeakSet()


def _after_fork() -> None:
    for collection in list(_all):
        collection.reset()


os.register_at_fork(after_in_child=_after_fork)
