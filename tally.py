"""Where requests and texts are counted: in Redis if there is one, in memory while it is away.

A storage as Flask-Limiter takes them, by the scheme `tally://`. Redis stands behind a guard, so
that one that hangs costs one short pause. Tells when there is room again. Knows no HTTP.
"""

from dataclasses import dataclass
from typing import Any, cast

from limits.storage import MemoryStorage, RedisStorage, storage_from_string

from circuit_breaker import Guard

# Redis answers within this or counts as away: a request never waits longer for it.
REDIS_TIMEOUT_S = 0.25
PERIOD_S = 60
# Redis counts in whole milliseconds: this much later it is past the moment for certain.
MARGIN_S = 0.002


@dataclass(frozen=True)
class Window:
    """What was counted in the last period and in this one, and when this one ends, in seconds.

    Of the last period's count the share is held against the caller that this one has left to run.
    """

    last: int
    this: int
    ends_in_s: float

    def left(self, most: int) -> int:
        """Return how much of a limit is left."""
        return max(0, most - int(self.last * self.ends_in_s / PERIOD_S) - self.this)

    def wait_s(self, most: int, cost: int) -> float:
        """Return in how many seconds at the earliest `cost` more is within a limit.

        `cost` is at most `most`: more never is.
        """
        if cost <= self.left(most):
            return 0.0
        room = most - cost - self.this
        if room >= 0:  # before this period ends
            after = self.ends_in_s - _time_left(self.last, room)
        else:  # what is counted in this one must fade in the next
            after = self.ends_in_s + PERIOD_S - _time_left(self.this, most - cost)
        return max(0.0, after) + MARGIN_S


def _time_left(count: int, room: int) -> float:
    """Return how much of a period may be left for the whole part of `count`'s share to fit."""
    return min(float(PERIOD_S), PERIOD_S * (room + 1) / count) if count else float(PERIOD_S)


class Tally(MemoryStorage):
    """Counts in Redis, and otherwise in its own memory. Never raises what Redis does."""

    STORAGE_SCHEME = ["tally"]

    def __init__(self, uri: str | None = None, address: str = "", **_: Any) -> None:
        super().__init__()
        self._shared: RedisStorage | None = None
        self._guard: Guard | None = None
        if address:
            import redis

            timeouts = {"socket_timeout": REDIS_TIMEOUT_S,
                        "socket_connect_timeout": REDIS_TIMEOUT_S}  # fmt: skip
            self._shared = cast(RedisStorage, storage_from_string(address, **timeouts))
            ping = self._shared.get_connection().ping
            self._guard = Guard("redis for the limits", ping, (redis.exceptions.TimeoutError,))

    @property
    def problem(self) -> str | None:
        """Why each worker counts for itself just now, if Redis is why."""
        return self._guard.problem if self._guard else None

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Count `amount` if it is within the limit; tell whether it was."""
        key, shared, done = _whose(key), self._shared, None
        if shared and self._guard:
            done = self._guard.run(
                lambda: shared.acquire_sliding_window_entry(key, limit, expiry, amount), None
            )
        if done is not None:
            return done
        return super().acquire_sliding_window_entry(key, limit, expiry, amount)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the count of the last period and its seconds, the count of this and its."""
        key, shared, found = _whose(key), self._shared, None
        if shared and self._guard:
            found = self._guard.run(lambda: shared.get_sliding_window(key, expiry), None)
        return super().get_sliding_window(key, expiry) if found is None else found

    def window(self, key: str) -> Window:
        """Return how things stand with what is counted under a key."""
        last, last_ttl, this, this_ttl = self.get_sliding_window(key, PERIOD_S)
        # this period's count is kept for one more; the last one's time is what is left of this
        return Window(last, this, last_ttl if last else max(0.0, this_ttl - PERIOD_S))

    def close(self) -> None:
        """End the probing."""
        if self._guard:
            self._guard.close()


def _whose(key: str) -> str:
    """Take a limit's amount and period off its key: who has keys of several roles is one caller."""
    return key.rsplit("/", 3)[0]
