"""How often a caller may call, and how many requests may run at once.

Requests and texts a minute are counted per caller, whichever of its keys it uses, against the
limits of the key's role. Fewer requests may run at once than there are threads, so that a thread is
always free for a probe or a refusal. Every refusal says when to come back.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage, storage_from_string

from auth import caller
from circuit_breaker import CircuitBreaker
from config import Config
from context import services
from errors import QueueFull, RateLimited, TooLarge
from observability import metrics, tracing

KEY = "throttle"
# One of so many threads is kept free of work. At twice the capacity /health took 1.2 s without it.
SPARE = 8
# Redis answers within this or counts as away: a request never waits longer for it.
REDIS_TIMEOUT_S = 0.25
PERIOD_S = 60
_per_minute = partial(RateLimitItemPerMinute, namespace="embedding-service")
# Redis counts in whole milliseconds: this much later the moment has passed for certain.
MARGIN_S = 0.002


@dataclass(eq=False)
class Permit:
    """Leave to run, of one request."""

    bulk: bool = False


class Permits:
    """Lets in fewer requests than there are threads, and refuses the others at once.

    Bulk requests leave one of `SPARE` permits to others.
    """

    def __init__(self, threads: int) -> None:
        self.most = threads - max(1, threads // SPARE)
        self._lock = threading.Lock()
        self._busy = self._bulk = 0
        self._took_s = 1.0  # a moving average

    @contextmanager
    def one(self, *, bulk: bool = False) -> Iterator[Permit]:
        """Hold a permit while the block runs. Raises QueueFull if there is none."""
        began, permit = time.monotonic(), Permit(bulk)
        with self._lock:
            if bulk:
                self._check_bulk()
            if self._busy >= self.most:
                raise self._full(f"{self._busy} requests")
            self._busy += 1
            self._bulk += bulk
        try:
            yield permit
        finally:
            with self._lock:
                self._busy -= 1
                self._bulk -= permit.bulk
                self._took_s += 0.1 * (time.monotonic() - began - self._took_s)

    def count_bulk(self, permit: Permit) -> None:
        """Count a permit as bulk's, once. Raises QueueFull if bulk has all that it may have."""
        with self._lock:
            if not permit.bulk:
                self._check_bulk()
                self._bulk += 1
                permit.bulk = True

    def _check_bulk(self) -> None:
        if self._bulk >= self.most - self.most // SPARE:
            raise self._full(f"{self._bulk} bulk requests")

    def _full(self, what: str) -> QueueFull:
        # Between one and two times what requests take now: not all come back together.
        wait = min(max(self._took_s, 1.0), 15.0) * (1 + time.monotonic() % 1)
        return QueueFull(f"{what} are running already; send this again later", retry_after_s=wait)


@dataclass(frozen=True)
class Window:
    """The counts of the last period and of this one, and the seconds until this one ends.

    The last period's count weighs as much as this one has time left.
    """

    last: int
    this: int
    ends_in_s: float

    def left(self, most: int) -> int:
        """Return how much of a limit is left."""
        return max(0, most - int(self.last * self.ends_in_s / PERIOD_S) - self.this)

    def wait_s(self, most: int, cost: int) -> float:
        """Return the seconds until `cost` more is within a limit. `cost` is at most `most`."""
        if cost <= self.left(most):
            return 0.0
        room = most - cost - self.this
        if room >= 0:  # before this period ends
            after = self.ends_in_s - _time_left(self.last, room)
        else:  # this period's count must fade in the next
            after = self.ends_in_s + PERIOD_S - _time_left(self.this, most - cost)
        return max(0.0, after) + MARGIN_S


def _time_left(count: int, room: int) -> float:
    """Return the time left in a period from which on `count` weighs no more than `room`."""
    return min(float(PERIOD_S), PERIOD_S * (room + 1) / count) if count else float(PERIOD_S)


class Tally(MemoryStorage):
    """A storage for Flask-Limiter that counts in Redis, or in memory while Redis is away.

    Flask-Limiter's own fallback asks Redis again within requests, each of which then waits for one
    that hangs. Here a circuit breaker asks it in a thread of its own.
    """

    STORAGE_SCHEME = ["tally"]

    def __init__(self, uri: str | None = None, address: str = "", **_: Any) -> None:
        super().__init__()
        self._shared: RedisStorage | None = None
        self._breaker: CircuitBreaker | None = None
        if address:
            from redis.exceptions import TimeoutError

            seconds = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), REDIS_TIMEOUT_S)
            self._shared = cast(RedisStorage, storage_from_string(address, **seconds))
            ping = self._shared.get_connection().ping
            self._breaker = CircuitBreaker("Redis for the limits", ping, (TimeoutError,))

    @property
    def problem(self) -> str | None:
        """Why each worker counts for itself now, if Redis is the reason."""
        return self._breaker.problem if self._breaker else None

    def acquire_sliding_window_entry(self, key: str, *limit: Any, **amount: Any) -> bool:
        """Count an amount if it is within the limit; return whether it was."""
        return bool(self._do("acquire_sliding_window_entry", key, *limit, **amount))

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the last period's count and seconds left, then this period's."""
        found: tuple[int, float, int, float] = self._do("get_sliding_window", key, expiry)
        return found

    def _do(self, name: str, key: str, *given: Any, **more: Any) -> Any:
        # The key ends with the limit's amount and period. Without them a caller's keys of several
        # roles count together.
        key, done, shared = key.rsplit("/", 3)[0], None, self._shared
        if self._breaker:
            done = self._breaker.run(lambda: getattr(shared, name)(key, *given, **more), None)
        return getattr(super(), name)(key, *given, **more) if done is None else done

    def window(self, key: str) -> Window:
        """Return the counts under a key."""
        last, last_ttl, this, this_ttl = self.get_sliding_window(key, PERIOD_S)
        # A count is kept for one more period; the last one's time is what is left of this one.
        return Window(last, this, last_ttl if last else max(0.0, this_ttl - PERIOD_S))

    def close(self) -> None:
        """Stop the circuit breaker's thread."""
        if self._breaker:
            self._breaker.close()


class Throttle:
    """The limits of every caller, and the permits of this process."""

    def __init__(self, app: Flask, config: Config) -> None:
        self._limiter = Limiter(
            key_of_caller,
            app=app,
            storage_uri="tally://",
            storage_options={"address": config.redis_address if config.redis_enabled else ""},
            strategy="sliding-window-counter",  # constant cost for any number of texts
        )
        self._tally = cast(Tally, self._limiter.storage)
        self.permits = Permits(config.threads)
        app.extensions[KEY] = self

    @property
    def problem(self) -> str | None:
        """Why each worker counts for itself now, if Redis is the reason."""
        return self._tally.problem

    def close(self) -> None:
        """Stop what runs in the background."""
        self._tally.close()

    def count_request(self) -> None:
        """Count the current request. Raises RateLimited."""
        most, key = allowance("requests"), key_of_caller()
        if not most:
            return
        self._count("requests", key, most, 1)
        window = self._window("requests", key, most)
        left = window.left(most)
        # Until one more may come; where one may, until the whole limit is free again.
        reset = window.wait_s(most, most if left else 1)
        g.standing = "requests", most, left, math.ceil(reset)

    def count_texts(self, texts: int) -> None:
        """Count texts, and a bulk request of so many as that.

        Raises QueueFull, RateLimited; TooLarge for more than a whole minute's.
        """
        admit = self.leave_for_bulk()
        choice = services().engine.lanes.choice(g.get("lane"), texts)
        if admit is not None and choice.lane == "bulk":
            tracing.describe(lane="bulk")
            admit()
        most = allowance("texts")
        if not most:
            return
        if texts > most:
            raise TooLarge(
                f"{texts} texts are more than your {most} a minute: send fewer at once",
                param="input",
            )
        self._count("texts", key_of_caller(), most, max(1, texts))

    def leave_for_bulk(self) -> Callable[[], None] | None:
        """Return what counts the current request's permit as bulk's, if it holds one.

        It raises QueueFull.
        """
        permit: Permit | None = g.get("permit")
        return None if permit is None else partial(self.permits.count_bulk, permit)

    def count_for(self, key: str, texts: int, most: int) -> float:
        """Count texts of the caller `key` outside a request; return 0 if they are within the limit.

        Otherwise nothing is counted, and this is the seconds until they are.
        """
        if self._hit("texts", key, most, texts):
            return 0.0
        return max(MARGIN_S, self._window("texts", key, most).wait_s(most, texts))

    def _count(self, kind: str, key: str, most: int, cost: int) -> None:
        if self._hit(kind, key, most, cost):
            return
        window = self._window(kind, key, most)
        wait = max(1, math.ceil(window.wait_s(most, cost)))
        g.standing = kind, most, window.left(most), wait
        metrics.RATE_LIMITED.labels(g.caller.role).inc()
        raise RateLimited(
            f"your limit of {most} a minute for {kind} is used up; wait {wait} s",
            retry_after_s=wait,
        )

    def _hit(self, kind: str, key: str, most: int, cost: int) -> bool:
        return self._limiter.limiter.hit(_per_minute(most), key, kind, cost=cost)

    def _window(self, kind: str, key: str, most: int) -> Window:
        return self._tally.window(_per_minute(most).key_for(key, kind))


def throttle() -> Throttle:
    """Return the running application's limits."""
    return cast(Throttle, current_app.extensions[KEY])


def allowance(kind: str) -> int:
    """Return the requests or texts a minute of the caller's role; 0 is no limit."""
    return int(getattr(services().settings.current, f"{kind}_per_minute_{g.caller.role}"))


def key_of_caller() -> str:
    """Return the key under which the caller's requests, texts and jobs are its own."""
    return f"{'address' if caller().role == 'anonymous' else 'user'}:{caller().identity}"


def add_headers(response: Response) -> None:
    """Add what is left of the limit on requests, or of the limit that refused the request."""
    if "standing" not in g:
        return
    headers, (kind, most, left, reset_s) = response.headers, g.standing
    if kind == "requests":  # clients take these headers for requests
        headers["X-RateLimit-Limit"] = str(most)
        headers["X-RateLimit-Remaining"] = str(left)
        headers["X-RateLimit-Reset"] = str(math.ceil(time.time()) + reset_s)
    # draft-ietf-httpapi-ratelimit-headers
    headers["RateLimit-Policy"] = f'"{kind}";q={most};w=60'
    headers["RateLimit"] = f'"{kind}";r={left};t={reset_s}'
    if request.path.startswith(("/v1/", "/embeddings", "/openai/")):  # OpenAI's names
        headers[f"x-ratelimit-limit-{kind}"] = str(most)
        headers[f"x-ratelimit-remaining-{kind}"] = str(left)
        headers[f"x-ratelimit-reset-{kind}"] = f"{reset_s}s"
