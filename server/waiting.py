"""What a worker's main thread waits for on connections: their stages, and the end of each.

A reply that the client did not take at once is written here; a connection is closed only when the
client has read its reply, or had the time to; and whoever takes too long is cut off. What clients
send after their reply is taken apart from all else, for as long as nobody waits.
The base of `PollingWorker`; knows nothing of the application.
"""

import threading
import time
from collections.abc import Iterable
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any

from gunicorn.workers import gthread  # type: ignore[import-untyped]

from server import refusals
from server.connection import PIECE, Connection, Stage

LOOK_EVERY_S = 0.25  # for connections whose time is up
# A client may still send what nobody reads: for so long in all, with pauses of so long, so much.
LINGER_S, LINGER_PAUSE_S, LINGER_MOST = 30.0, 2.0, 256 << 20
# It is taken so often, for so long in all: 48 clients that sent it as fast as they could kept
# others waiting for 6 s when it was taken as it came.
DRAIN_EVERY_S, DRAIN_S = 0.01, 0.002
# Bytes of requests that no thread has yet: beyond it threads wait for large bodies.
GATHERED_MOST = 64 << 20
# Bytes of replies that clients have not taken: beyond it threads wait, and those who lag are cut.
# So many more they may hold meanwhile.
UNSENT_MOST, HELD_MOST = 256 << 20, 128 << 20
STALLED_S = 1.0  # whoever has taken nothing for so long may be cut then


class WaitingWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """gthread with all waiting in the main thread, which alone touches what has no lock."""

    read_timeout_s = 30.0
    write_timeout_s = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stages: dict[Stage, dict[Connection, None]] = {stage: {} for stage in Stage}
        self.unsent = self.held = 0  # of replies that the main thread writes, and that threads do
        self.counting = threading.Lock()  # both
        self.gathered = 0
        self._looks_from = self._drains_from = 0.0
        self.drains: Any = None

    def run(self) -> None:
        """Serve."""
        self.drains = DefaultSelector()  # not before the fork
        try:
            super().run()
        finally:
            self.drains.close()

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
        if stage is Stage.WRITING:  # `unsent` has been counted
            self.poller.register(conn, EVENT_WRITE, self._write)
        elif stage is Stage.LINGERING:
            self.drains.register(conn, EVENT_READ)
        else:
            self.poller.register(conn, EVENT_READ, self._readable)

    def _leave(self, conn: Connection) -> None:
        if conn.stage is None:
            return
        (self.drains if conn.stage is Stage.LINGERING else self.poller).unregister(conn)
        del self.stages[conn.stage][conn]
        if conn.stage is Stage.WRITING:
            self._taken(conn.unsent)
        conn.stage = None

    def _taken(self, size: int) -> None:
        with self.counting:
            self.unsent -= size

    def _end(self, conn: Connection) -> None:
        self._leave(conn)
        self._let_go(conn)
        self.nr_conns -= 1
        conn.close()

    def _gather(self, conn: Connection) -> None:
        """Count what has come of a request."""
        self.gathered += len(conn.received) - conn.gathered
        conn.gathered = len(conn.received)

    def _let_go(self, conn: Connection) -> None:
        """Count it no more: a thread has it, or nobody will."""
        self.gathered -= conn.gathered
        conn.gathered = 0

    def _write(self, conn: Connection) -> None:
        if conn.stage is not Stage.WRITING:
            return
        before = conn.unsent
        conn.flush()
        self._taken(before - conn.unsent)
        if not conn.unsent:
            self._leave(conn)
            self._replied(conn)

    def _linger(self, conn: Connection) -> None:
        """Say that this is all, and take what the client still sends: a reset would overtake it."""
        conn.end_reply()
        conn.received.clear()
        self._let_go(conn)
        conn.linger_until = time.monotonic() + LINGER_S
        self._enter(conn, Stage.LINGERING, LINGER_PAUSE_S)

    def _drain_all(self) -> None:
        """Take what comes after replies: first from those of whom least was taken."""
        now = time.monotonic()
        if not self.stages[Stage.LINGERING] or now < self._drains_from:
            return
        while ready := self.drains.select(0):
            for conn in sorted((key.fileobj for key, _ in ready), key=lambda conn: conn.drained):
                self._drain(conn)
                if time.monotonic() > now + DRAIN_S:
                    break
            else:
                continue
            break
        self._drains_from = time.monotonic() + DRAIN_EVERY_S

    def _drain(self, conn: Connection) -> None:
        try:
            data = conn.receive(PIECE)
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
        if self.held:
            self._cut_laggards(now)

    def _cut_laggards(self, now: float) -> None:
        """Make room for the replies that threads hold; who has taken nothing longest goes first."""
        for conn in sorted(self.stages[Stage.WRITING], key=lambda conn: conn.moved_at):
            if self.unsent + self.held <= UNSENT_MOST:
                return
            if now - conn.moved_at > STALLED_S or conn.lags(now, self.write_timeout_s):
                self._time_is_up(conn, Stage.WRITING)

    def _cut_off(self, conns: Iterable[Connection], now: float) -> None:
        """End the time of those who hardly send, where others wait for their place or room."""
        for conn in list(conns):
            if not conn.body_came and conn.stalls(now):
                conn.deadline = min(conn.deadline, now)

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
