"""The connections that no thread has: the main thread waits for what each is to do next.

It reads requests until they are whole, writes what clients did not take at once, and ends what
takes too long. Nothing here is safe to call from another thread.
"""

import itertools
import select
import socket
import time
from collections.abc import Callable, Iterable
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER  # type: ignore[import-untyped]

from server import error_replies
from server.connection import GATHERED_BODY, SMALL_BODY, Connection, Stage
from server.dispatch import STALLED_S, ReplyBudget

# Bytes of requests that no thread has yet: beyond it threads read large bodies.
GATHERED_LIMIT = 64 << 20
# A client may go on sending after its reply for so long in all, with pauses of so long, and so many
# bytes.
LINGER_S, PAUSE_S, MOST_BYTES = 30.0, 2.0, 256 << 20
# It is read so often and for so long at a time: 48 clients that sent as fast as they could delayed
# others by 6 s when everything was read as it came.
DRAIN_EVERY_S, DRAIN_FOR_S = 0.01, 0.002


def has_data(sock: socket.socket | Connection) -> bool:
    """Return whether a socket has something to read, its end included; uses no descriptor."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class Clients:
    """A worker's connections by stage. `ready` gets each request that a thread can start on."""

    def __init__(
        self, worker: Any, replies: ReplyBudget, ready: Callable[[Connection], None]
    ) -> None:
        self._worker, self._replies, self._ready = worker, replies, ready
        self.stages: dict[Stage, dict[Connection, None]] = {stage: {} for stage in Stage}
        self.gathered = 0  # bytes of requests that no thread has yet
        self._lingering = DefaultSelector()  # of its own, so that they delay no other connection
        self._drain_from = 0.0

    # ---- from one stage to the next

    def receive(self, conn: Connection) -> None:
        """Read what has arrived on a connection, a new one too."""
        try:
            data = conn.receive()
        except OSError:
            data = b""
        if data == b"":
            self.end(conn)
            return
        conn.buffer.data += data or b""
        if not conn.buffer.is_blank():
            self._sort(conn)
        elif conn.stage is None:
            self._enter(conn, Stage.NEW, self._worker.cfg.keepalive)

    def _sort(self, conn: Connection) -> None:
        """Hand on a request that is ready for a thread; wait for the rest of another."""
        self._gather(conn, len(conn.buffer.data))
        if conn.buffer.is_ready(GATHERED_BODY if self.gathered <= GATHERED_LIMIT else SMALL_BODY):
            self._leave(conn)
            self._ready(conn)
            return
        conn.send_continue()
        if conn.stage is not Stage.RECEIVING:
            self._leave(conn)
            self._enter(conn, Stage.RECEIVING, self._worker.read_timeout_s)

    def hand_over(self, conn: Connection) -> None:
        """Leave a request to a thread."""
        self._gather(conn, 0)
        conn.deadline = time.monotonic() + self._worker.read_timeout_s
        conn.start_parsing()

    def take_back(self, conn: Connection) -> None:
        """Go on after a thread: with the rest of the reply, the next request or the end."""
        if conn.timed_out:
            self._log_slow_client()
        if conn.unsent and not conn.broken:
            end = conn.reply_began + self._worker.write_timeout_s
            self._enter(conn, Stage.WRITING, end - time.monotonic())
        else:
            self._replied(conn)

    def _replied(self, conn: Connection) -> None:
        if conn.broken:
            self.end(conn)
        elif not conn.keep_alive:
            self._linger(conn)
        else:
            conn.next_request()
            if not conn.buffer.is_blank():
                self._sort(conn)
            else:
                self._enter(conn, Stage.IDLE, self._worker.cfg.keepalive)

    def _linger(self, conn: Connection) -> None:
        """End the reply, then read and drop what the client still sends.

        Closing a socket with unread data resets it, and the reset may overtake the reply. So the
        socket is closed once the client has read its reply, or had the time to.
        """
        try:
            conn.socket.shutdown(socket.SHUT_WR)
        except OSError:
            conn.broken = True
        conn.buffer.data.clear()
        self._gather(conn, 0)
        conn.linger_until = time.monotonic() + LINGER_S
        self._enter(conn, Stage.LINGERING, PAUSE_S)

    def end(self, conn: Connection) -> None:
        """Close a connection."""
        self._leave(conn)
        self._gather(conn, 0)
        self._worker.nr_conns -= 1
        conn.close()

    def _enter(self, conn: Connection, stage: Stage, limit_s: float) -> None:
        if not self._worker.alive and stage in (Stage.NEW, Stage.IDLE, Stage.LINGERING):
            limit_s = min(limit_s, STOP_KEEPALIVE_LINGER)
        conn.stage, conn.deadline = stage, time.monotonic() + limit_s
        self.stages[stage][conn] = None
        event = EVENT_WRITE if stage is Stage.WRITING else EVENT_READ
        self._poller(stage).register(conn, event, self._on_event)

    def _poller(self, stage: Stage) -> Any:
        return self._lingering if stage is Stage.LINGERING else self._worker.poller

    def _on_event(self, conn: Connection) -> None:
        if conn.stage is Stage.WRITING:
            before = conn.unsent
            conn.flush()
            self._replies.remove(before - conn.unsent)
            if not conn.unsent:
                self._leave(conn)
                self._replied(conn)
        elif conn.stage is not None:  # not ended by an earlier event
            self.receive(conn)

    def _leave(self, conn: Connection) -> None:
        if conn.stage is None:
            return
        self._poller(conn.stage).unregister(conn)
        del self.stages[conn.stage][conn]
        if conn.stage is Stage.WRITING:
            self._replies.remove(conn.unsent)
        conn.stage = None

    def _gather(self, conn: Connection, size: int) -> None:
        self.gathered += size - conn.gathered
        conn.gathered = size

    def drain(self) -> None:
        """Read lingering clients for a moment, first where least was read; end those done."""
        began, over = time.monotonic(), False
        if began < self._drain_from:
            return
        while not over and (ready := self._lingering.select(0)):
            conns: list[Connection] = [key.fileobj for key, _ in ready]  # type: ignore[misc]
            for conn in sorted(conns, key=lambda conn: conn.drained):
                try:
                    data = conn.receive()
                except OSError:
                    data = b""
                if data is not None:
                    conn.drained += len(data)
                    conn.deadline = min(time.monotonic() + PAUSE_S, conn.linger_until)
                    if not data or conn.drained > MOST_BYTES:
                        self.end(conn)
                if over := time.monotonic() > began + DRAIN_FOR_S:
                    break
        self._drain_from = time.monotonic() + DRAIN_EVERY_S

    # ---- time and room

    def expire(self, now: float, reading: Iterable[Connection]) -> None:
        """End the time of clients that send hardly anything where others wait for their room.

        `reading` are those whose bodies threads read, if others wait for that.
        """
        waiting = self.stages[Stage.RECEIVING] if self.gathered > GATHERED_LIMIT else ()
        for conn in (*reading, *waiting):
            if not conn.buffer.complete and conn.stalls(now):
                conn.deadline = min(conn.deadline, now)

    def check_deadlines(self, now: float) -> None:
        """End what has taken too long, and slow readers where threads wait to reply to others."""
        for stage, conns in self.stages.items():
            for conn in [conn for conn in conns if conn.deadline < now]:
                self._time_out(conn, stage)
        if not self._replies.held:
            return
        # Who has read nothing for longest goes first.
        for conn in sorted(self.stages[Stage.WRITING], key=lambda conn: conn.moved_at):
            if not self._replies.is_over():
                return
            if now - conn.moved_at > STALLED_S or conn.lags(now, self._worker.write_timeout_s):
                self._time_out(conn, Stage.WRITING)

    def _time_out(self, conn: Connection, stage: Stage) -> None:
        if stage in (Stage.RECEIVING, Stage.WRITING):
            self._log_slow_client()
        if stage is not Stage.RECEIVING:
            self.end(conn)
            return
        self._leave(conn)
        self.refuse_as_slow(conn)
        conn.flush()
        self._linger(conn)

    def refuse_as_slow(self, conn: Connection) -> None:
        """Reply that the request did not arrive in time. Threads may call it."""
        limit_s, buffer = self._worker.read_timeout_s, conn.buffer
        conn.sendall(error_replies.too_slow(buffer.target, limit_s, buffer.method))

    def _log_slow_client(self) -> None:
        self._worker.log.info("a client was too slow and is cut off")

    def most_silent(self, queued: Iterable[Connection]) -> Connection | None:
        """Return the connection to close first: the one whose client loses least.

        Those `queued` have sent a part of a large body and wait for a thread to read the rest.
        """
        now, stages = time.monotonic(), self.stages
        lagging = (c for c in stages[Stage.WRITING] if c.lags(now, self._worker.write_timeout_s))
        first = (stages[Stage.LINGERING], stages[Stage.NEW], stages[Stage.RECEIVING])
        return next(itertools.chain(*first, queued, stages[Stage.IDLE], lagging), None)

    def close_idle(self) -> int:
        """Close the older half of the idle connections, except where a request just arrived."""
        closed = 0
        for stage in (Stage.NEW, Stage.IDLE):
            idle = list(self.stages[stage])
            for conn in idle[: (len(idle) + 1) // 2]:
                if not has_data(conn):
                    self.end(conn)
                    closed += 1
        return closed

    def close_all(self) -> None:
        """Close every connection, at the end of a stop."""
        for conns in self.stages.values():
            for conn in list(conns):
                self.end(conn)
        self._lingering.close()

    def cap_idle(self, deadline: float) -> None:
        """Close the idle connections by then, on a stop."""
        for stage in (Stage.NEW, Stage.IDLE, Stage.LINGERING):
            for conn in self.stages[stage]:
                conn.deadline = min(conn.deadline, deadline)
