"""SQLite and forks: no connection is open while a process forks.

A child must neither use nor close its parent's connections, nor open one of its own while the
library still believes that this process holds their locks.
"""

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import Unavailable

WAIT_S = 5.0  # that a fork waits for calls under way


class Calls:
    """The calls that use the connections to one file."""

    def __init__(self, path: Path, close_idle: Callable[[], None]) -> None:
        self._path, self._close_idle = path, close_idle
        self._under_way = 0
        self._lost = False  # a fork took place during a call
        with gate:
            _all.add(self)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Hold back forks for a block. Raises Unavailable in a child that was forked meanwhile."""
        thread = threading.get_ident()  # a call that is given up may end in another one
        with gate:
            if not _by_thread[thread]:  # else the fork waits for this thread
                gate.wait_for(lambda: not forking, WAIT_S)
            if self._lost:
                raise Unavailable(f"{self._path} was in use during a fork; restart the service")
            self._under_way += 1
            _by_thread[thread] += 1
        try:
            yield
        finally:
            with gate:
                self._under_way -= 1
                _by_thread[thread] -= 1
                if not _by_thread[thread]:
                    del _by_thread[thread]
                gate.notify_all()


gate = threading.Condition()
forking = False
_all: "weakref.WeakSet[Calls]" = weakref.WeakSet()
_by_thread = Counter[int]()  # calls under way


def _before_fork() -> None:
    global forking
    gate.acquire()
    forking = True
    own = _by_thread[threading.get_ident()]
    gate.wait_for(lambda: sum(calls._under_way for calls in _all) <= own, WAIT_S)
    for calls in _all:
        if not calls._under_way:
            calls._close_idle()


def _after_in_parent() -> None:
    global forking
    forking = False
    gate.notify_all()
    gate.release()


def _after_in_child() -> None:
    global forking, gate
    forking, gate = False, threading.Condition()
    for thread in _by_thread.keys() - {threading.get_ident()}:  # the others are not there
        del _by_thread[thread]
    for calls in _all:
        calls._lost = calls._lost or calls._under_way > 0


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
