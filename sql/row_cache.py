"""Reads of the accounts' tables, remembered for two seconds, and writes that forget them.

So a request costs no query, and a revoked key or a deleted user is refused by every worker within
that time. A database that is away or hangs costs one caller a pause; from then on a thread of its
own asks for it, and no request does. Knows the way to the database, not what is in it.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from circuit_breaker import Guard
from errors import Busy, Unavailable
from sql.database import Database

log = logging.getLogger("memo")

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
What = tuple[str, str]  # the kind of row and its key

REMEMBER_S = 2.0
# With the database away, those known lately are still served for this long.
REMEMBER_AWAY_S = 60.0
REMEMBER_MOST = 10_000
PROBE_S = 1.0  # from one look for a lost database to the next
CLOSE_S = 1.0  # for a write that is under way at the end


class Memo:
    """A database whose tables are made when first needed, and what was lately read of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: Database | None = None  # nothing is opened, nor a file made, until needed
        self._lock = threading.Lock()
        self._known: dict[What, tuple[float, Any]] = {}
        self._asking: set[What] = set()  # what a thread reads just now
        self._writes = 0
        self._doubted = 0.0  # what was read before this time may have changed since
        self._later: dict[What, Work[object]] = {}
        self._writer: threading.Thread | None = None
        self._ready = False
        self._guard = Guard("the SQL database", self._probe, (Unavailable,), PROBE_S)

    @property
    def problem(self) -> str | None:
        """Why the database is not asked just now."""
        return self._guard.problem

    def prepare(self) -> None:
        """Make the tables if they are not there. Raises Unavailable."""
        with self._lock:
            if self._opened is None:
                self._opened = Database(self._url)
        if not self._ready:
            self._opened.migrate()
            self._ready = True

    @property
    def _database(self) -> Database:
        self.prepare()
        assert self._opened is not None
        return self._opened

    def close(self) -> None:
        """End what runs in the background and let go of connections."""
        self._guard.close()
        with self._lock:
            self._later.clear()
            writer = self._writer
        if writer is not None:
            writer.join(CLOSE_S)
        if self._opened is not None:
            self._opened.close()

    def read(self, work: Work[T]) -> T:
        """Run `work` on the database now. Raises Unavailable, at once if that is known."""
        done = self._asked(lambda: self._database.read(work))
        if isinstance(done, Exception):
            raise done
        return done

    def write(self, work: Work[T]) -> T:
        """Run `work`, commit it, and forget what was remembered.

        What fails makes everything be asked for anew, since it may have been committed all the
        same; it is not forgotten, as with the database away it is all there is.
        """
        try:
            done = self._database.write(work)
        finally:
            with self._lock:
                self._writes += 1
                self._doubted = time.monotonic()
        with self._lock:
            self._known.clear()
        return done

    def write_later(self, what: What, work: Work[object]) -> None:
        """Run `work` in the background if the database is there; it forgets nothing.

        For what nobody waits for, such as a key's last use. One such write runs at a time, and
        one of each `what` waits.
        """
        with self._lock:
            if what in self._later or len(self._later) >= REMEMBER_MOST:
                return
            self._later[what] = work
            if len(self._later) > 1:
                return  # the thread that is under way comes to it
            self._writer = threading.Thread(target=self._write_all, name="notes", daemon=True)
            self._writer.start()

    def remembered(self, what: What, work: Work[T], *, fresh: bool = False) -> T:
        """Return what `work` reads, as of at most two seconds ago; `fresh` is as of now.

        With the database away, what was known in the last minute will do, and likewise while
        another thread asks for the same. Raises Unavailable.
        """
        now = time.monotonic()
        at, value = self._known.get(what, (-1e9, None))
        if not fresh and now - at < REMEMBER_S and at > self._doubted:
            return value  # type: ignore[no-any-return]
        usable = value is not None and now - at < REMEMBER_AWAY_S
        with self._lock:
            writes = self._writes
            first = what not in self._asking
            self._asking.add(what)
        if usable and not first and not fresh:
            return value  # type: ignore[no-any-return]
        try:
            found = self.read(work)
        except Unavailable:
            if usable:
                return value  # type: ignore[no-any-return]
            raise
        finally:
            with self._lock:
                self._asking.discard(what)
        self._keep(what, now, found, writes)
        return found

    def _keep(self, what: What, at: float, value: object, writes: int) -> None:
        with self._lock:
            if len(self._known) >= REMEMBER_MOST:
                self._known.clear()
            if writes == self._writes:  # else it may be what the write has just ended
                self._known[what] = (at, value)

    def _asked(self, work: Callable[[], T]) -> T | Exception:
        """Do `work` unless the database is left alone just now; what went wrong is returned."""

        def guarded() -> T | Exception:
            try:
                return work()
            except Exception as exc:
                if isinstance(exc, Unavailable) and not isinstance(exc, Busy):
                    raise
                return exc  # a lock, a full pool or a strange row: the database is there

        away: T | Exception = Unavailable(
            "the database cannot be reached; send this again later", retry_after_s=5
        )
        return self._guard.run(guarded, away)

    def _write_all(self) -> None:
        while True:
            with self._lock:
                what = next(iter(self._later), None)
                if what is None:
                    return
                work = self._later[what]
            self._write_quietly(work)
            with self._lock:
                self._later.pop(what, None)

    def _write_quietly(self, work: Work[object]) -> None:
        failed = self._asked(lambda: self._database.write(work))
        if isinstance(failed, Exception):
            log.debug("what was to be noted is lost (%s)", type(failed).__name__)

    def _probe(self) -> None:
        self._database.read(lambda connection: connection.execute(sa.select(sa.literal(1))))
