"""A gthread worker that outlives a lack of descriptors, of memory for sockets, and of threads.

gunicorn's own ends where it can accept no connection for want of a descriptor, and every request
under way is lost with it. This one closes the connections that have been idle longest, and where
there are none lets new ones wait in the listener's queue. The base of `DeadlineWorker`; knows
nothing of the application.
"""

import contextlib
import errno
import math
import resource
import select
import socket
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

from gunicorn.workers import gthread  # type: ignore[import-untyped]

SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE_S = 1.0  # without accepting, where nothing could be closed; and between two lines of the log
# What a worker holds beside its clients: files, models, the database, Redis, providers, the log.
KEPT_BACK = 256
# As many descriptors as a process may have here at most: some programs close every possible one.
MOST_DESCRIPTORS = 65_536


def room_for_connections(most: int) -> int:
    """Raise this process's limit of descriptors to what it may have; return what fits, or `most`.

    Workers inherit the limit.
    """
    soft, hard = map(_bound, resource.getrlimit(resource.RLIMIT_NOFILE))
    allowed = min(hard, MOST_DESCRIPTORS)
    if soft < allowed:
        with contextlib.suppress(OSError, ValueError):  # a system whose own limit is lower still
            _, unchanged = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(allowed), unchanged))
            soft = allowed
    return int(min(most, max(soft - KEPT_BACK, soft // 2)))


def _bound(limit: int) -> float:
    return math.inf if limit == resource.RLIM_INFINITY else limit


def has_data(sock: socket.socket, timeout_s: float = 0) -> bool:
    """Tell whether a connection has something to read, its end included; takes no descriptor."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


class ThriftyWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """gthread that goes on with what it has."""

    no_descriptor = ""  # why the last connection could not be accepted, until room was made
    accepts_from = 0.0  # and when it says so next, both in time.monotonic()
    tells_from = 0.0

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection if there is room for one."""
        try:
            super().accept(listener)
        except OSError as exc:
            if exc.errno not in SCARCE:
                raise
            # Room is made later: other connections' events may be about to be dispatched.
            self.no_descriptor = exc.strerror or str(exc)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; not during a pause."""
        super().set_accept_enabled(enabled and time.monotonic() >= self.accepts_from)

    def notify(self) -> None:
        """Show a sign of life, and make room if there was none."""
        super().notify()
        if self.no_descriptor:
            closed = self._close_idle(self.pending_conns) + self._close_idle(self.keepalived_conns)
            self._tell(f"{self.no_descriptor}: {closed} idle connections are closed")
            self.no_descriptor = ""
            if not closed:
                self._pause()

    def enqueue_req(self, conn: Any) -> None:
        """Have a request handled; where no thread can be started, by the next that is free."""
        outcome: Future[Any] = Future()
        outcome.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )
        try:
            self.tpool.submit(self._handle_into, outcome, conn)
        except RuntimeError as exc:  # it is in the pool's queue nevertheless
            self._tell(f"{exc}: requests wait for the threads there are")
            self._pause()

    def _handle_into(self, outcome: "Future[Any]", conn: Any) -> None:
        try:
            outcome.set_result(self.handle(conn))
        except BaseException as exc:
            outcome.set_exception(exc)

    def _close_idle(self, idle: "deque[Any]") -> int:
        """Close the older half of some idle connections, except where a request has just come."""
        closed = 0
        for conn in list(idle)[: (len(idle) + 1) // 2]:
            if not has_data(conn.sock):
                idle.remove(conn)
                self.poller.unregister(conn.sock)
                self.nr_conns -= 1
                conn.close()
                closed += 1
        return closed

    def _pause(self) -> None:
        self.set_accept_enabled(False)
        self.accepts_from = time.monotonic() + PAUSE_S

    def _tell(self, what: str) -> None:
        now = time.monotonic()
        if now >= self.tells_from:
            self.tells_from = now + PAUSE_S
            self.log.warning("this worker is at a limit of its machine: %s", what)
