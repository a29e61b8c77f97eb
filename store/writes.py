"""Writes on their way into a collection, and the queue in which concurrent ones share one commit.

Leader and followers: the thread that finds no leader takes all waiting writes, commits them in one
transaction with one sync, wakes their threads and hands the lead to the next. A single writer waits
for no other; eight share the disk's latency.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from errors import Busy, TooLarge
from store.base import Mode, Vectors, Written
from store.budget import UNBOUNDED, Budget
from store.filters import Filter
from store.records import Encoded, encoded
from store.unpickle import dumps
from store.validation import Rows

# A leader takes no more than this at a time, one write at least.
GROUP_BYTES = 8 << 20
MAX_BYTES = 64 << 20  # of one call


@dataclass(eq=False)
class Write:
    """One caller's write, encoded by its own thread. Without a mode it deletes."""

    name: str  # of the collection, as the caller gave it
    ids: list[str] = field(default_factory=list)
    records: list[Encoded] = field(default_factory=list)
    rows: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))  # of the matrix
    mode: Mode | None = None
    filter: Filter | None = None  # of a deletion; the leader finds the ids
    by_filter: bool = False
    budget: Budget = UNBOUNDED  # for finding them
    bytes: int = 0
    result: Written | int | None = None
    error: BaseException | None = None
    leads: bool = False
    awake: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.awake.acquire()

    @property
    def done(self) -> bool:
        """Whether it has an outcome."""
        return self.result is not None or self.error is not None


def put(name: str, rows: Rows, directed: Vectors, mode: Mode) -> Write:
    """Return the write of some items; `directed` goes into the matrix. Raises TooLarge."""
    raw, width = rows.vectors.astype("<f4", copy=False).tobytes(), rows.vectors.shape[1] * 4
    records: list[Encoded] = []
    size = len(raw)
    for i, id_ in enumerate(rows.ids):
        payload = dumps(rows.texts[i], rows.metadata[i])
        vector = raw[i * width : (i + 1) * width]
        records.append(encoded(id_, payload, vector))
        size += len(payload)
    if size > MAX_BYTES:
        raise TooLarge(f"{size} bytes in one call; at most {MAX_BYTES}: send fewer items")
    return Write(name, rows.ids, records, directed, mode, bytes=size)


class Queue:
    """Writes that wait for one collection."""

    def __init__(self, commit: Callable[[list[Write]], None], timeout_s: float) -> None:
        self._commit, self._timeout_s = commit, timeout_s
        self._lock = threading.Lock()
        self._waiting: deque[Write] = deque()
        self._led = False

    def submit(self, write: Write) -> Written | int:
        """Return the write's outcome once it is durable. Raises what went wrong with it."""
        deadline = time.monotonic() + 2 * self._timeout_s
        try:
            with self._lock:
                self._waiting.append(write)
                if not self._led:
                    self._led = write.leads = True
            while not write.done:
                if write.leads:
                    self._lead(write)
                elif not write.awake.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    deadline = self._give_up(write)
        except BaseException:  # this thread is being ended: the others go on without it
            with self._lock:
                if write in self._waiting:
                    self._waiting.remove(write)
                if write.leads:
                    self._pass_on(write)
            raise
        if write.error is not None:
            raise write.error
        assert write.result is not None
        return write.result

    def _give_up(self, write: Write) -> float:
        """Take back a write that waited too long, unless it is under way; then wait on."""
        with self._lock:
            if write in self._waiting and not write.leads:
                self._waiting.remove(write)
                write.error = Busy("too many writes are waiting", retry_after_s=1)
        return time.monotonic() + self._timeout_s

    def _lead(self, mine: Write) -> None:
        """Commit one group and pass the lead on, whatever happens."""
        group: list[Write] = []
        try:
            self._take(group)
            self._commit(group)
        except Exception as exc:
            _fail(group, exc)
        except BaseException as exc:  # this thread is being ended
            _fail(group, Busy("the write was broken off", retry_after_s=1))
            raise exc
        finally:
            with self._lock:
                self._pass_on(mine)
            for write in group:
                if write is not mine:
                    write.awake.release()

    def _pass_on(self, mine: Write) -> None:
        """Give the lead to the first that waits, if any. With the lock held."""
        mine.leads, self._led = False, bool(self._waiting)
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].awake.release()

    def _take(self, group: list[Write]) -> None:
        """Take what is waiting, up to the limit; a deletion by filter goes alone."""
        with self._lock:
            group.append(self._waiting.popleft())
            size = group[0].bytes
            while self._waiting and not group[0].by_filter and not self._waiting[0].by_filter:
                size += self._waiting[0].bytes
                if size > GROUP_BYTES:
                    break
                group.append(self._waiting.popleft())


def _fail(group: list[Write], error: Exception) -> None:
    for write in group:
        if not write.done:
            write.error = copy(error)  # each thread raises its own
