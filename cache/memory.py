"""A cache in this process's memory: bounded in bytes, the longest unused goes first."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

# What Python needs for an entry beside key and value: objects' heads, the tuple, the time, the
# dict's slot and its link. Measured with tracemalloc, CPython 3.11 to 3.14; tests hold it.
OVERHEAD = 400


class MemoryCache:
    """Keeps at most `max_bytes`, each value for at most `ttl_s` seconds."""

    problem: str | None = None

    def __init__(
        self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._values: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._evicted = 0

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Cache`."""
        now = self._clock()
        with self._lock:
            return [self._fresh(key, now) for key in keys]

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """See `Cache`. A value larger than the whole cache is not kept."""
        expires = self._clock() + self._ttl_s
        with self._lock:
            for key, value in values.items():
                self._remove(key)
                if _size(key, value) <= self._max_bytes:
                    self._values[key] = expires, value
                    self._bytes += _size(key, value)
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._values)))
                self._evicted += 1

    def drop(self, keys: Sequence[bytes]) -> None:
        """See `Cache`."""
        with self._lock:
            for key in keys:
                self._remove(key)

    def status(self) -> dict[str, object]:
        """See `Cache`."""
        with self._lock:
            return {
                "kind": "memory",
                "entries": len(self._values),
                "bytes": self._bytes,
                "max_bytes": self._max_bytes,
                "evicted": self._evicted,
            }

    def close(self) -> None:
        """See `Cache`."""
        with self._lock:
            self._values.clear()
            self._bytes = 0

    def _fresh(self, key: bytes, now: float) -> bytes | None:
        found = self._values.get(key)
        if found is None:
            return None
        expires, value = found
        if expires <= now:
            self._remove(key)
            return None
        self._values.move_to_end(key)
        return value

    def _remove(self, key: bytes) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._bytes -= _size(key, found[1])


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + OVERHEAD
