"""Spares a host that fails: a circuit breaker, and a budget of retries.

A host that keeps failing is left alone for a while, then tried by one call; one that fails often
is not asked twice as often for it. Owns the counting only; what counts as a failure is the
caller's to say.
"""

import threading
import time
from typing import Literal

from errors import ProviderBusy

FAILURES = 5  # in a row, until the host is given up
PAUSE_S = (5.0, 10.0, 20.0, 40.0, 60.0)  # for how long, each time that the trial fails too

# Retries are a tenth of the calls: a host in trouble gets at most that much more of them. Beside
# that a few are always there, for a quiet service has few calls to earn them by.
SHARE = 0.1
RESERVE = 10.0
REFILL_PER_S = 0.1

BreakerState = Literal["closed", "open", "half-open"]


class Breaker:
    """Counts the failures of one host. Safe from many threads."""

    def __init__(self, host: str, failures: int = FAILURES) -> None:
        self._host = host
        self._limit = failures
        self._lock = threading.Lock()
        self._failures = 0
        self._opened = 0  # times in a row
        self._until = 0.0
        self._trying = False

    @property
    def state(self) -> BreakerState:
        """Closed lets calls through, open refuses them, half-open lets one through."""
        if self._failures < self._limit:
            return "closed"
        return "open" if time.monotonic() < self._until else "half-open"

    def enter(self) -> None:
        """Ask to make a call; `success` or `failure` must follow. Raises ProviderBusy."""
        with self._lock:
            state = self.state
            if state == "closed":
                return
            if state == "open" or self._trying:
                left = max(self._until - time.monotonic(), 1.0)
                raise ProviderBusy(
                    f"{self._host} failed {self._failures} times in a row and is left alone "
                    "for a while",
                    retry_after_s=left,
                )
            self._trying = True

    def success(self) -> None:
        """Note that the host answered."""
        with self._lock:
            self._failures = self._opened = 0
            self._trying = False

    def failure(self) -> None:
        """Note that it did not, or answered nonsense."""
        with self._lock:
            self._failures += 1
            self._trying = False
            if self._failures >= self._limit and time.monotonic() >= self._until:
                pause = PAUSE_S[min(self._opened, len(PAUSE_S) - 1)]
                self._until = time.monotonic() + pause
                self._opened += 1


class RetryBudget:
    """Counts what retries a host's calls have earned. Safe from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = RESERVE
        self._at = time.monotonic()

    def earn(self) -> None:
        """Note a first try: ten of them are worth a retry."""
        with self._lock:
            self._left = min(RESERVE, self._left + SHARE)

    def spend(self) -> bool:
        """Take a retry out of the budget, if there is one."""
        with self._lock:
            now = time.monotonic()
            self._left = min(RESERVE, self._left + (now - self._at) * REFILL_PER_S)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True
