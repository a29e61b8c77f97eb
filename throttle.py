"""How often one may call, and how many at once.

Requests and texts a minute by role are counted by Flask-Limiter: in Redis where it is enabled, so
that all workers and machines count together, and in each worker's memory otherwise, or while Redis
is away. At once there may be fewer requests than threads, so that there is always a thread for a
probe, or for saying no. A refusal says when to come back.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter, RequestLimit
from flask_limiter.errors import RateLimitExceeded
from redis.exceptions import RedisError

import metrics
from accounts import Caller
from config import Config
from context import services
from errors import QueueFull, RateLimited, TooLarge

KEY = "throttle"
# Redis answers within this or counts as away: a request never waits longer for it.
REDIS_TIMEOUT_S = 0.25
# One thread in so many is kept free of work. At twice the capacity /health took 1.2 s without.
SPARE = 8


class Permits:
    """Lets in fewer requests than there are threads, and refuses the others at once."""

    def __init__(self, threads: int) -> None:
        self.most = threads - max(1, threads // SPARE)
        self._lock = threading.Lock()
        self._busy = 0
        self._took_s = 1.0  # a moving average

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a permit while the block runs. Raises QueueFull if there is none."""
        with self._lock:
            if self._busy >= self.most:
                # between one and two times what requests take now: not all come back together
                wait = min(max(self._took_s, 1.0), 15.0) * (1 + time.monotonic() % 1)
                raise QueueFull(
                    f"{self._busy} requests are under way already; send this again later",
                    retry_after_s=wait,
                )
            self._busy += 1
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                self._took_s += 0.1 * (time.monotonic() - began - self._took_s)


class Throttle:
    """The two limits of every caller."""

    def __init__(self, app: Flask, config: Config) -> None:
        options: dict[str, Any] = {}
        if config.redis_enabled:
            timeouts = ("socket_timeout", "socket_connect_timeout")
            options = dict.fromkeys(timeouts, REDIS_TIMEOUT_S)
        self._limiter = Limiter(
            _key,
            app=app,
            storage_uri=config.redis_address if config.redis_enabled else "memory://",
            storage_options=options,
            strategy="sliding-window-counter",  # constant cost whatever the number of texts
            in_memory_fallback_enabled=config.redis_enabled,
            headers_enabled=False,  # ours are written below, and never on what they do not concern
            key_prefix="embedding-service",
            request_identifier=lambda: "any",  # limits hang on callers here, not on routes
        )
        self.permits = Permits(config.threads)
        self._requests = self._shared("requests", lambda: 1)
        self._texts = self._shared("texts", lambda: max(1, int(g.texts)))
        app.extensions[KEY] = self

    def _shared(self, what: str, cost: Callable[[], int]) -> Callable[[], None]:
        limit = self._limiter.shared_limit(
            lambda: f"{allowance(what)} per minute",
            scope=what,
            key_func=_key,
            cost=cost,
            exempt_when=lambda: allowance(what) == 0,
        )

        def count() -> None:
            """Count against the limit; Flask-Limiter does so before this is entered."""

        count.__qualname__ = f"count_{what}"  # the name by which it tells limits apart
        return limit(count)

    def count_request(self) -> None:
        """Count the current request. Raises RateLimited."""
        if allowance("requests"):
            self._counted(self._requests)
            g.limits = self._limiter.current_limits

    def count_texts(self, texts: int) -> None:
        """Count texts. Raises RateLimited; TooLarge for more than a whole minute's worth."""
        most = allowance("texts")
        if not most:
            return
        if texts > most:
            raise TooLarge(
                f"{texts} texts are more than your {most} a minute: send fewer at once",
                param="input",
            )
        g.texts = texts
        self._counted(self._texts)

    def _counted(self, count: Callable[[], None]) -> None:
        try:
            _persistently(count)
        except RateLimitExceeded:
            metrics.RATE_LIMITED.labels(g.caller.role).inc()
            limit = self._limiter.current_limit
            assert limit is not None
            g.limits = [limit]
            left = _left(limit)
            wait = max(1.0, left[1] - time.time()) if left else 60.0
            raise RateLimited(
                f"your limit of {limit.limit.amount} a minute is used up; wait {wait:.0f} s",
                retry_after_s=wait,
            ) from None


def _persistently(count: Callable[[], None]) -> None:
    """Count, again where Redis has just gone.

    Flask-Limiter counts in memory then, but raises in a thread that was second to find it gone.
    """
    for _ in range(2):
        with suppress(RedisError):
            return count()
    return count()


def throttle() -> Throttle:
    """Return the running application's limits."""
    found: Throttle = current_app.extensions[KEY]
    return found


def allowance(what: str) -> int:
    """Return how many requests or texts a minute the caller's role has; 0 is no limit."""
    role = g.caller.role
    return int(getattr(services().settings.current, f"{what}_per_minute_{role}"))


def _key() -> str:
    caller: Caller = g.caller
    return f"{caller.role}:{caller.name}"


def _left(limit: RequestLimit) -> tuple[int, float] | None:
    """Return what is left of a limit and when it is whole again, as `time.time()` tells it.

    The storage is asked anew for it: None if Redis went away since the request was counted.
    """
    try:
        return max(0, limit.remaining), float(limit.reset_at)
    except RedisError:
        return None


def add_headers(response: Response) -> None:
    """Tell the caller how much of the limit is left, by the names that clients know."""
    for limit in g.get("limits", ())[:1]:
        found = _left(limit)
        if found is None:
            continue
        amount, (left, reset_at) = limit.limit.amount, found
        reset = max(0, int(reset_at - time.time()))
        headers = response.headers
        headers["X-RateLimit-Limit"] = str(amount)
        headers["X-RateLimit-Remaining"] = str(left)
        headers["X-RateLimit-Reset"] = str(int(reset_at))
        # draft-ietf-httpapi-ratelimit-headers
        headers["RateLimit-Policy"] = f'"requests";q={amount};w=60'
        headers["RateLimit"] = f'"requests";r={left};t={reset}'
        if request.path.startswith("/v1/"):
            headers["x-ratelimit-limit-requests"] = str(amount)
            headers["x-ratelimit-remaining-requests"] = str(left)
            headers["x-ratelimit-reset-requests"] = f"{reset}s"
