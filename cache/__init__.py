"""Keeps computed vectors for later: in memory, the model process's if there is one, or in Redis.

A cache holds bytes by key; `codec.py` says what they mean. The engine decides what is looked up and
kept.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from cache.codec import Entry, keys_of, pack, unpack
from cache.in_flight import InFlight
from cache.memory import MemoryCache
from cache.redis import RedisCache
from cache.shared import Call, SharedCache
from config.storage import CacheSettings

__all__ = [
    "Cache", "Entry", "InFlight", "MemoryCache", "RedisCache", "SharedCache", "keys_of",
    "open_cache", "pack", "unpack",
]  # fmt: skip


class Cache(Protocol):
    """Bytes by key. Safe from many threads.

    No method raises: a cache that fails finds nothing and keeps nothing, and says so in `problem`.
    """

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, or None, in one round trip."""

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep the values if possible."""

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget the keys."""

    @property
    def problem(self) -> str | None:
        """Why the cache cannot be used now, or None."""

    def status(self) -> dict[str, object]:
        """Return its kind, size and state as JSON."""

    def close(self) -> None:
        """Free memory and connections."""


def open_cache(settings: CacheSettings, call: Call | None = None) -> Cache | None:
    """Return the configured cache, or None for none. Does not connect yet.

    The memory cache is this process's, or with `call` the one of the model process that it calls.
    """
    if settings.cache_kind == "none":
        return None
    if settings.cache_kind == "redis":
        return RedisCache(settings.redis_address, settings.cache_ttl_s)
    if call is not None:
        return SharedCache(call)
    return MemoryCache(settings.cache_max_bytes, settings.cache_ttl_s)
