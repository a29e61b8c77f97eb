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
from dataclasses import replace
from typing import Any, Literal, TypeVar

import orjson

from circuit_breaker import CircuitBreaker
from circuit_breaker import State as BreakerState
from embedders.host_notes import HostNotes, Note
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
    """One host of a provider, and how all workers' calls went. Safe from many threads.

    `key` is the mark of the key that is sent. The circuit breaker is this process's own; another
    worker's good call closes it.
    """

    def __init__(
        self, provider: str, name: str, notes: HostNotes | None = None, key: str = ""
    ) -> None:
        self._provider, self._name = provider, name
        self.breaker = CircuitBreaker(name, failures=FAILURES, pauses=OPEN_S)
        self.budget = RetryBudget()
        self._notes = notes or HostNotes()
        self._failed_at = 0.0  # time.monotonic() of the last failure that the breaker counted
        self.forget(key)

    def forget(self, key: str) -> None:
        """Drop what is known of the last call, which was made with another key."""
        self._key = key
        self._tried_at = 0.0  # time.monotonic() of this process's last call

    def note(self) -> Note:
        """Return what the workers' calls with the present key have shown."""
        return _of_key(self._notes.read(), self._key)

    @property
    def refused(self) -> str | None:
        """Why the key is wrong, if no call succeeded since a refusal."""
        return self.note().refused

    @property
    def last_used(self) -> float | None:
        """The `time.time()` of the last good reply."""
        return self.note().last_used

    @property
    def problem(self) -> str | None:
        """Why the key is wrong, or why the last call failed."""
        note = self.note()
        return note.refused or note.failure

    @property
    def breaker_state(self) -> BreakerState:
        """Open while any worker's circuit breaker is, half-open when it lets a trial through."""
        until = self.note().open_until
        if until is None:
            return "closed"
        return "open" if time.monotonic() < until else "half-open"

    @property
    def state(self) -> HostState:
        """How the host is, as far as calls with the present key have shown.

        A refused key stays wrong whatever fails after that, until it is replaced or a call
        succeeds.
        """
        note = self.note()
        if note.refused is not None:
            return "key_wrong"
        if note.open_until is not None:
            return "open"
        if note.failure is not None:
            return "failing"
        return "reachable" if note.tried else "unchecked"

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
            if self.breaker.problem is not None and self.note().worked_at > self._failed_at:
                self.breaker.succeeded()  # another worker found it well
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
        key = self._key
        self._tried_at = started = time.monotonic()
        outcome = "ok"
        try:
            done = work()
        except BaseException as exc:
            outcome, problem = "failed", type(exc).__name__
            if isinstance(exc, ServiceError):
                outcome, problem = exc.code, exc.message
            works = isinstance(
                exc, ProviderRefused | ProviderBusy | BadRequest | ModelUnavailable
            )  # the host answers, although it refused
            found: dict[str, Any] = {}
            if not isinstance(exc, BadRequest):  # the request is at fault, not the host
                found = {"tried": True, "failure": problem}
            if isinstance(exc, KeyRefused):
                found["refused"] = problem
            self._learn(key, found, None if works else exc)
            raise
        finally:
            metrics.PROVIDER_CALLS.labels(self._provider, outcome).inc()
            metrics.PROVIDER_SECONDS.labels(self._provider).observe(time.monotonic() - started)
        well = {"tried": True, "failure": None, "refused": None, "last_used": time.time()}
        self._learn(key, well, None)
        return done

    def _learn(self, key: str, found: Mapping[str, Any], failed: BaseException | None) -> None:
        """Note what a call showed, in the breaker and for all workers.

        What a key showed that was replaced meanwhile says nothing.
        """
        if failed is None:
            self.breaker.succeeded()
            found, until = {**found, "worked_at": time.monotonic()}, None
        else:
            self._failed_at = time.monotonic()
            self.breaker.failed(failed)
            is_open = self.breaker.problem is not None
            until = time.monotonic() + self.breaker.wait_s if is_open else None

        def changed(old: Note) -> Note:
            note = _of_key(old, key)
            # A failure leaves another worker's breaker open.
            kept = note.open_until if until is None and failed is not None else until
            return replace(note, **found, open_until=kept)

        if key == self._key:
            self._notes.change(changed)


def _of_key(note: Note, key: str) -> Note:
    """Return what is known with this key: of another one only when the host was used and is."""
    return note if note.key == key else replace(
        note, key=key, tried=False, failure=None, refused=None
    )  # fmt: skip


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
