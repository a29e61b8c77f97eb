"""One collection in a folder: the journal is the truth, rows, matrix and postings follow from it.

Writes: matrix rows first, then the frame, then the sync, then the answer; so a frame that can be
seen always has its rows. Reads take a `Snapshot` under a short lock and work on it without one.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from errors import ServiceError
from store.base import Metric, Vectors, Written
from store.budget import UNBOUNDED, Budget
from store.compaction import rewrite
from store.filters import Filter, path_of
from store.frames import RECORD, Frame, read_raw, records
from store.fs import FS, failures
from store.graph_index import Ann, Graph
from store.journal import Journal, Step, no_step, write_generation, write_manifest
from store.ledger import Ledger, Options
from store.locks import boot_id
from store.matrix import Matrix, directions, longest
from store.metadata_columns import Postings
from store.rows import RowTable
from store.snapshot import MetadataReader, Snapshot
from store.unpickle import loads
from store.writes import Plan, Queue, Write

log = logging.getLogger("store")

VERSION = 1


class Collection(Ledger):
    """The rows of one collection, shared with every process that has its folder open.

    The fields `indexed` are ready for filters from the opening on.
    """

    def __init__(
        self, fs: FS, folder: Path, options: Options, step: Step = no_step,
        indexed: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(fs, folder, options, step)
        self._keep = [path for field in indexed if (path := path_of(field))]
        self.dim = 0
        self.metric: Metric = "cosine"
        # Asked under the lock before each commit; raises what refuses the write.
        self.may_write: Callable[[], None] = lambda: None

    @staticmethod
    def make(fs: FS, folder: Path, dim: int, metric: Metric) -> None:
        """Write an empty collection into a new folder."""
        fs.mkdir(folder)
        manifest = {"v": VERSION, "gen": 0, "dim": dim, "metric": metric}
        Matrix(fs, folder / "mat.0", dim, create=True)
        write_generation(fs, folder, manifest, [])

    def reset_locks(self) -> None:
        """Make new thread locks and an empty queue."""
        super().reset_locks()
        self._compacting = threading.Lock()
        self._deciding = threading.Lock()  # of filters; never waited for with `state` held
        self.queue = Queue(self._commit, self.options.lock_timeout_s)
        self.ann = Ann(self.folder, self.options.ann_above, self._settled)

    # -- following the journal -------------------------------------------------------------------

    def load(self, journal: Journal, exclusive: bool) -> bool:
        """Start over on a journal; under the lock also mend the matrix where that is needed."""
        manifest = journal.manifest
        self.dim, self.metric = int(manifest["dim"]), manifest["metric"]
        self.table = RowTable()
        self.postings = Postings(MetadataReader(journal, self.table), self._keep)
        self._norms = 0, 0.0  # rows looked at, the longest of them
        path = self.folder / f"mat.{journal.generation}"
        same_boot = bool(manifest["boot"]) and manifest["boot"] == boot_id()
        if not exclusive and not (same_boot and path.exists()):
            return False
        try:
            self.matrix = Matrix(self.fs, path, self.dim, create=not path.exists())
        except FileNotFoundError:  # compacted between the two looks
            return False
        for frame in journal.new_frames():
            self.apply(frame)
        short = self.matrix.rows_on_disk() < len(self.table)
        if short and not exclusive:
            return False
        if exclusive and (short or not same_boot):
            self.mend_matrix(journal)
            if not same_boot:
                write_manifest(self.fs, self.folder, manifest)
                journal.reopen_manifest()
        return True

    def apply(self, frame: Frame) -> None:
        """Take in a frame's records."""
        for offset, pickled, _ in records(frame):
            self._apply(offset, loads(pickled))

    def _apply(self, offset: int, data: dict[str, Any]) -> None:
        if data["k"] == "put":
            if self._deciding.acquire(blocking=False):  # else the next filter catches up
                try:
                    self.postings.follow(len(self.table), data["m"])
                finally:
                    self._deciding.release()
            self.table.put(data["ids"], offset)
        else:
            self.table.remove(data["ids"])

    def mend_matrix(self, journal: Journal) -> int:
        """Make the matrix what the journal says; return how many rows were not. Under the lock."""
        wrong = 0
        for first, rows in self.truth(journal):
            have = self.matrix.rows_on_disk() >= first + len(rows)
            good = have and np.array_equal(self.matrix.view(first + len(rows))[first:], rows)
            if not good:
                self.matrix.write(first, rows)
                wrong += len(rows)
        return wrong

    def truth(self, journal: Journal) -> Iterator[tuple[int, Vectors]]:
        """Yield (first row, rows) of what the matrix should hold, from the journal."""
        for first, offset in self.table.records(0):
            raw = np.frombuffer(read_raw(journal.read, offset), "<f4").reshape(-1, self.dim)
            yield first, directions(raw, self.metric)

    def snapshot(
        self, tree: Filter | None = None, budget: Budget = UNBOUNDED, without: str | None = None
    ) -> Snapshot:
        """Return the collection as it is now, narrowed to what matches and has another id."""
        with self.current(budget) as journal:
            n, postings, view = len(self.table), self.postings, self.matrix.view(len(self.table))
            left_out = None if without is None else self.table.row_of.get(without)
            shot = Snapshot(journal, view, self.table, self.table.alive(), n - self.table.dead)
        if tree is None and left_out is None:
            return shot
        mask = np.ones(n, np.bool_)
        if tree is not None:  # decided while others read and write
            with budget.holding(self._deciding), failures("read"):
                mask = postings.mask(tree, n, budget)
        if shot.allowed is not None:
            mask &= shot.allowed
        if left_out is not None:
            mask[left_out] = False
        return replace(shot, allowed=mask, count=int(np.count_nonzero(mask)))

    def rows_of(self, ids: list[str], budget: Budget) -> tuple[Snapshot, list[int]]:
        """Return the rows of those ids that are there, in their order."""
        with self.current(budget) as journal:
            shot = Snapshot(journal, self.matrix.view(0), self.table, None, 0)
            return shot, [self.table.row_of[id_] for id_ in ids if id_ in self.table.row_of]

    def rows_after(
        self, cursor: str | None, limit: int, tree: Filter | None, budget: Budget
    ) -> tuple[Snapshot, list[int], bool]:
        """Return up to `limit` matching rows by id behind `cursor`, and whether more follow."""
        while True:  # again after a compaction, which numbers the rows anew
            known = self.snapshot(tree, budget)
            with self.current(budget) as journal:
                if journal is known.journal:
                    rows = (self.table.row_of[id_] for id_ in self.table.after(cursor))
                    rows = (row for row in rows if known.has(row, tree))
                    found = list(itertools.islice(rows, limit + 1))
                    return known, found[:limit], len(found) > limit

    def graph(self, snapshot: Snapshot) -> Graph | None:
        """Return the graph for an approximate search, if one is wanted and there."""
        if self.metric != "cosine":  # a graph by inner product misses much where lengths differ
            return None
        n, dim = snapshot.matrix.shape
        return self.ann.graph(snapshot.journal.generation, n, dim)

    def _settled(self) -> tuple[int, int]:
        """Bring everything to the disk; return the generation and its rows."""
        with self.exclusive() as journal:
            journal.sync()
            return journal.generation, len(self.table)

    def close(self) -> None:
        """Let go of the files, and end the build of a graph."""
        self.ann.close()
        super().close()

    def figures(self) -> dict[str, object]:
        """Return figures for operators (JSON-ready)."""
        with self.current() as journal:
            return {
                "rows": len(self.table.row_of),
                "dead_rows": self.table.dead,
                "generation": journal.generation,
                "journal_bytes": journal.size(),
                "matrix_bytes": self.matrix.rows_on_disk() * self.dim * 4,
                "postings_bytes": self.postings.bytes(),
                "ann_rows": self.ann.rows,
                "poisoned": journal.poison is not None,
            }

    def norm_bound(self, snapshot: Snapshot, budget: Budget) -> float:
        """Return a bound on the length of the matrix's rows."""
        if self.metric == "cosine":
            return 1.0
        upto, largest = self._norms
        largest = max(largest, longest(snapshot.matrix[upto:], budget))
        with self.state:
            if self.journal is snapshot.journal:
                self._norms = max((len(snapshot.matrix), largest), self._norms)
        return largest

    # -- writing ---------------------------------------------------------------------------------

    def write(self, write: Write) -> Written | int:
        """Do a write, together with those that wait beside it; compact if that is due."""
        result = self.queue.submit(write)
        if self._compaction_due() and self._compacting.acquire(blocking=False):
            try:
                with self.exclusive() as journal:
                    if self._compaction_due():
                        self.compact(journal)
            except ServiceError as exc:  # the write is done all the same
                log.warning("%s was not compacted: %s", self.folder, exc.message)
            finally:
                self._compacting.release()
        return result

    def _compaction_due(self) -> bool:
        dead = self.table.dead
        return dead >= self.options.compact_rows and dead * 2 > len(self.table)

    def compact(self, journal: Journal) -> int:
        """Give back the space of dead rows; return how many bytes. Under the lock."""
        before = self.disk_bytes(journal)
        rewrite(self.fs, journal, self.table, self.matrix, self.dim, self.step)
        with self.state:
            self._catch_up(exclusive=True)
            assert self.journal is not None
            return before - self.disk_bytes(self.journal)

    def disk_bytes(self, journal: Journal) -> int:
        """Return how long the collection's files are."""
        return journal.size() + self.matrix.rows_on_disk() * self.dim * 4

    def _commit(self, group: list[Write]) -> None:
        """Write a group as one frame. Each write gets its result or its error."""
        with self.exclusive() as journal:
            self.may_write()
            for write in group:
                if write.by_filter:
                    write.budget.check()
                    write.ids = self.snapshot(write.filter, write.budget).ids()
            with self.state:
                plan = self._plan(group)
                first_row = len(self.table)
            if plan.records:
                if plan.rows:
                    with failures("write vectors"):
                        self.matrix.write(first_row, np.concatenate(plan.rows))
                    self.step("matrix-written")
                payload = b"".join(data for data, _ in plan.records)
                frame = journal.append(payload, self.options.fsync, self.step)
                with self.state:
                    self._take_in(journal, frame, plan.records)
            for write, result in plan.results:
                write.result = result

    def _take_in(
        self, journal: Journal, frame: Frame, written: list[tuple[bytes, list[str] | None]]
    ) -> None:
        """Apply a frame of our own without reading it back, unless a reader did so already."""
        if self.journal is not journal or journal.end != frame.start:
            return
        offset = frame.end - len(frame.payload)
        for data, ids in written:
            if ids is None or self._keep:
                head = RECORD.unpack_from(data)
                self._apply(offset, loads(data[RECORD.size : RECORD.size + head[0]]))
            else:  # its ids are all that is followed
                self.table.put(ids, offset)
            offset += len(data)
        journal.advance(frame)

    def _plan(self, group: list[Write]) -> Plan:
        """Decide each write's outcome, one after the other, as if each came alone."""
        plan = Plan(self.table.row_of)
        for write in group:
            try:
                if write.mode is None:
                    plan.remove(write, write.ids)
                else:
                    plan.put(write)
            except ServiceError as exc:
                write.error = exc
        return plan
