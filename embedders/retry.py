"""The way to one host of a provider: calls are counted, tried again, and spared a host that fails.

Owns when a call is made again: at most twice, after a random pause (full jitter), inside the
caller's deadline, and only out of the host's budget of retries. Knows nothing of what is sent.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from embedders.breaker import Breaker, RetryBudget
from embedders.replies import KeyRefused, Refusal
from errors import (
    BadRequest,
    ModelUnavailable,
    ProviderBusy,
    ProviderError,
    ProviderTimeout,
    ServiceError,
)
from observability import metrics

T = TypeVar("T")
LinkState = Literal["untried", "well", "failing", "open"]

RETRIES = 2
BACKOFF_S = (0.5, 1.0)  # the longest pause before each retry when none was asked for
MAX_RETRY_AFTER_S = 120.0  # OpenAI's clients give up on more


class Link:
    """What every call of a provider to one host goes through. Safe from many threads."""

    def __init__(self, provider: str, host: str) -> None:
        self._provider = provider
        self.breaker = Breaker(host)
        self.budget = RetryBudget()
        self.last_used: float | None = None  # time.time() of the last good reply
        self.forget()

    def forget(self) -> None:
        """Know no more how the last call went: it was made with another key."""
        self.problem: str | None = None  # why the last call failed
        self.refused = False  # and whether that was for its key
        self._tried = False
        self._tried_at = 0.0  # time.monotonic() of the last call

    @property
    def state(self) -> LinkState:
        """How the host is: never called, left alone, or as the last call went."""
        if self.breaker.state != "closed":
            return "open"
        if self.problem is not None:
            return "failing"
        return "well" if self._tried else "untried"

    def rested(self, pause_s: float) -> bool:
        """Tell whether there was no call for so long; of many that ask at once one is told so."""
        now = time.monotonic()
        if now - self._tried_at < pause_s:
            return False
        self._tried_at = now
        return True

    def call(self, work: Callable[[], T], retries: int, end: float, stop: threading.Event) -> T:
        """Do `work`, again if that may help and there is time; `stop` ends the pauses.

        Raises what the last try raised, or ProviderBusy while the host is left alone.
        """
        self.budget.earn()
        for attempt in range(retries + 1):
            if time.monotonic() >= end:  # nothing was sent: no fault of the host's
                raise ProviderTimeout(f"the deadline passed before {self._provider} was asked")
            self.breaker.enter()  # what it refuses is not waited for
            try:
                return self._once(work)
            except ProviderError as exc:
                asked = exc.retry_after_s
                if asked is not None:
                    exc.retry_after_s = min(asked, MAX_RETRY_AFTER_S)
                pause = random.uniform(0, BACKOFF_S[min(attempt, 1)]) + (asked or 0)
                hopeless = exc.permanent or isinstance(exc, ProviderTimeout)
                if hopeless or attempt == retries or time.monotonic() + pause >= end:
                    raise
                if not self.budget.spend():
                    raise
            if stop.wait(pause):
                break
        raise ProviderTimeout("another part of the request failed")

    def _once(self, work: Callable[[], T]) -> T:
        self._tried_at = started = time.monotonic()
        outcome = "failed"
        try:
            done = work()
        except (Refusal, ProviderBusy, BadRequest, ModelUnavailable) as exc:
            self.breaker.success()  # it answers, if not as we would like
            outcome = exc.code
            if not isinstance(exc, BadRequest):  # that is the request's fault
                self._failed(exc.message, refused=isinstance(exc, KeyRefused))
            raise
        except BaseException as exc:
            self.breaker.failure()
            outcome = exc.code if isinstance(exc, ServiceError) else outcome
            self._failed(exc.message if isinstance(exc, ServiceError) else type(exc).__name__)
            raise
        else:
            outcome = "ok"
        finally:
            metrics.PROVIDER_CALLS.labels(self._provider, outcome).inc()
            metrics.PROVIDER_SECONDS.labels(self._provider).observe(time.monotonic() - started)
        self.breaker.success()
        self.last_used = time.time()
        self._tried, self.problem, self.refused = True, None, False
        return done

    def _failed(self, problem: str, *, refused: bool = False) -> None:
        self._tried, self.problem, self.refused = True, problem, refused
