"""Keeps computed vectors for the next time: in this process's memory or in Redis.

A cache holds bytes by key and never raises; `entry.py` says what the bytes mean. Who asks, in which
order and what for, is `recall.py`.
"""

from cache.base import Cache
from cache.entry import Entry, keys_of, pack, unpack
from cache.memory import MemoryCache
from cache.redis import RedisCache
from config.cache import CacheSettings

__all__ = ["Cache", "Entry", "MemoryCache", "RedisCache", "keys_of", "open_cache", "pack", "unpack"]


def open_cache(settings: CacheSettings) -> Cache | None:
    """Open the configured cache; None if there is to be none. Connects to nothing yet."""
    if settings.cache_kind == "none":
        return None
    if settings.cache_kind == "redis":
        return RedisCache(settings.redis_address, settings.cache_ttl_s)
    return MemoryCache(settings.cache_max_bytes, settings.cache_ttl_s)
