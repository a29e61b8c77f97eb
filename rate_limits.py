"""How often one may call, and how many at once.

Requests and texts a minute are counted by Flask-Limiter, in `tally.py`: for each caller, whatever
key it comes with, against what the role of that key may. At once there may be fewer requests than
threads, so that there is always a thread for a probe, or for saying no. A refusal says when to come
back.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter, RequestLimit
from flask_limiter.errors import RateLimitExceeded
from limits import RateLimitItemPerMinute

from accounts import Caller
from config import Config
from context import services
from errors import QueueFull, RateLimited, TooLarge
from observability import metrics
from tally import MARGIN_S, Tally

KEY, PREFIX = "throttle", "embedding-service"
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


@dataclass(frozen=True)
class Standing:
    """How a caller stands with one limit; `reset_s` is in how many seconds there is more."""

    what: str
    most: int
    left: int
    reset_s: int


class Throttle:
    """The two limits of every caller."""

    def __init__(self, app: Flask, config: Config) -> None:
        self._limiter = Limiter(
            key_of_caller,
            app=app,
            storage_uri="tally://",
            storage_options={"address": config.redis_address if config.redis_enabled else ""},
            strategy="sliding-window-counter",  # constant cost whatever the number of texts
            headers_enabled=False,  # ours are written below, and never on what they do not concern
            key_prefix=PREFIX,
            request_identifier=lambda: "any",  # limits hang on callers here, not on routes
        )
        self._tally = cast(Tally, self._limiter.storage)
        self.permits = Permits(config.threads)
        self._requests = self._shared("requests", lambda: 1)
        self._texts = self._shared("texts", lambda: max(1, int(g.texts)))
        app.extensions[KEY] = self

    @property
    def problem(self) -> str | None:
        """Why each worker counts for itself just now, if it should not."""
        return self._tally.problem

    def close(self) -> None:
        """End what runs in the background."""
        self._tally.close()

    def _shared(self, what: str, cost: Callable[[], int]) -> Callable[[], None]:
        limit = self._limiter.shared_limit(
            lambda: f"{allowance(what)} per minute",
            scope=what,
            key_func=key_of_caller,
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
            self._counted("requests", self._requests, 1)
            limit = self._limiter.current_limit
            assert limit is not None
            g.standing = self._stand("requests", limit)

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
        self._counted("texts", self._texts, max(1, texts))

    def count_for(self, key: str, texts: int, most: int) -> float:
        """Count texts outside a request, for whom `key` is; return 0 if they are within the limit.

        Otherwise nothing is counted, and this is in how many seconds they may be.
        """
        limit, of = RateLimitItemPerMinute(most), (PREFIX, key, "texts")
        if self._limiter.limiter.hit(limit, *of, cost=texts):
            return 0.0
        return max(MARGIN_S, self._tally.window(limit.key_for(*of)).wait_s(most, texts))

    def _counted(self, what: str, count: Callable[[], None], cost: int) -> None:
        try:
            count()
        except RateLimitExceeded:
            metrics.RATE_LIMITED.labels(g.caller.role).inc()
            limit = self._limiter.current_limit
            assert limit is not None
            g.standing = self._stand(what, limit, cost)
            wait = max(1, g.standing.reset_s)
            raise RateLimited(
                f"your limit of {limit.limit.amount} a minute for {what} is used up; wait {wait} s",
                retry_after_s=wait,
            ) from None

    def _stand(self, what: str, limit: RequestLimit, cost: int | None = None) -> Standing:
        """Return how the caller stands, and when `cost` more is within the limit.

        Without a cost: when one more is; while one is, when the limit is whole again.
        """
        window, most = self._tally.window(limit.key), limit.limit.amount
        left = window.left(most)
        cost = cost or (most if left else 1)
        return Standing(what, most, left, math.ceil(window.wait_s(most, cost)))


def throttle() -> Throttle:
    """Return the running application's limits."""
    found: Throttle = current_app.extensions[KEY]
    return found


def allowance(what: str) -> int:
    """Return how many requests or texts a minute the caller's role has; 0 is no limit."""
    role = g.caller.role
    return int(getattr(services().settings.current, f"{what}_per_minute_{role}"))


def key_of_caller() -> str:
    """Return under what the caller is counted."""
    caller: Caller = g.caller
    return f"{'address' if caller.role == 'anonymous' else 'user'}:{caller.name}"


def add_headers(response: Response) -> None:
    """Tell the caller how much is left of the limit on requests, or of the one that refused it."""
    found: Standing | None = g.get("standing")
    if found is None:
        return
    headers, what = response.headers, found.what
    if what == "requests":  # which is what these are taken for
        headers["X-RateLimit-Limit"] = str(found.most)
        headers["X-RateLimit-Remaining"] = str(found.left)
        headers["X-RateLimit-Reset"] = str(math.ceil(time.time()) + found.reset_s)
    # draft-ietf-httpapi-ratelimit-headers
    headers["RateLimit-Policy"] = f'"{what}";q={found.most};w=60'
    headers["RateLimit"] = f'"{what}";r={found.left};t={found.reset_s}'
    if request.path.startswith("/v1/"):  # by OpenAI's names
        headers[f"x-ratelimit-limit-{what}"] = str(found.most)
        headers[f"x-ratelimit-remaining-{what}"] = str(found.left)
        headers[f"x-ratelimit-reset-{what}"] = f"{found.reset_s}s"
