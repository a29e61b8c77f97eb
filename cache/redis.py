"""A cache in Redis, shared by workers and machines. Whatever Redis does, no request fails.

redis-py's own retries (ten, with pauses up to a second: redis/redis-py#4082) make each call to a
dead server cost seconds, so they are off. A reply that does not begin within 0.25 s is a miss.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from circuit_breaker import CircuitBreaker

if TYPE_CHECKING:
    import redis

TIMEOUT_S = 0.25  # to connect, and for each answer to begin
# Bytes that are sent at once: 64 MB took longer than TIMEOUT_S, 4 MB take 17 ms (loopback, 2 cores,
# 2026-11-29).
PART = 1 << 22
# A full server, or a read-only replica, gets one write this often.
REFUSED_S = 5.0


def connect(address: str, timeout_s: float = TIMEOUT_S) -> "redis.Redis":
    """Return a client that tries once and gives up soon. It connects when it is first used."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        address,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # saves the round trips by which later protocols introduce themselves
        driver_info=None,
    )


class RedisCache:
    """Keeps values in Redis, each for `ttl_s` seconds or until Redis needs the room."""

    def __init__(self, address: str, ttl_s: float) -> None:
        import redis

        self._client = connect(address)
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._refusals = redis.exceptions.ResponseError
        self._breaker = CircuitBreaker("redis", self._client.ping, (redis.exceptions.TimeoutError,))
        self._write_after = 0.0
        self._refused = 0

    @property
    def problem(self) -> str | None:
        """See `Cache`."""
        return self._breaker.problem

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Cache`. One MGET."""
        nothing: list[bytes | None] = [None] * len(keys)
        return self._breaker.run(lambda: self._read(keys), nothing) if keys else nothing

    def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found = self._client.mget(keys)
        if len(found) != len(keys):
            raise ValueError("not as many values as keys: this is not a Redis server")
        return [value if isinstance(value, bytes) else None for value in found]

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """See `Cache`. One round trip for each few megabytes."""
        part: dict[bytes, bytes] = {}
        size = 0
        for key, value in values.items():
            if part and size + len(value) > PART:
                self._write(part)
                part, size = {}, 0
            part[key] = value
            size += len(value)
        self._write(part)

    def _write(self, values: Mapping[bytes, bytes]) -> None:
        if values and time.monotonic() >= self._write_after:
            self._breaker.run(lambda: self._set(values), None)

    def _set(self, values: Mapping[bytes, bytes]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for key, value in values.items():
                pipe.set(key, value, px=self._ttl_ms)
            answers = pipe.execute(raise_on_error=False)
        if refused := sum(
            isinstance(answer, self._refusals) for answer in answers
        ):  # full or read-only: reads go on
            self._refused += refused
            self._write_after = time.monotonic() + REFUSED_S

    def drop(self, keys: Sequence[bytes]) -> None:
        """See `Cache`."""
        if keys:
            self._breaker.run(lambda: self._unlink(keys), None)

    def _unlink(self, keys: Sequence[bytes]) -> None:
        try:
            self._client.unlink(*keys)
        except self._refusals:
            self._refused += 1

    def status(self) -> dict[str, object]:
        """See `Cache`."""
        return {"kind": "redis", "problem": self.problem, "refused_writes": self._refused}

    def close(self) -> None:
        """See `Cache`."""
        self._breaker.close()
        self._client.close()
