"""Stands before a server that may be down: asks it, or spares everyone the asking.

A timeout opens the guard at once, since each costs somebody a pause; other failures do after three
in a row. While it is open nothing is asked. A thread of its own, never a request, tries the server
every few seconds and closes the guard when it answers. Knows no server; used by the cache, the
memory of the accounts, the vault and the limits.
"""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger("guard")

FAILURES = 3
PAUSE_S = 5.0


class Guard:
    """Counts the failures of one server. Safe from many threads."""

    def __init__(
        self,
        name: str,
        probe: Callable[[], object],
        slow: tuple[type[Exception], ...] = (TimeoutError,),
        pause_s: float = PAUSE_S,
    ) -> None:
        self._name = name
        self._probe = probe
        self._slow = slow
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._failures = 0
        self._closed = threading.Event()
        self.problem: str | None = None

    def run(self, work: Callable[[], T], otherwise: T) -> T:
        """Do `work`; `otherwise` is the answer when it fails or is not to be tried now."""
        if self.problem is not None:
            return otherwise
        try:
            done = work()
        except Exception as exc:
            self.failed(exc)
            return otherwise
        self._failures = 0
        return done

    def close(self) -> None:
        """End the probing."""
        self._closed.set()

    def failed(self, exc: Exception) -> None:
        """Note a failure, for one who asks the server himself."""
        with self._lock:
            self._failures += 1
            slow = isinstance(exc, self._slow)
            if self.problem is not None or not (slow or self._failures >= FAILURES):
                return
            # Only the kind of error: its text may hold an address, or what the server sent.
            self.problem = f"{self._name} failed ({type(exc).__name__})"
        log.warning("%s; it is asked again every %g s", self.problem, self._pause_s)
        threading.Thread(target=self._watch, name=f"{self._name}-probe", daemon=True).start()

    def _watch(self) -> None:
        while not self._closed.wait(self._pause_s):
            try:
                self._probe()
            except Exception as exc:
                log.debug("%s still fails (%s)", self._name, type(exc).__name__)
                continue
            with self._lock:
                self._failures, self.problem = 0, None
            log.info("%s answers again", self._name)
            return
