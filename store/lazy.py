"""A store that could not be opened at the start: each call tries again.

So a disk that is full, read-only or not mounted yet takes the collections with it and nothing else,
and they return with the disk.
"""

import threading
from collections.abc import Callable

from errors import ServiceError
from store.base import VectorStore
from store.delegating import DelegatingStore


class LazyStore(DelegatingStore):
    """A store that `opener` opens. Every call raises its error until it can."""

    def __init__(self, opener: Callable[[], VectorStore], reason: str) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._store: VectorStore | None = None
        self._reason: str | None = reason

    @property
    def problem(self) -> str | None:
        """Why it cannot be opened, or what is wrong with it since."""
        return self._reason or (self._store.problem if self._store else None)

    def close(self) -> None:
        """Close it, if it was ever opened."""
        if self._store is not None:
            self._store.close()

    def _inner(self) -> VectorStore:
        with self._lock:
            if self._store is None:
                try:
                    self._store = self._opener()
                except ServiceError as exc:
                    self._reason = exc.message
                    raise
                self._reason = None
            return self._store


def open_or_wait(opener: Callable[[], VectorStore]) -> VectorStore:
    """Open a store; if that fails for now, return one that opens once it can.

    A wrong setting is raised at once.
    """
    try:
        return opener()
    except ServiceError as exc:
        if exc.status < 500:
            raise
        return LazyStore(opener, exc.message)
