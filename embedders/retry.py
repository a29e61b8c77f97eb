"""Calls to one host of a provider: retried, counted, and not made while the host fails.

A call is repeated at most twice, after a random pause (full jitter), within the caller's deadline
and the host's retry budget. Here too is the error that a reply's status and headers mean; the
provider's own words are never passed on.
"""

import email.utils
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import orjson

from circuit_breaker import CircuitBreaker
from embedders.http_client import HttpResponse
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
HostState = Literal["unchecked", "reachable", "failing", "key_wrong", "open"]

RETRIES = 2
BACKOFF_S = (0.5, 1.0)  # the longest pause before each retry, unless the provider asked for one
MAX_RETRY_AFTER_S = 120.0  # OpenAI's clients give up on more
FAILURES = 5  # in a row, until the circuit breaker opens
OPEN_S = (5.0, 10.0, 20.0, 40.0, 60.0)  # how long it stays open, longer after each failed trial

# Retries are a tenth of the calls, so that a failing host gets at most that much more of them. A
# quiet service has few calls to earn retries by, so some also come with time.
SHARE = 0.1
RESERVE = 10.0
REFILL_PER_S = 0.1


class RetryBudget:
    """The retries that a host's calls have earned. Safe from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = RESERVE
        self._at = time.monotonic()

    def earn(self) -> None:
        """Count a first try: ten of them earn a retry."""
        with self._lock:
            self._left = min(RESERVE, self._left + SHARE)

    def spend(self) -> bool:
        """Take one retry; return whether there was one."""
        with self._lock:
            now = time.monotonic()
            self._left = min(RESERVE, self._left + (now - self._at) * REFILL_PER_S)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Host:
    """One host of a provider, and how its calls went. Safe from many threads."""

    def __init__(self, provider: str, name: str) -> None:
        self._provider, self._name = provider, name
        self.breaker = CircuitBreaker(name, failures=FAILURES, pauses=OPEN_S)
        self.budget = RetryBudget()
        self.last_used: float | None = None  # time.time() of the last good reply
        self.forget()

    def forget(self) -> None:
        """Drop what is known of the last call, which was made with another key."""
        self.refused: str | None = None  # why the key is wrong: since a refusal no call succeeded
        self._failure: str | None = None  # why the last call failed
        self._tried = False
        self._tried_at = 0.0  # time.monotonic() of the last call

    @property
    def problem(self) -> str | None:
        """Why the key is wrong, or why the last call failed."""
        return self.refused or self._failure

    @property
    def state(self) -> HostState:
        """How the host is, as far as calls with the present key have shown.

        A refused key stays wrong whatever fails after that, until it is replaced or a call
        succeeds.
        """
        if self.refused is not None:
            return "key_wrong"
        if self.breaker.state != "closed":
            return "open"
        if self._failure is not None:
            return "failing"
        return "reachable" if self._tried else "unchecked"

    def idle_for(self, pause_s: float) -> bool:
        """Return whether no call was made for `pause_s`; of several askers only one gets True."""
        now = time.monotonic()
        if now - self._tried_at < pause_s:
            return False
        self._tried_at = now
        return True

    def call(self, work: Callable[[], T], retries: int, end: float, stop: threading.Event) -> T:
        """Return what `work` returns, repeating it if that may help and time is left.

        `end` is a `time.monotonic()` value; `stop` ends the pauses. Raises what the last try
        raised, ProviderBusy while the circuit breaker is open, ProviderTimeout at the end.
        """
        self.budget.earn()
        for attempt in range(retries + 1):
            if time.monotonic() >= end:  # nothing was sent, so the host is not at fault
                raise ProviderTimeout(f"the deadline passed before {self._provider} was asked")
            if not self.breaker.allow():
                raise ProviderBusy(
                    f"{self._name} failed {self.breaker.failures} times in a row; no call is made "
                    "for a while",
                    retry_after_s=max(self.breaker.wait_s, 1.0),
                )
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
        outcome = "ok"
        try:
            done = work()
        except BaseException as exc:
            outcome, problem = "failed", type(exc).__name__
            if isinstance(exc, ServiceError):
                outcome, problem = exc.code, exc.message
            if isinstance(exc, ProviderRefused | ProviderBusy | BadRequest | ModelUnavailable):
                self.breaker.succeeded()  # the host works, although it refused
            else:
                self.breaker.failed(exc)
            if not isinstance(exc, BadRequest):  # the request is at fault, not the host
                self._tried, self._failure = True, problem
                if isinstance(exc, KeyRefused):
                    self.refused = problem
            raise
        finally:
            metrics.PROVIDER_CALLS.labels(self._provider, outcome).inc()
            metrics.PROVIDER_SECONDS.labels(self._provider).observe(time.monotonic() - started)
        self.breaker.succeeded()
        self.last_used = time.time()
        self._tried, self._failure, self.refused = True, None, None
        return done


class ProviderRefused(ProviderError):
    """The provider answered and refused this request; `http` is its status."""

    def __init__(self, message: str, http: int) -> None:
        super().__init__(message, permanent=True)
        self.http = http


class KeyRefused(ModelUnavailable):
    """The provider answered and refused the key."""


def raise_for_status(name: str, answer: HttpResponse, *, keyed: bool) -> None:
    """Raise the error for a status other than 200. `keyed` says whether a key was sent."""
    status = answer.status
    if status == 200:
        return
    text = f"{name} answered {status}"
    if status in (401, 403):
        fix = (
            f"its key is refused; POST /providers/{name}/api-key sets another"
            if keyed
            else 'no key was sent, as the model\'s entry has a base_url and no "provider"'
        )
        raise KeyRefused(f"{text}: {fix}")
    if status in (400, 413, 422):
        raise BadRequest(
            f"{text}: an input is empty or too long for the model, or it does not know the "
            "model's configured name or dimensions",
            param="input",
        )
    after = retry_after(answer.headers)
    if status == 429:
        if _code(answer.body) == "insufficient_quota":
            raise ProviderRefused(f"{text}: the account's quota is used up", status)
        raise ProviderBusy(f"{text}: its rate limit is reached", retry_after_s=after)
    if status in (408, 409, 425) or status >= 500:
        raise ProviderError(text, retry_after_s=after)
    if 300 <= status < 400:
        raise ProviderRefused(f"{text}: a redirect, which is not followed", status)
    if status == 404:
        raise ProviderRefused(f"{text}: it has no such model or path", status)
    raise ProviderRefused(text, status)


def _code(body: bytes) -> str | None:
    """Return the code of an OpenAI-style error body. It is compared only, never shown."""
    try:
        code = orjson.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a provider asks to wait, or None."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
