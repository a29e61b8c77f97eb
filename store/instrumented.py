"""A store that is counted: every call by its outcome, and how much there is on the disk.

Stands in front of any store and knows nothing of its kind. A label is one of the operations below,
an outcome `ok` or an error's code, so that both are closed sets.
"""

import contextlib
import functools
import os
import threading
from typing import Any, cast

from errors import ServiceError
from observability.metrics import STORE_BYTES, STORE_COLLECTIONS, VECTOR_OPERATIONS
from store.base import VectorStore

OPERATIONS = (
    "create", "drop", "rename", "swap", "alias", "unalias", "upsert", "delete",
    "get", "search", "scroll", "count", "compact",
)  # fmt: skip
# How long after a call its effect on the sizes is seen; what is called meanwhile is seen with it.
MEASURE_AFTER_S = 2.0


class MeteredStore:
    """A store whose calls are counted. Sizes are read a while after a call, by a thread aside."""

    def __init__(self, store: VectorStore, measure_after_s: float = MEASURE_AFTER_S) -> None:
        self._store, self._after_s = store, measure_after_s
        self._lock = threading.Lock()
        self._measuring = 0  # the process in which a thread is about to read the sizes
        self._closed = threading.Event()
        for name in OPERATIONS:
            setattr(self, name, functools.partial(self._call, name))
        self._touch()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def close(self) -> None:
        """Close it, and measure no more."""
        self._closed.set()
        self._store.close()

    def _call(self, operation: str, *args: Any, **named: Any) -> Any:
        outcome = "internal_error"
        try:
            result = getattr(self._store, operation)(*args, **named)
            outcome = "ok"
            return result
        except ServiceError as exc:
            outcome = exc.code
            raise
        finally:
            VECTOR_OPERATIONS.labels(operation, outcome).inc()
            self._touch()

    def _touch(self) -> None:
        """See to it that the sizes are read soon; one thread at a time is enough."""
        if self._measuring == os.getpid():
            return
        with self._lock:
            if self._measuring == os.getpid():
                return
            self._measuring = os.getpid()
        threading.Thread(target=self._measure, name="store-sizes", daemon=True).start()

    def _measure(self) -> None:
        if self._closed.wait(self._after_s):
            return
        self._measuring = 0  # before it looks: a call from now on wants another look
        with contextlib.suppress(ServiceError):  # not there now: the next call looks again
            found = self._store.stats()
            STORE_COLLECTIONS.set(found["collections"])
            STORE_BYTES.set(found["bytes"])


def metered(store: VectorStore) -> VectorStore:
    """Return the store, counted in `embedding_vector_operations_total` and measured."""
    return cast(VectorStore, MeteredStore(store))
