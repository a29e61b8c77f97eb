"""How many requests run at a time: few, since Python runs one thread's code at any moment.

Each of many runnable threads waits for all the others before every step, and so does the main
thread, which serves every connection. With 200 connections that ask for half a megabyte of cached
vectors `/health` took 0.66 s (p99) with 128 threads at a time while other programs kept the machine
busy, 0.09 with eight and 0.04 with four (`python -m bench.flood`, 2 shared cores of an AMD EPYC
Zen 4, 2026-11).
So a request starts while fewer than `AT_ONCE` run. A thread that waits for the model or a client
does not count (`away`). Where threads wait for something else, such as a distant database, the
interpreter is free, and more are started.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AT_ONCE = 4
# The interpreter counts as free if this thread gets it back so soon after it released it.
RELEASE_S, SOON_S = 0.0002, 0.001
# While requests wait, that is tried so often.
TRY_EVERY_S = 0.005

_here = threading.local()


class Slots:
    """Counts the running requests. `wake` is called when one starts to wait."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self._lock = threading.Lock()
        self._running = 0
        self._try_from = 0.0
        self.wanted = False  # a request waits for a slot

    def is_free(self) -> bool:
        """Return whether one more request may start. For the main thread."""
        self.wanted = self._running >= AT_ONCE and not self._interpreter_is_free()
        return not self.wanted

    def _interpreter_is_free(self) -> bool:
        now = time.monotonic()
        if now < self._try_from:
            return False
        queued_s = _queued_for_a_core_s()
        time.sleep(RELEASE_S)
        after = time.monotonic()
        free = after - now - (_queued_for_a_core_s() - queued_s) < SOON_S
        self._try_from = after if free else after + TRY_EVERY_S
        return free

    def count(self, change: int) -> None:
        """Count running requests: one more in the main thread before its thread starts."""
        with self._lock:
            self._running += change

    @contextmanager
    def used(self) -> Iterator[None]:
        """Run a request in this thread, and give its slot back."""
        _here.slots = self
        try:
            yield
        finally:
            _here.slots = None
            self.count(-1)


def _queued_for_a_core_s() -> float:
    """Return how long this thread was runnable without a core; 0 on other systems than Linux."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


@contextmanager
def away() -> Iterator[None]:
    """Wait for something without counting as a running request.

    Back again, it waits for no slot: others may wait for what it holds.
    """
    slots: Slots | None = getattr(_here, "slots", None)
    if slots is None:
        yield
        return
    slots.count(-1)
    if slots.wanted:
        slots.wake()
    try:
        yield
    finally:
        slots.count(1)
