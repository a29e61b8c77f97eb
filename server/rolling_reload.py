"""How one worker takes over from another, without a moment in which nobody serves.

On a reload gunicorn starts new workers and stops the old ones at once, long before the new have
loaded their models. Here a worker takes connections once its model is ready, or while no living
worker's is; and the old ones, told to stop, all serve on until one from after the reload is ready.
If none ever is, because the new settings name a model that cannot be loaded, they stay.
Workers are known by gunicorn's `age`: a count that grows with each one started. What stops the
whole service stops them all, and a second interrupt does so at once.
"""

import contextlib
import mmap
import os
import signal
from collections.abc import Collection
from typing import Any

# What the master and all workers share. Each field has one writer, so that none takes another's
# change back: the master notes the newest worker started and the first one after the last reload,
# its signal handler that the whole service stops and that it shall do so at once, and every worker
# its own age once it is ready, which the master takes back when that worker is dead.
STARTED, FIRST, STOPS, AT_ONCE, READY = range(5)
AGES = 1024  # more workers than there are at a time: two that share a field never live together
_shared = memoryview(mmap.mmap(-1, 8 * (READY + AGES))).cast("q")
_age = 0  # in a worker: its own


def announce(worker: Any) -> None:
    """Note, in the master, that a worker starts."""
    _shared[STARTED] = worker.age


def bury(worker: Any) -> None:
    """Note, in the master, that a worker is dead: whoever still loads may have to answer for it."""
    field = READY + worker.age % AGES
    if _shared[field] == worker.age:
        _shared[field] = 0


def note_reload() -> None:
    """Note, in the master, that those to be started next shall relieve all that live."""
    _shared[FIRST] = _shared[STARTED] + 1


def note_stop(workers: Collection[int]) -> None:
    """Let a signal that stops the master tell all workers at once: it may be busy with a reload.

    A second SIGINT or SIGQUIT, which gunicorn's master does not look at, ends `workers`, the pids
    of those that live when it comes.
    """
    master = os.getpid()
    interrupts = 0

    def noting(previous: Any) -> Any:
        def note(number: int, frame: object) -> None:
            nonlocal interrupts
            if os.getpid() == master:  # not a worker that has no handler of its own yet
                _shared[STOPS] = True
                interrupts += number != signal.SIGTERM
                if interrupts > 1:
                    _end_at_once(workers)
            previous(number, frame)

        return note

    for which in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(which, noting(signal.getsignal(which)))


def _end_at_once(workers: Collection[int]) -> None:
    _shared[AT_ONCE] = True
    for pid in list(workers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)


def begin(age: int) -> None:
    """Say, in a worker, which one it is."""
    global _age
    _age = age


def take_over() -> None:
    """Say, in a worker, that it can serve: older ones that were told to stop may do so now."""
    _shared[READY + _age % AGES] = _age


def takes_requests() -> bool:
    """Tell, in a worker, whether to take requests: it can serve, or nobody can and it says so."""
    return _shared[READY + _age % AGES] == _age or not somebody_serves()


def somebody_serves() -> bool:
    """Tell whether a living worker can serve."""
    return _newest_ready() > 0


def is_needed() -> bool:
    """Tell, in a worker that was told to stop, whether those to follow it are still loading."""
    relief = max(_shared[FIRST], _age + 1)
    return _newest_ready() < relief and _age < _shared[STARTED] and not _shared[STOPS]


def ends_at_once() -> bool:
    """Tell, in a worker, whether the service was interrupted twice."""
    return bool(_shared[AT_ONCE])


def _newest_ready() -> int:
    """Return the age of the newest living worker that can serve, or 0."""
    return max(_shared[READY:])
