"""Rows of the accounts, cached for two seconds, and used for a minute while the database is away.

So a request costs no query, and a revoked key or a deleted user is refused by every worker within
two seconds. A database that hangs costs one caller a pause: the others take the rows they know.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from cachetools import TTLCache

from errors import ServiceError, Unavailable
from sql.database import Database

log = logging.getLogger("accounts")

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
What = tuple[str, str]  # the kind of row and its key

FRESH_S = 2.0
KEPT_S = 60.0
ROWS_MOST = 10_000
CLOSE_S = 1.0  # that closing waits for a write under way


class RowCache:
    """A database and the rows lately read of it. Nothing is opened before the first call."""

    def __init__(self, url: str, fresh_s: float = FRESH_S, kept_s: float = KEPT_S) -> None:
        self.database = Database(url)
        self._fresh_s = fresh_s
        self._rows: TTLCache[What, tuple[float, Any]] = TTLCache(ROWS_MOST, kept_s)
        self._lock = threading.Lock()
        self._changed = 0.0  # when this process last wrote: rows read before may be old
        self._reading: set[What] = set()
        self._later: dict[What, Work[object]] = {}
        self._writer: threading.Thread | None = None

    @property
    def problem(self) -> str | None:
        """Why the database is not asked at the moment, or None."""
        return self.database.problem

    def read(self, work: Work[T]) -> T:
        """Return what `work` reads now. Raises Unavailable, at once if the database is away."""
        if self.problem is not None:
            raise Unavailable("the database cannot be reached; send this again later")
        return self.database.read(work)

    def get(self, what: What, work: Work[T], *, fresh: bool = False) -> T:
        """Return what `work` reads, as of at most two seconds ago; with `fresh` as of now.

        While the database is away, or another thread reads the same, a row of the last minute is
        returned. Raises Unavailable.
        """
        began = time.monotonic()
        with self._lock:
            at, row = self._rows.get(what, (0.0, None))
            if not fresh and at > max(self._changed, began - self._fresh_s):
                return row  # type: ignore[no-any-return]
            if not fresh and row is not None and what in self._reading:
                return row  # type: ignore[no-any-return]
            self._reading.add(what)
        try:
            found = self.read(work)
        except Unavailable:
            if row is None:
                raise
            return row  # type: ignore[no-any-return]
        finally:
            with self._lock:
                self._reading.discard(what)
        with self._lock:
            if began > self._changed:  # else it may be what a write has just ended
                self._rows[what] = (began, found)
        return found

    def write(self, work: Work[T]) -> T:
        """Return what `work` does in a transaction, and forget every row.

        A write that fails may have been committed: rows are read again, but known while the
        database is away.
        """
        try:
            done = self.database.write(work)
        finally:
            self._changed = time.monotonic()
        with self._lock:
            self._rows.clear()
        return done

    def write_later(self, what: What, work: Work[object]) -> None:
        """Run `work` in a thread if the database is there; no row is forgotten, no error raised.

        For what no request waits for, such as the last use of a key. One of each `what` waits.
        """
        with self._lock:
            if len(self._later) >= ROWS_MOST:
                return
            self._later.setdefault(what, work)
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._write_all, name="notes", daemon=True)
                self._writer.start()

    def close(self) -> None:
        """Close the connections; what was to be written later is not."""
        with self._lock:
            self._later.clear()
        if self._writer is not None:
            self._writer.join(CLOSE_S)
        self.database.close()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                if not self._later:
                    self._writer = None
                    return
                work = self._later.pop(next(iter(self._later)))
            try:
                if self.problem is None:
                    self.database.write(work, lambda _: False)
            except ServiceError as exc:
                log.debug("a note was not written (%s)", type(exc).__name__)
