"""Limits wrong passwords per minute, so that guessing is slow.

Each limit is a moving window of a minute (`limits`, the library of Flask-Limiter). Each process
counts for itself and, if Redis is configured, all workers and machines also count together.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from limits import RateLimitItemPerMinute as Window
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from cache.redis import connect
from circuit_breaker import CircuitBreaker
from errors import RateLimited, Unauthorized

T = TypeVar("T")

PREFIX = "embedding-service:logins"
MANY = 10_000  # names and addresses counted in memory, above which expired ones are removed

# What is counted ("user", the name) and how many wrong passwords it may have in a minute.
Limit = tuple[tuple[str, ...], int]


class LoginThrottle:
    """Counts wrong passwords; `redis` is the address of Redis, None to count in memory only."""

    def __init__(self, redis: str | None = None) -> None:
        self._memory = MemoryStorage()
        self._own = MovingWindowRateLimiter(self._memory)
        self._lock = threading.Lock()
        self._under_way: Counter[tuple[str, ...]] = Counter()
        self._shared: MovingWindowRateLimiter | None = None
        self._breaker: CircuitBreaker | None = None
        if redis:
            from redis.exceptions import TimeoutError

            self._client = connect(redis)
            pool = self._client.connection_pool
            storage = RedisStorage(redis, connection_pool=pool, key_prefix=PREFIX)
            self._shared = MovingWindowRateLimiter(storage)
            self._breaker = CircuitBreaker("Redis for sign-ins", self._client.ping, (TimeoutError,))

    @property
    def problem(self) -> str | None:
        """Why each process counts only for itself at the moment, or None."""
        return self._breaker.problem if self._breaker else None

    def close(self) -> None:
        """Stop the probe of Redis and close its connections."""
        if self._breaker:
            self._breaker.close()
            self._client.close()

    @contextmanager
    def attempt(self, limits: Sequence[Limit]) -> Iterator[None]:
        """Run the block as a sign-in, and count it if it raises Unauthorized.

        Raises RateLimited if a limit is reached, before the block runs. Where other processes reach
        it meanwhile, it is raised after the block, whether the password was right or wrong: so no
        more guesses are answered than the limit allows.
        """
        names = [what for what, _ in limits]
        with self._lock:
            for limit in limits:  # attempts under way are taken for wrong ones
                stats = self._own.get_window_stats(*_key(limit))
                if stats.remaining <= self._under_way[limit[0]]:
                    raise _refused(stats.reset_time if stats.remaining <= 0 else 0.0)
            self._under_way.update(names)
        try:
            self._check_shared(limits)
            try:
                yield
            except Unauthorized:
                self._count(limits)
                raise
            self._check_shared(limits)
        finally:
            with self._lock:
                self._under_way -= Counter(names)

    def _check_shared(self, limits: Sequence[Limit]) -> None:
        """Raise RateLimited if all processes together have reached a limit."""
        if self._shared:
            found = self._in_redis(self._shared.get_window_stats, limits)
            if full := [stats.reset_time for stats in found if stats.remaining <= 0]:
                raise _refused(max(full))

    def _count(self, limits: Sequence[Limit]) -> None:
        """Count a wrong password. Raises RateLimited if other processes have reached a limit."""
        with self._lock:
            if len(self._memory.events) > MANY:  # the library keeps names whose counts expired
                for key in [key for key, counted in self._memory.events.items() if not counted]:
                    self._memory.clear(key)
            for limit in limits:
                self._own.hit(*_key(limit))
        if self._shared and not all(self._in_redis(self._shared.hit, limits)):
            self._check_shared(limits)  # which answers as it does to a right password

    def _in_redis(self, ask: Callable[[Window, str], T], limits: Sequence[Limit]) -> list[T]:
        """Return the answer for each limit; nothing while Redis is away."""
        nothing: list[T] = []
        if self._breaker is None:
            return nothing
        return self._breaker.run(lambda: [ask(*_key(limit)) for limit in limits], nothing)


def _key(limit: Limit) -> tuple[Window, str]:
    """Return a window and the name it is counted under: a hash, as clients may type secrets."""
    what, most = limit
    return Window(most), hashlib.sha256(repr(what).encode()).hexdigest()


def _refused(until: float) -> RateLimited:
    """Return the refusal with a wait of at least a second; `until` is by `time.time()`."""
    wait_s = max(1.0, until - time.time())
    return RateLimited(
        f"too many wrong passwords, or too many at once; try again in {wait_s:.0f} s",
        retry_after_s=wait_s,
    )
