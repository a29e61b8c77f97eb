"""How many requests run at a time: few, for Python runs one thread's code at any moment.

Each of many threads that could run waits for all the others before every step, and so does the main
thread, which lets everybody in. 200 connections that ask for half a megabyte of remembered vectors:
`/health` took 0.66 s (p99) with 128 threads at a time while other programs kept the machine busy;
0.09 with eight and 0.04 with four, back to back (`python -m bench.flood`, 2 shared cores AMD EPYC
Zen 4, 2026-11).
So a request begins when fewer than `AT_ONCE` run. Whoever waits for the model or
for a client says so by `away` and does not count; where threads wait for something else, as for a
database far away, the interpreter is free, and more are let in.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AT_ONCE = 4
# The interpreter is taken for free if this thread has it again so soon after it let go of it.
LET_GO_S, SOON_S = 0.0002, 0.001
# How often that is tried while requests wait.
TRY_EVERY_S = 0.005

_here = threading.local()


class Turns:
    """Counts the requests that run. `wake` is called when one of them goes away for a while."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._running = 0
        self._tries_from = 0.0
        self.wanted = False  # whether a request waits for its turn

    def is_free(self) -> bool:
        """Tell, in the main thread, whether one more may begin."""
        if self._running >= AT_ONCE and not self._interpreter_is_free():
            self.wanted = True
            return False
        self.wanted = False
        return True

    def _interpreter_is_free(self) -> bool:
        now = time.monotonic()
        if now < self._tries_from:
            return False
        queued_s = _queued_for_a_core_s()
        time.sleep(LET_GO_S)
        after = time.monotonic()
        free = after - now - (_queued_for_a_core_s() - queued_s) < SOON_S
        self._tries_from = after if free else after + TRY_EVERY_S
        return free

    def begin(self) -> None:
        """Count one more, in the main thread."""
        self._count(1)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Run a request in this thread; the main thread is told of its end by others."""
        _here.turns = self
        try:
            yield
        finally:
            _here.turns = None
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._running += change

    def leave(self) -> None:
        """Count one less, and have the next one begin."""
        self._count(-1)
        if self.wanted:
            self._wake()

    def come_back(self) -> None:
        """Count it again. It waits for nobody: it holds what others may wait for."""
        self._count(1)


def _queued_for_a_core_s() -> float:
    """Return how long this thread could run and had no core: the interpreter may be free then."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # another system than Linux
        return 0.0


@contextmanager
def away() -> Iterator[None]:
    """Wait for something without counting as a request that runs."""
    turns: Turns | None = getattr(_here, "turns", None)
    if turns is None:
        yield
        return
    turns.leave()
    try:
        yield
    finally:
        turns.come_back()
