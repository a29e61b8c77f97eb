"""A store that could not be opened at the start: it is tried again whenever it is asked.

So a disk that is full, read-only or not mounted yet costs the collections and nothing else, and
they come back with the disk. Knows nothing of what kind of store it is.
"""

import threading
from collections.abc import Callable
from typing import Any, cast

from errors import ServiceError
from store.base import VectorStore


class LateStore:
    """Stands where a store will be. Every call raises the reason until it can be opened."""

    def __init__(self, opener: Callable[[], VectorStore], reason: str) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._store: VectorStore | None = None
        self._cannot_open: str | None = reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened(), name)

    @property
    def problem(self) -> str | None:
        """Why it cannot be opened, or what is wrong with it since."""
        return self._cannot_open or (problem_of(self._store) if self._store else None)

    def close(self) -> None:
        """Close it, if it was ever opened."""
        if self._store is not None:
            self._store.close()

    def _opened(self) -> VectorStore:
        with self._lock:
            if self._store is None:
                try:
                    self._store = self._opener()
                except ServiceError as exc:
                    self._cannot_open = exc.message
                    raise
                self._cannot_open = None
            return self._store


def open_or_wait(opener: Callable[[], VectorStore]) -> VectorStore:
    """Open a store; if that fails for now, return one that opens when it can."""
    try:
        return opener()
    except ServiceError as exc:
        if exc.status < 500:  # a setting is wrong: that is said at once
            raise
        return cast(VectorStore, LateStore(opener, exc.message))


def problem_of(store: VectorStore) -> str | None:
    """Return why nothing can be read or written now, of a store that finds out."""
    return cast("str | None", getattr(store, "problem", None))
