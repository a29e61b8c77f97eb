"""A gthread worker whose threads wait for no client: its main thread does, for all of them.

gunicorn gives a thread to whoever has connected. Here a connection is given to one when its request
has come whole, head and body. Only a body over 1 MB (64 KB, where there is no room to gather it) is
read by a thread, and at most half of them do that at a time. Where others wait for a place or for
room, a client must send 16 KB a second to keep its own. Probes overtake all others; how many run at
a time is in `server/turns.py`.
The base of `ThriftyWorker`; knows nothing of the application.
"""

import errno
import socket
import time
from collections import deque
from typing import Any

from gunicorn import sock as tls  # type: ignore[import-untyped]
from gunicorn.http.errors import NoMoreData, ParseException  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from server import refusals
from server.connection import Connection, Stage
from server.incoming import BODY_GATHERED, BODY_WAITED_FOR
from server.turns import TRY_EVERY_S, Turns
from server.waiting import (
    DRAIN_EVERY_S,
    GATHERED_MOST,
    HELD_MOST,
    LOOK_EVERY_S,
    STALLED_S,
    UNSENT_MOST,
    WaitingWorker,
)

GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
# Two threads answer nothing but `urgent` requests: a probe waits behind nobody.
FOR_PROBES = 2
EVENTS_AT_ONCE = 32  # before new connections are looked at again


class PollingWorker(WaitingWorker):
    """Hands whole requests to threads."""

    urgent: frozenset[bytes] = frozenset()  # targets of requests that overtake all others

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.probes: deque[Connection] = deque()
        self.ready: deque[Connection] = deque()
        self.large: deque[Connection] = deque()
        self.busy = 0
        self.turns = Turns(lambda: self.method_queue.defer(self._feed))
        self.reading: set[Connection] = set()  # those in a thread whose body is not here yet
        self.holding = 0  # threads that hold a reply for which there is no room

    def get_thread_pool(self) -> Any:
        """Make the threads, and those for probes."""
        return gthread.futures.ThreadPoolExecutor(max_workers=self.cfg.threads + FOR_PROBES)

    # Connections and what comes on them.

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, and look whether its request has come already."""
        try:
            sock, client = listener.accept()
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        sock.setblocking(False)
        if self.cfg.is_ssl:
            try:
                sock = tls.ssl_context(self.cfg).wrap_socket(
                    sock,
                    server_side=True,
                    suppress_ragged_eofs=self.cfg.suppress_ragged_eofs,
                    do_handshake_on_connect=False,  # nobody waits here: it is done as bytes come
                )
            except OSError:  # gone already
                sock.close()
                return
        self.nr_conns += 1
        conn = Connection(self.cfg, sock, client, listener.getsockname())
        self._receive(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for what comes: new connections first, then what threads tell; none is left out.

        What nobody reads comes last. Then look whose time is up.
        """
        timeout = min(timeout, LOOK_EVERY_S) if self.nr_conns else timeout
        timeout = min(timeout, DRAIN_EVERY_S) if self.stages[Stage.LINGERING] else timeout
        events = self.poller.select(TRY_EVERY_S if self.turns.wanted else timeout)
        first = (self.accept, self.method_queue.run_callbacks)
        clients = [key for key, _ in events if key.data not in first]
        overtaking = sorted(
            (key for key, _ in events if key.data in first), key=lambda key: first.index(key.data)
        )
        for at in range(0, len(clients) or 1, EVENTS_AT_ONCE):
            for key in overtaking:
                key.data(key.fileobj)
            for key in clients[at : at + EVENTS_AT_ONCE]:
                key.data(key.fileobj)
        if self.turns.wanted:
            self._feed()
        self._drain_all()
        now = time.monotonic()
        if self.large:
            self._cut_off(self.reading, now)
        if self.gathered > GATHERED_MOST:
            self._cut_off(self.stages[Stage.RECEIVING], now)
        self._look(now)

    def _readable(self, conn: Connection) -> None:
        if conn.stage is not None:  # not ended by an event before this one
            self._receive(conn)

    def _receive(self, conn: Connection) -> None:
        try:
            data = conn.receive()
        except OSError:
            self._end(conn)
            return
        if data:
            conn.received += data
            if not conn.is_blank():
                self._sort(conn)
            elif conn.stage is None:
                self._enter(conn, Stage.NEW, self.cfg.keepalive)
        elif data is not None:
            self._end(conn)
        elif conn.stage is None:
            self._enter(conn, Stage.NEW, self.cfg.keepalive)

    def _sort(self, conn: Connection) -> None:
        """Hand on a request that is there; let the others wait for their rest."""
        self._gather(conn)
        if conn.is_ready(BODY_GATHERED if self.gathered <= GATHERED_MOST else BODY_WAITED_FOR):
            self._leave(conn)
            conn.hand_over()
            urgent = conn.target in self.urgent and conn.body_came
            waits = conn.large and not conn.body_came
            (self.probes if urgent else self.large if waits else self.ready).append(conn)
            self._feed()
            return
        conn.invite()
        if conn.stage is not Stage.RECEIVING:
            self._leave(conn)
            self._enter(conn, Stage.RECEIVING, self.read_timeout_s)

    # Requests and their threads.

    def _feed(self) -> None:
        """Give requests to threads that are free."""
        while self.probes and self.busy < self.cfg.threads + FOR_PROBES:
            self._start(self.probes.popleft())
        while (self.large or self.ready) and self.busy < self.cfg.threads and self.turns.is_free():
            if self.large and len(self.reading) < max(1, self.cfg.threads // 2):
                conn = max(
                    self.large, key=lambda conn: conn.came
                )  # it is the least likely to stall
                self.large.remove(conn)
                self.reading.add(conn)
                self._start(conn)
            elif self.ready:
                self._start(self.ready.popleft())
            else:
                return

    def _start(self, conn: Connection) -> None:
        self._let_go(conn)
        self.busy += 1
        self.turns.begin()
        conn.deadline = time.monotonic() + self.read_timeout_s
        self.tpool.submit(self._answer, conn)

    def _answer(self, conn: Connection) -> None:
        """Answer a request, in a thread."""
        try:
            with self.turns.used():
                conn.keeps = self.handle(conn)
                if conn.late:  # the application has answered half a body
                    conn.drop()
                    self._refuse_as_slow(conn)
                conn.flush()
                if not self._keeps(conn):
                    self._hold(conn)
        finally:
            self.method_queue.defer(self.finish_request, conn)

    def _keeps(self, conn: Connection) -> bool:
        """Count what is unsent of a reply, if there is room to keep it."""
        with self.counting:
            if self.unsent + conn.unsent > UNSENT_MOST:
                return False
            self.unsent += conn.unsent
            return True

    def _hold(self, conn: Connection) -> None:
        """Write a reply until there is room to keep it, if other threads do not hold too many.

        A client that takes nothing meanwhile is given up.
        """
        size = conn.unsent
        with self.counting:
            fits = self.holding < max(1, self.cfg.threads // 2)
            fits &= not self.held or self.held + size <= HELD_MOST
            if fits:
                self.holding += 1
                self.held += size
        if not fits:
            conn.give_up()
            return
        while not self._keeps(conn):
            conn.flush_within(LOOK_EVERY_S)
            now = time.monotonic()
            if now - conn.moved_at > STALLED_S or now > conn.deadline:
                conn.give_up()
        with self.counting:
            self.holding -= 1
            self.held -= size

    def handle(self, conn: Connection) -> bool:
        """Have the application answer; return whether another request may follow."""
        try:
            conn.request = next(conn.parser)
            conn.parser.unreader.in_head = False
            refusals.check_coding(conn.request)
            again = self.handle_request(conn.request, conn)
            return again and not conn.late and self._is_read(conn)
        except (StopIteration, NoMoreData) as exc:
            self.log.debug("a request ended early: %s", exc)
        except OSError as exc:
            if exc.errno not in GONE:
                self.log.exception("a request cannot be answered")
            conn.give_up()
        except Exception as exc:
            self.handle_error(conn.request, conn, conn.client, exc)
        return False

    def _is_read(self, conn: Connection) -> bool:
        """Tell whether the next request's beginning is known: leave out what nobody has read."""
        try:
            return conn.body_came and not conn.broken and conn.parser.finish_body()
        except ParseException:
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Refuse what gunicorn's parser does not take."""
        status, request_id, reply = refusals.explain(exc, client.target, client.method)
        peer = addr[0] if isinstance(addr, tuple) else "a Unix socket"
        if status == 500:
            self.log.error("request %s of %s cannot be answered", request_id, peer, exc_info=exc)
        else:
            kind = type(exc).__name__
            what = "request %s of %s is refused with %d: %s"
            self.log.warning(what, request_id, peer, status, kind)
        client.sendall(reply)

    def body_is_here(self, conn: Connection) -> None:
        """Note, in a thread, that the last of a body has been read."""
        if not conn.body_came:
            conn.body_came = True
            self.method_queue.defer(self._stop_reading, conn)

    def _stop_reading(self, conn: Connection) -> None:
        self.reading.discard(conn)
        self._feed()

    def finish_request(self, conn: Connection) -> None:
        """Go on after a thread: with the rest of the reply, the next request or the end."""
        self.busy -= 1
        self.reading.discard(conn)
        if conn.late:
            self._tell_of_slowness()
        if conn.unsent and not conn.broken:
            self._enter(
                conn, Stage.WRITING, conn.reply_began + self.write_timeout_s - time.monotonic()
            )
        else:
            self._replied(conn)
        self._feed()

    def _replied(self, conn: Connection) -> None:
        if conn.broken:
            self._end(conn)
        elif not conn.keeps:
            self._linger(conn)
        else:
            conn.next_request()
            if not conn.is_blank():
                self._sort(conn)
            else:
                self._enter(conn, Stage.IDLE, self.cfg.keepalive)
