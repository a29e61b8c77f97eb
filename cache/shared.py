"""The memory cache of several workers: it lies in the model process, and they call it there.

A text that one worker had embedded is so found by all. Values cross as one block with their
lengths before it. While the model process is away nothing is found and nothing is kept, as with a
Redis that is down.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cache.memory import MemoryCache
from circuit_breaker import CircuitBreaker
from config.storage import CacheSettings
from errors import Unavailable

Buffer = bytes | memoryview
Reply = tuple[dict[str, Any], Sequence[Buffer]]
# Calls an operation of the model process with JSON and blocks of bytes. Raises ServiceError.
Call = Callable[..., tuple[dict[str, Any], Sequence[memoryview]]]
Operation = Callable[[dict[str, Any], Sequence[memoryview]], Reply]

PAUSES_S = (0.5, 1.0, 2.0, 5.0)  # between the tries while it is away: it starts within seconds
NOTHING = -1  # the length of a value that was not found


class SharedCache:
    """The cache in the model process, as a worker sees it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        probe = lambda: call("cache.status", {})  # noqa: E731
        # A call to a process that was stopped costs a pause, so one is enough.
        self._breaker = CircuitBreaker("the cache", probe, (Unavailable,), pauses=PAUSES_S)

    @property
    def problem(self) -> str | None:
        """See `Cache`."""
        return self._breaker.problem

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Cache`."""
        nothing: list[bytes | None] = [None] * len(keys)
        return self._breaker.run(lambda: self._read(keys), nothing) if keys else nothing

    def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        _, found = self._call("cache.get", {}, *_joined(keys))
        return list(_apart(*found))

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """See `Cache`."""
        if values:
            blocks = (*_joined(values), *_joined(values.values()))
            self._breaker.run(lambda: self._call("cache.put", {}, *blocks), None)

    def drop(self, keys: Sequence[bytes]) -> None:
        """See `Cache`."""
        if keys:
            self._breaker.run(lambda: self._call("cache.drop", {}, *_joined(keys)), None)

    def status(self) -> dict[str, object]:
        """See `Cache`."""
        nothing: dict[str, object] = {"kind": "memory", "problem": self.problem}
        return self._breaker.run(lambda: self._call("cache.status", {})[0], nothing)

    def close(self) -> None:
        """See `Cache`. What the model process keeps is for the other workers."""
        self._breaker.close()


def operations(settings: CacheSettings) -> dict[str, Operation]:
    """Return what the model process answers to `SharedCache`, by operation, from a new cache."""
    cache = MemoryCache(settings.cache_max_bytes, settings.cache_ttl_s)

    def get(_: dict[str, Any], parts: Sequence[memoryview]) -> Reply:
        return {}, _joined(cache.get(_keys(*parts)))

    def put(_: dict[str, Any], parts: Sequence[memoryview]) -> Reply:
        values = zip(_keys(*parts[:2]), _keys(*parts[2:]), strict=True)
        cache.put(dict(values))
        return {}, ()

    def drop(_: dict[str, Any], parts: Sequence[memoryview]) -> Reply:
        cache.drop(_keys(*parts))
        return {}, ()

    def status(_: dict[str, Any], parts: Sequence[memoryview]) -> Reply:
        return cache.status(), ()

    return {"cache.get": get, "cache.put": put, "cache.drop": drop, "cache.status": status}


def _joined(values: Iterable[bytes | None]) -> tuple[bytes, bytes]:
    """Return the lengths of the values (n,) int32 and all of them in a row."""
    values = list(values)
    lengths = [NOTHING if value is None else len(value) for value in values]
    return np.array(lengths, "<i4").tobytes(), b"".join(filter(None, values))


def _apart(lengths: Buffer, block: Buffer) -> Iterator[bytes | None]:
    """Yield the values of `_joined`. Raises ValueError for a block of another length."""
    sizes = np.frombuffer(lengths, "<i4").tolist()
    ends = list(itertools.accumulate((max(size, 0) for size in sizes), initial=0))
    if ends[-1] != len(block):
        raise ValueError("a block is not as long as the lengths of its values say")
    for size, start in zip(sizes, ends, strict=False):
        yield None if size == NOTHING else bytes(block[start : start + size])


def _keys(lengths: Buffer, block: Buffer) -> list[bytes]:
    """Return values of which each is there."""
    return [value for value in _apart(lengths, block) if value is not None]
