"""A worker that outlives a lack of descriptors, of memory for sockets, of threads and of room.

gunicorn's own ends where it can accept no connection for want of a descriptor, and every request
under way is lost with it; and at its limit of connections it accepts none until some end. This one
closes those that have been silent longest, and where there are none lets new ones wait in the
listener's queue. The base of `DeadlineWorker`; knows nothing of the application.
"""

import contextlib
import errno
import math
import resource
import select
import socket
import time

from server.connection import Connection, Stage
from server.polling import PollingWorker

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


def has_data(sock: socket.socket | Connection) -> bool:
    """Tell whether a connection has something to read, its end included; takes no descriptor."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class ThriftyWorker(PollingWorker):
    """Goes on with what it has."""

    no_descriptor = ""  # why the last connection could not be accepted, until room was made
    accepts_from = 0.0  # and when it says so next, both in time.monotonic()
    tells_from = 0.0

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection if there is room for one, or can be made."""
        if self.nr_conns >= self.worker_connections and not self._make_room():
            return
        try:
            super().accept(listener)
        except OSError as exc:
            if exc.errno not in SCARCE:
                raise
            # Room is made later: other connections' events may be about to be dispatched.
            self.no_descriptor = exc.strerror or str(exc)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; at the limit too, if one that is silent can go."""
        full = self.nr_conns >= self.worker_connections
        enabled = enabled or (full and self.alive and self._silent() is not None)
        super().set_accept_enabled(enabled and time.monotonic() >= self.accepts_from)

    def _silent(self) -> Connection | None:
        """Return the connection that should go first: what its client loses is least."""
        for stage in (Stage.LINGERING, Stage.NEW, Stage.RECEIVING):
            if self.stages[stage]:
                return next(iter(self.stages[stage]))
        if self.large:
            return self.large[0]
        if self.stages[Stage.IDLE]:
            return next(iter(self.stages[Stage.IDLE]))
        now = time.monotonic()
        writing = self.stages[Stage.WRITING]
        return next((conn for conn in writing if conn.lags(now, self.write_timeout_s)), None)

    def _make_room(self) -> bool:
        conn = self._silent()
        if conn is None:
            return False
        if conn.stage is None:
            self.large.popleft()
        self._tell(f"{self.nr_conns} connections: the one that was silent longest is closed")
        self._end(conn)
        return True

    def notify(self) -> None:
        """Show a sign of life, and make room if there was none."""
        super().notify()
        if not self._accepting and self.nr_conns >= self.worker_connections:
            self.set_accept_enabled(False)  # or True, where one can go by now
        if self.no_descriptor:
            closed = self._close_idle(Stage.NEW) + self._close_idle(Stage.IDLE)
            self._tell(f"{self.no_descriptor}: {closed} idle connections are closed")
            self.no_descriptor = ""
            if not closed:
                self._pause()

    def _start(self, conn: Connection) -> None:
        """Have a request handled; where no thread can be started, by the next that is free."""
        try:
            super()._start(conn)
        except RuntimeError as exc:  # it is in the pool's queue nevertheless
            self._tell(f"{exc}: requests wait for the threads there are")
            self._pause()

    def _close_idle(self, stage: Stage) -> int:
        """Close the older half of some idle connections, except where a request has just come."""
        idle = list(self.stages[stage])
        closing = [conn for conn in idle[: (len(idle) + 1) // 2] if not has_data(conn)]
        for conn in closing:
            self._end(conn)
        return len(closing)

    def _pause(self) -> None:
        self.set_accept_enabled(False)
        self.accepts_from = time.monotonic() + PAUSE_S

    def _tell(self, what: str) -> None:
        now = time.monotonic()
        if now >= self.tells_from:
            self.tells_from = now + PAUSE_S
            self.log.warning("this worker is at a limit of its machine: %s", what)
