"""What a worker's main thread waits for on connections: their stages, and the end of each.

A reply that the client did not take at once is written here; a connection is closed only when the
client has read its reply, or had the time to; and whoever takes too long is cut off.
The base of `PollingWorker`; knows nothing of the application.
"""

import time
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from gunicorn.workers import gthread  # type: ignore[import-untyped]

from server import refusals
from server.connection import PIECE, Connection, Stage

LOOK_EVERY_S = 0.25  # for connections whose time is up
# A client may still send what nobody reads: for so long in all, with pauses of so long, so much.
LINGER_S, LINGER_PAUSE_S, LINGER_MOST = 30.0, 2.0, 256 << 20
# Bytes of replies that clients have not taken: beyond it threads wait, and those who lag are cut.
UNSENT_MOST = 256 << 20


class WaitingWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """gthread with all waiting in the main thread, which alone touches what has no lock."""

    read_timeout_s = 30.0
    write_timeout_s = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stages: dict[Stage, dict[Connection, None]] = {stage: {} for stage in Stage}
        self.unsent = 0
        self._looks_from = 0.0

    def _readable(self, conn: Connection) -> None:
        """Take what has come. For whoever knows what a request is."""
        raise NotImplementedError

    def _replied(self, conn: Connection) -> None:
        """Go on after a reply. Likewise."""
        raise NotImplementedError

    def _enter(self, conn: Connection, stage: Stage, limit_s: float) -> None:
        conn.stage, conn.deadline = stage, time.monotonic() + limit_s
        if not self.alive and stage in (Stage.NEW, Stage.IDLE, Stage.LINGERING):
            limit_s = min(limit_s, gthread.STOP_KEEPALIVE_LINGER)
            conn.deadline = time.monotonic() + limit_s
        self.stages[stage][conn] = None
        if stage is Stage.WRITING:
            self.unsent += conn.unsent
            self.poller.register(conn, EVENT_WRITE, self._write)
        else:
            wanted = self._drain if stage is Stage.LINGERING else self._readable
            self.poller.register(conn, EVENT_READ, wanted)

    def _leave(self, conn: Connection) -> None:
        if conn.stage is None:
            return
        self.poller.unregister(conn)
        del self.stages[conn.stage][conn]
        if conn.stage is Stage.WRITING:
            self.unsent -= conn.unsent
        conn.stage = None

    def _end(self, conn: Connection) -> None:
        self._leave(conn)
        self.nr_conns -= 1
        conn.close()

    def _write(self, conn: Connection) -> None:
        if conn.stage is not Stage.WRITING:
            return
        before = conn.unsent
        conn.flush()
        self.unsent -= before - conn.unsent
        if not conn.unsent:
            self._leave(conn)
            self._replied(conn)

    def _linger(self, conn: Connection) -> None:
        """Say that this is all, and take what the client still sends: a reset would overtake it."""
        conn.end_reply()
        conn.linger_until = time.monotonic() + LINGER_S
        self._enter(conn, Stage.LINGERING, LINGER_PAUSE_S)

    def _drain(self, conn: Connection) -> None:
        if conn.stage is not Stage.LINGERING:
            return
        try:
            data = conn.receive(4 * PIECE)
        except OSError:
            data = b""
        if data is None:
            return
        conn.drained += len(data)
        conn.deadline = min(time.monotonic() + LINGER_PAUSE_S, conn.linger_until)
        if not data or conn.drained > LINGER_MOST:
            self._end(conn)

    # Time.

    def _look(self, now: float) -> None:
        """End what has taken too long."""
        if now < self._looks_from:
            return
        self._looks_from = now + LOOK_EVERY_S
        for stage, conns in self.stages.items():
            for conn in [conn for conn in conns if conn.deadline < now]:
                self._time_is_up(conn, stage)
        for conn in list(self.stages[Stage.WRITING]) if self.unsent > UNSENT_MOST else ():
            if conn.lags(now, self.write_timeout_s):
                self._time_is_up(conn, Stage.WRITING)

    def _time_is_up(self, conn: Connection, stage: Stage) -> None:
        if stage is Stage.RECEIVING:
            self._tell_of_slowness()
            self._leave(conn)
            self._refuse_as_slow(conn)
            conn.flush()
            self._linger(conn)
            return
        if stage is Stage.WRITING:
            self._tell_of_slowness()
        self._end(conn)

    def _refuse_as_slow(self, conn: Connection) -> None:
        conn.sendall(refusals.too_slow(conn.target, self.read_timeout_s, conn.method))

    def _tell_of_slowness(self) -> None:
        self.log.info("a client was too slow and is cut off")

    def murder_keepalived(self, force: bool = False) -> None:
        """End what waits, at the end of a stop; until then `_look` does what gunicorn does here."""
        for conns in self.stages.values() if force else ():
            for conn in list(conns):
                self._end(conn)

    def murder_pending(self) -> None:
        """Do nothing: see `murder_keepalived`."""

    def _cap_keepalive(self, deadline: float) -> None:
        for stage in (Stage.NEW, Stage.IDLE, Stage.LINGERING):
            for conn in self.stages[stage]:
                conn.deadline = min(conn.deadline, deadline)
