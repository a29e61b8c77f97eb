"""How one worker takes over from another, so that at every moment one serves.

On a reload gunicorn starts new workers and stops the old ones at once, long before the new ones
have loaded their models. Here a worker accepts connections once its model is ready, or while no
living worker's is; and all old workers serve on until one from after the reload is ready. If none
ever is, because the new settings name a model that cannot be loaded, they stay.
A worker is known by gunicorn's `age`, a count of all workers started. A stop of the service stops
them all, and a second interrupt ends them at once.
"""

import contextlib
import mmap
import os
import signal
from collections.abc import Collection
from typing import Any

# Memory that the master and all workers share. Each field has one writer, so no change is lost:
# the master writes the age of the newest worker and of the first one after the last reload, its
# signal handler that the service stops and that it ends at once, and each worker its own age when
# it is ready. The master clears that when the worker is dead.
STARTED, FIRST, STOPS, AT_ONCE, READY = range(5)
AGES = 1024  # more than live at a time: two workers that share a field never do
_shared = memoryview(mmap.mmap(-1, 8 * (READY + AGES))).cast("q")
_age = 0  # in a worker: its own


def announce(worker: Any) -> None:
    """Note, in the master, that a worker starts."""
    _shared[STARTED] = worker.age


def bury(worker: Any) -> None:
    """Note, in the master, that a worker is dead: one that still loads may have to answer."""
    field = READY + worker.age % AGES
    if _shared[field] == worker.age:
        _shared[field] = 0


def note_reload() -> None:
    """Note, in the master, that the workers started next relieve all living ones."""
    _shared[FIRST] = _shared[STARTED] + 1


def note_stop(workers: Collection[int]) -> None:
    """Have the signals that stop the master reach all workers at once, even during a reload.

    A second SIGINT or SIGQUIT, which gunicorn's master ignores, ends `workers`, the living pids.
    """
    master = os.getpid()
    interrupts = 0

    def noting(previous: Any) -> Any:
        def note(number: int, frame: object) -> None:
            nonlocal interrupts
            if os.getpid() == master:  # not in a new worker without handlers of its own
                _shared[STOPS] = True
                interrupts += number != signal.SIGTERM
                if interrupts > 1:
                    _shared[AT_ONCE] = True
                    for pid in list(workers):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGQUIT)
            previous(number, frame)

        return note

    for which in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(which, noting(signal.getsignal(which)))


def begin(age: int) -> None:
    """Note, in a worker, its own age."""
    global _age
    _age = age


def take_over() -> None:
    """Note, in a worker, that it can serve; older ones that are to stop may do so now."""
    _shared[READY + _age % AGES] = _age


def takes_requests() -> bool:
    """Return whether this worker takes requests: it can serve, or none can and it says so."""
    return _shared[READY + _age % AGES] == _age or not somebody_serves()


def somebody_serves() -> bool:
    """Return whether a living worker can serve."""
    return max(_shared[READY:]) > 0


def is_needed() -> bool:
    """Return whether this worker must serve on after a stop, as those after it still load."""
    relief = max(_shared[FIRST], _age + 1)
    return max(_shared[READY:]) < relief and _age < _shared[STARTED] and not _shared[STOPS]


def ends_at_once() -> bool:
    """Return whether the service was interrupted twice."""
    return bool(_shared[AT_ONCE])
