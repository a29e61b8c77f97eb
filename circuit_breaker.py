"""Circuit breaker: no calls to a server that fails, until it answers again.

Counts the failures of one server and knows nothing else of it. The cache, the limits, the accounts
and the stores give it a probe, so that no request pays for a trial; remote models have none.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]

log = logging.getLogger("circuit_breaker")

FAILURES = 3
PAUSES_S = (5.0,)


def backoff(pauses: Sequence[float]) -> Iterator[float]:
    """Yield the pauses in turn, and the last one forever."""
    return itertools.chain(pauses, itertools.repeat(pauses[-1]))


class CircuitBreaker:
    """Opens after `failures` in a row, or at the first error of a kind in `slow`.

    With a `probe`, a thread calls it after each of `pauses` (in seconds) and closes the breaker
    when it returns. Without one, a single call is let through after each pause. Safe from many
    threads.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], object] | None = None,
        slow: tuple[type[BaseException], ...] = (TimeoutError,),
        *,
        failures: int = FAILURES,
        pauses: Sequence[float] | None = None,
        describe: Callable[[BaseException], str] | None = None,
    ) -> None:
        self._name = name
        self._probe = probe
        self._slow = slow  # a timeout costs its caller a pause, so one is enough
        self._limit = failures
        # Only the kind of an error by default: its text may hold an address or a secret.
        self._describe = describe or (lambda exc: f"{name} failed ({type(exc).__name__})")
        self.pauses = PAUSES_S if pauses is None else pauses
        self._backoff: Iterator[float] | None = None  # of the time it is open
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._until = 0.0  # when a trial call is let through, in time.monotonic()
        self._trying = False
        self.failures = 0  # in a row
        self.problem: str | None = None  # why it is open

    @property
    def state(self) -> State:
        """Closed lets calls through, open none, half-open a single one."""
        if self.problem is None:
            return "closed"
        return "half-open" if self._probe is None and self.wait_s == 0 else "open"

    @property
    def wait_s(self) -> float:
        """Seconds until the next trial."""
        return max(0.0, self._until - time.monotonic())

    def run(self, work: Callable[[], T], otherwise: T) -> T:
        """Return what `work` returns, or `otherwise` if it fails or the breaker is open."""
        if self.problem is not None:
            return otherwise
        try:
            done = work()
        except Exception as exc:
            self.failed(exc)
            return otherwise
        self.failures = 0
        return done

    def allow(self) -> bool:
        """Whether a call may be made now; then `succeeded` or `failed` must follow."""
        with self._lock:
            state = self.state
            if state == "half-open" and not self._trying:
                self._trying = True
                return True
            return state == "closed"

    def succeeded(self) -> None:
        """Note that the server answered: the breaker closes."""
        with self._lock:
            self._trying, self._backoff = False, None
            self.failures, self.problem = 0, None

    def failed(self, exc: BaseException) -> None:
        """Note that a call failed."""
        with self._lock:
            self._trying = False
            self.failures += 1
            was = self.state
            if was == "open" or not (self.failures >= self._limit or isinstance(exc, self._slow)):
                return
            self.problem = self._describe(exc)
            self._backoff = self._backoff or backoff(self.pauses)
            pause = next(self._backoff)
            self._until = time.monotonic() + pause
        if self._probe is not None:
            log.warning("%s: %s; tried again in %g s", self._name, self.problem, pause)
            threading.Thread(target=self._watch, name=f"{self._name}-probe", daemon=True).start()

    def close(self) -> None:
        """End the probing."""
        self._ended.set()

    def _watch(self) -> None:
        assert self._probe is not None
        for pause in backoff(self.pauses):
            if self._ended.wait(pause):
                return
            try:
                self._probe()
            except Exception as exc:
                self.problem = self._describe(exc)
                continue
            self.succeeded()
            log.info("%s answers again", self._name)
            return
