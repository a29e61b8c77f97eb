"""Writes on their way into a journal, and the queue in which concurrent ones share one sync.

Leader/follower: the thread that finds nobody leading takes all waiting writes, commits them as one
frame with one fdatasync, wakes their threads and hands the lead to the next. One writer alone waits
for nobody; eight share the disk's latency. A frame is atomic, so each of its writes is.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field

from errors import Busy, Conflict, NotFound, TooLarge
from store.base import Mode, Vectors, Written
from store.budget import UNBOUNDED, Budget
from store.filters import Filter
from store.frames import MAX_FRAME, encode_record
from store.unpickle import dumps
from store.validation import Rows

# Rows of one record. Reading a row back reads its record: 32 rows of 384 floats are 48 KiB.
RECORD_ROWS = 32
# A leader takes no more than this at a time, one write at least.
GROUP_BYTES = 8 << 20


@dataclass(eq=False)
class Write:
    """One caller's write, encoded by its own thread."""

    records: list[tuple[bytes, list[str]]] = field(default_factory=list)  # bytes, ids
    rows: Vectors | None = None  # for the matrix, (n, d)
    ids: list[str] = field(default_factory=list)
    mode: Mode | None = None  # None: a deletion
    filter: Filter | None = None  # of a deletion; the leader finds the ids
    by_filter: bool = False
    budget: Budget = UNBOUNDED  # for finding them
    result: Written | int | None = None
    error: BaseException | None = None
    leads: bool = False
    awake: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.awake.acquire()

    @property
    def bytes(self) -> int:
        """How long its records are."""
        return sum(len(data) for data, _ in self.records)

    @property
    def done(self) -> bool:
        """Whether it has an outcome."""
        return self.result is not None or self.error is not None


def put_record(ids: list[str], texts: list[str | None], metas: list[object], raw: bytes) -> bytes:
    """Return the bytes of a record of rows."""
    return encode_record(dumps({"k": "put", "ids": ids, "t": texts, "m": metas}), raw)


def put(rows: Rows, directed: Vectors, mode: Mode) -> Write:
    """Return the write of some items; `directed` is what goes into the matrix."""
    raw = rows.vectors.astype("<f4", copy=False)
    records = []
    for start in range(0, len(rows.ids), RECORD_ROWS):
        part = slice(start, start + RECORD_ROWS)
        ids = rows.ids[part]
        metas: list[object] = list(rows.metadata[part])
        records.append((put_record(ids, rows.texts[part], metas, raw[part].tobytes()), ids))
    write = Write(records, directed, rows.ids, mode)
    if write.bytes > MAX_FRAME:
        raise TooLarge(f"{write.bytes} bytes in one call; at most {MAX_FRAME}: send fewer items")
    return write


def removal(ids: list[str]) -> bytes:
    """Return the bytes of a record that deletes."""
    return encode_record(dumps({"k": "del", "ids": ids}))


class Plan:
    """What a group will write, and how each of its writes turns out."""

    def __init__(self, present: dict[str, int]) -> None:
        self._present = present
        self._changed: dict[str, bool] = {}
        self.records: list[tuple[bytes, list[str] | None]] = []  # None: a removal
        self.rows: list[Vectors] = []
        self.results: list[tuple[Write, Written | int]] = []

    def _has(self, id_: str) -> bool:
        return self._changed.get(id_, id_ in self._present)

    def put(self, write: Write) -> None:
        """Add a write of items. Raises Conflict or NotFound, and is then as before."""
        known = sum(map(self._has, write.ids))
        if write.mode == "insert" and known:
            there = next(id_ for id_ in write.ids if self._has(id_))
            raise Conflict(f"id {ascii(there)[:60]} is there already; nothing was written")
        if write.mode == "update" and known < len(write.ids):
            gone = next(id_ for id_ in write.ids if not self._has(id_))
            raise NotFound(f"id {ascii(gone)[:60]} is not there; nothing was written")
        assert write.rows is not None
        self._changed |= dict.fromkeys(write.ids, True)
        self.records += write.records
        self.rows.append(write.rows)
        self.results.append((write, Written(len(write.ids) - known, known)))

    def remove(self, write: Write, ids: Iterable[str]) -> None:
        """Add a deletion."""
        there = [id_ for id_ in dict.fromkeys(ids) if self._has(id_)]
        record = removal(there) if there else b""
        if len(record) > MAX_FRAME // 2:
            raise TooLarge(f"{len(there)} records in one deletion are too many: delete in parts")
        self._changed |= dict.fromkeys(there, False)
        if there:
            self.records.append((record, None))
        self.results.append((write, len(there)))


class Queue:
    """Writes waiting for one ledger."""

    def __init__(self, commit: Callable[[list[Write]], None], timeout_s: float) -> None:
        self._commit, self._timeout_s = commit, timeout_s
        self._lock = threading.Lock()
        self._waiting: deque[Write] = deque()
        self._led = False

    def submit(self, write: Write) -> Written | int:
        """Return the write's outcome once it is durable. Raises what went wrong with it."""
        deadline = time.monotonic() + 2 * self._timeout_s
        with self._lock:
            self._waiting.append(write)
            if not self._led:
                self._led = write.leads = True
        while not write.done:
            if write.leads:
                self._lead(write)
            elif not write.awake.acquire(timeout=max(0.0, deadline - time.monotonic())):
                deadline = self._give_up(write)
        if write.error is not None:
            raise write.error
        assert write.result is not None
        return write.result

    def _give_up(self, write: Write) -> float:
        """Take a write that waited too long back, unless it is under way; then wait on."""
        with self._lock:
            if write in self._waiting and not write.leads:
                self._waiting.remove(write)
                write.error = Busy("too many writes are waiting", retry_after_s=1)
        return time.monotonic() + self._timeout_s

    def _lead(self, mine: Write) -> None:
        """Commit one group and pass the lead on, whatever happens."""
        group = self._take()
        try:
            self._commit(group)
        except Exception as exc:
            _fail(group, exc)
        except BaseException as exc:  # this thread is being ended
            _fail(group, Busy("the write was broken off", retry_after_s=1))
            raise exc
        finally:
            with self._lock:
                mine.leads = False
                self._led = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].awake.release()
            for write in group:
                if write is not mine:
                    write.awake.release()

    def _take(self) -> list[Write]:
        """Take what is waiting, up to the limit; a deletion by filter goes alone."""
        with self._lock:
            group = [self._waiting.popleft()]
            size = group[0].bytes
            while self._waiting and not group[0].by_filter and not self._waiting[0].by_filter:
                size += self._waiting[0].bytes
                if size > GROUP_BYTES:
                    break
                group.append(self._waiting.popleft())
            return group


def _fail(group: list[Write], error: Exception) -> None:
    for write in group:
        if not write.done:
            write.error = copy(error)  # each thread raises its own
