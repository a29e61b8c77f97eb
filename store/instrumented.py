"""A store whose calls are counted by their outcome, and whose size on the disk is measured.

A label is one of the operations below, an outcome `ok` or an error's code: both are closed sets.
"""

import contextlib
import os
import threading
import time
from typing import Any

from errors import ServiceError
from observability.metrics import STORE_BYTES, STORE_COLLECTIONS, VECTOR_OPERATIONS
from store.base import VectorStore
from store.delegating import DelegatingStore

OPERATIONS = frozenset((
    "create", "drop", "rename", "swap", "alias", "unalias", "upsert", "delete",
    "get", "search", "scroll", "count", "compact",
))  # fmt: skip
# After a call its effect on the sizes is read so much later, with that of the calls in between.
MEASURE_AFTER_S = 2.0
# With thousands of collections a look takes long: it waits so many times as long before the next.
LOOK_SHARE = 50.0


class InstrumentedStore(DelegatingStore):
    """A store that is counted in `embedding_vector_operations_total`, and measured."""

    def __init__(self, store: VectorStore, measure_after_s: float = MEASURE_AFTER_S) -> None:
        self._store, self._after_s = store, measure_after_s
        self._lock = threading.Lock()
        self._measuring = 0  # the process in which a thread is about to read the sizes
        self._took_s = 0.0  # the last look at the sizes
        self._closed = threading.Event()
        self._measure_soon()

    @property
    def problem(self) -> str | None:
        """Why nothing can be read or written now, or None."""
        return self._store.problem

    def close(self) -> None:
        """Close the store, and measure no more."""
        self._closed.set()
        self._store.close()

    def _inner(self) -> VectorStore:
        return self._store

    def _call(self, operation: str, *args: Any, **named: Any) -> Any:
        if operation not in OPERATIONS:
            return super()._call(operation, *args, **named)
        outcome = "internal_error"
        try:
            result = super()._call(operation, *args, **named)
            outcome = "ok"
            return result
        except ServiceError as exc:
            outcome = exc.code
            raise
        finally:
            VECTOR_OPERATIONS.labels(operation, outcome).inc()
            self._measure_soon()

    def _measure_soon(self) -> None:
        """Start a thread that reads the sizes, unless one is about to."""
        if self._measuring == os.getpid():
            return
        with self._lock:
            if self._measuring == os.getpid():
                return
            self._measuring = os.getpid()
        threading.Thread(target=self._measure, name="store-sizes", daemon=True).start()

    def _measure(self) -> None:
        if self._closed.wait(max(self._after_s, LOOK_SHARE * self._took_s)):
            return
        self._measuring = 0  # before the look: a call from now on needs another one
        began = time.monotonic()
        with contextlib.suppress(ServiceError):  # away now: the next call looks again
            found = self._store.stats()
            STORE_COLLECTIONS.set(found["collections"])
            STORE_BYTES.set(found["bytes"])
        self._took_s = time.monotonic() - began
