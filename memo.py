"""Reads of the accounts' tables, remembered for two seconds, and writes that forget them.

So a request costs no query, and a revoked key or a deleted user is refused by every worker within
that time. Knows the way to the database, not what is in it.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from db import Database
from errors import Unavailable

T = TypeVar("T")

REMEMBER_S = 2.0
# With the database away, those known lately are still served for this long.
REMEMBER_AWAY_S = 60.0
REMEMBER_MOST = 10_000


class Memo:
    """A database whose tables are made when first needed, and what was lately read of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: Database | None = None  # nothing is opened, nor a file made, until needed
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, Any]] = {}
        self._writes = 0
        self._ready = False

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
        """Let go of connections."""
        if self._opened is not None:
            self._opened.close()

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` on the database now."""
        return self._database.read(work)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work`, commit it, and forget what was remembered."""
        try:
            return self._database.write(work)
        finally:
            with self._lock:
                self._writes += 1
                self._known.clear()

    def remembered(self, what: tuple[str, str], work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` reads, as of at most two seconds ago.

        With the database away, what was known in the last minute will do. Raises Unavailable.
        """
        now = time.monotonic()
        at, value = self._known.get(what, (-1e9, None))
        if now - at < REMEMBER_S:
            return value  # type: ignore[no-any-return]
        writes = self._writes
        try:
            fresh = self.read(work)
        except Unavailable:
            if value is not None and now - at < REMEMBER_AWAY_S:
                return value  # type: ignore[no-any-return]
            raise
        with self._lock:
            if len(self._known) >= REMEMBER_MOST:
                self._known.clear()
            if writes == self._writes:  # else it may be what the write has just ended
                self._known[what] = (now, fresh)
        return fresh
