"""Counts tries to sign in over the last minute, so that guessing is slow.

A try counts from before its password is hashed, so of many at once only as many are hashed as are
allowed; one that was right is taken back. Each process counts for itself, and where there is Redis
all workers and machines together. Knows no users, no HTTP.
"""

import hashlib
import math
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from cache.redis import connect
from circuit_breaker import Guard
from errors import RateLimited, Unauthorized

MINUTE_S = 60.0
MANY = 10_000  # of counted names and addresses; above this, those of long ago are looked for

# What a try counts for, and how many of it a minute may have.
Counted = tuple[Hashable, int]


class Tries:
    """The wrong tries of the last minute and those under way; `redis` is the address of Redis."""

    def __init__(self, redis: str | None = None) -> None:
        self._lock = threading.Lock()
        self._wrong: defaultdict[Hashable, list[float]] = defaultdict(list)  # the oldest first
        self._under_way: Counter[Hashable] = Counter()
        self._shared = _Shared(redis) if redis else None

    @property
    def problem(self) -> str | None:
        """Why each process counts for itself alone just now, if Redis is why."""
        return self._shared.guard.problem if self._shared else None

    def close(self) -> None:
        """End what runs in the background."""
        if self._shared:
            self._shared.close()

    @contextmanager
    def one(self, counted: Sequence[Counted]) -> Iterator[None]:
        """Count the block as a try, and as a wrong one only if it raises Unauthorized.

        Raises RateLimited, and runs no block, where one of the limits is reached.
        """
        with self._lock:
            self._let_in(counted, time.monotonic())
            self._under_way.update(who for who, _ in counted)
        wrong, taken = False, None
        try:
            taken = self._shared.take(counted) if self._shared else None
            yield
        except Unauthorized:
            wrong = True
            raise
        finally:
            if taken and self._shared and not wrong:
                self._shared.give_back(counted, taken)
            self._settle(counted, wrong)

    def _let_in(self, counted: Sequence[Counted], now: float) -> None:
        if len(self._wrong) > MANY:
            for who in list(self._wrong):
                self._forget(who, now)
        for who, most in counted:
            self._forget(who, now)
            wrong = self._wrong.get(who, [])
            if len(wrong) >= most:
                _refuse(wrong[-most] + MINUTE_S - now)
            if len(wrong) + self._under_way[who] >= most:
                _refuse(1.0)  # those under way may be right

    def _settle(self, counted: Sequence[Counted], wrong: bool) -> None:
        now = time.monotonic()
        with self._lock:
            for who, _ in counted:
                self._under_way[who] -= 1
                if not self._under_way[who]:
                    del self._under_way[who]
                if wrong:
                    self._wrong[who].append(now)

    def _forget(self, who: Hashable, now: float) -> None:
        """Forget what is older than a minute."""
        recent = [at for at in self._wrong.get(who, ()) if now - at < MINUTE_S]
        if recent:
            self._wrong[who] = recent
        else:
            self._wrong.pop(who, None)


class _Shared:
    """The tries of every process, in Redis: for each name or address a set of times."""

    def __init__(self, address: str) -> None:
        import redis

        self._client = connect(address)
        slow = (redis.exceptions.TimeoutError,)
        self.guard = Guard("redis for the sign-ins", self._client.ping, slow)

    def take(self, counted: Sequence[Counted]) -> str | None:
        """Count a try; return its mark, or None where Redis is away. Raises RateLimited."""
        mark, now = uuid.uuid4().hex, time.time()
        pipe = self._client.pipeline()  # a transaction: of two at once one is the later
        for who, most in counted:
            key = _key(who)
            pipe.zremrangebyscore(key, 0, now - MINUTE_S)
            pipe.zadd(key, {mark: now})
            pipe.zrevrange(key, most, most, withscores=True)  # the try that must fade for this one
            pipe.expire(key, math.ceil(MINUTE_S))
        said = self.guard.run(pipe.execute, None)
        if said is None:
            return None
        if before := [row[0][1] for row in said[2::4] if row]:
            self.give_back(counted, mark)
            _refuse(max(before) + MINUTE_S - now)
        return mark

    def give_back(self, counted: Sequence[Counted], mark: str) -> None:
        """Count a try no more."""
        pipe = self._client.pipeline()
        for who, _ in counted:
            pipe.zrem(_key(who), mark)
        self.guard.run(pipe.execute, None)

    def close(self) -> None:
        """End the probing and let go of the connections."""
        self.guard.close()
        self._client.close()


def _key(who: Hashable) -> str:
    """Return where tries are counted: names are the clients' to choose, and may be secrets."""
    return f"embedding-service:tries:{hashlib.sha256(repr(who).encode()).hexdigest()}"


def _refuse(wait_s: float) -> None:
    wait_s = max(1.0, wait_s)
    raise RateLimited(
        f"too many wrong passwords, or too many at once; try again in {wait_s:.0f} s",
        retry_after_s=wait_s,
    )
