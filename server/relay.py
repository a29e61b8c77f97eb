"""How one worker takes over from another, without a moment in which nobody serves.

On a reload gunicorn starts new workers and stops the old ones at once, long before the new have
loaded their models. Here a new worker takes no connection until its model is ready, if another one
does meanwhile; and an old one that is told to stop serves on until a newer one is ready. If none
ever is, because the new settings name a model that cannot be loaded, the old one stays. Workers are
known by gunicorn's `age`: a count that grows with each one started.
"""

import mmap
import os
import signal
import struct
from collections.abc import Iterable
from typing import Any

# What the master and all workers share: the age of the newest worker started, that of the newest
# ready, and whether the whole service stops.
_STATE = struct.Struct("qq?")
_shared = mmap.mmap(-1, _STATE.size)
_age = 0  # in a worker: its own


def announce(worker: Any, living: Iterable[Any]) -> None:
    """Note, in the master, that a worker starts, and whether another takes requests meanwhile."""
    _, ready, stopping = _STATE.unpack_from(_shared)
    _STATE.pack_into(_shared, 0, worker.age, ready, stopping)
    worker.relieves = any(not other.relieves or other.age <= ready for other in living)


def note_stop() -> None:
    """Let a signal that stops the master tell all workers at once: it may be busy with a reload."""
    master = os.getpid()

    def noting(previous: Any) -> Any:
        def note(number: int, frame: object) -> None:
            if os.getpid() == master:  # not a worker that has no handler of its own yet
                started, ready, _ = _STATE.unpack_from(_shared)
                _STATE.pack_into(_shared, 0, started, ready, True)
            previous(number, frame)

        return note

    for which in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(which, noting(signal.getsignal(which)))


def begin(age: int) -> None:
    """Say, in a worker, which one it is."""
    global _age
    _age = age


def take_over() -> None:
    """Say, in a worker, that it can serve: older ones that were told to stop may do so now."""
    started, ready, stopping = _STATE.unpack_from(_shared)
    _STATE.pack_into(_shared, 0, started, max(ready, _age), stopping)


def is_ready() -> bool:
    """Tell, in a worker, whether it or a newer one can serve."""
    _, ready, _ = _STATE.unpack_from(_shared)
    return bool(ready >= _age)


def is_needed() -> bool:
    """Tell, in a worker that was told to stop, whether those to follow it are still loading."""
    started, ready, stopping = _STATE.unpack_from(_shared)
    return bool(ready <= _age < started) and not stopping
