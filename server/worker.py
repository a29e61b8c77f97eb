"""The gunicorn worker: one thread waits for all clients, the others only work.

gunicorn gives a thread to whoever connects. Here a request gets one when it has arrived whole, head
and body; only a body over 1 MB (64 KB where there is no room to gather it) is read by a thread. The
main thread also writes what a client does not take at once. Each connection has a deadline for its
request and one for its reply; work in between is not timed. At the limits of the machine (files,
threads, memory) it closes the connections that were silent longest and goes on.
A stop has a deadline too: shortly before it the application is asked to answer what it cannot do.
How workers relieve each other is in `server/rolling_reload.py`.
"""

import errno
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn import sock as tls  # type: ignore[import-untyped]
from gunicorn.http.errors import NoMoreData, ParseException  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from server import error_replies, master, metrics_port, rolling_reload, slots
from server.clients import DRAIN_EVERY_S, Clients, has_data
from server.connection import Body, Connection, Stage
from server.dispatch import CHECK_EVERY_S, FOR_PROBES, ReplyBudget, ThreadQueue

GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE_S = 1.0  # without accepting, where nothing could be closed; and between two log lines
EVENTS_AT_ONCE = 32  # before new connections are accepted again
LOADING_CHECK_S = 0.05  # a worker that waits for its model looks so often
# `near_the_end` is called so long before a stopping worker's deadline, or half way to it.
LAST_S = 5.0

near_the_end: list[Callable[[], object]] = []  # the application adds to it


class DeadlineWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """A gthread worker that waits for clients in its main thread. See the module."""

    read_timeout_s = 30.0
    write_timeout_s = 60.0
    urgent: frozenset[bytes] = frozenset()  # request targets that overtake all others
    wsgi: Callable[..., Iterable[bytes]]
    sockets: list[Any]
    clients: Clients
    told_to_stop = told_to_quit = False
    last_call = float("inf")  # when to call `near_the_end`, in time.monotonic()
    no_descriptor = ""  # why the last connection could not be accepted, until room is made
    accept_from = warn_from = 0.0
    _check_from = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = slots.Slots(lambda: self.method_queue.defer(self.queue.feed))
        self.queue = ThreadQueue(self.cfg.threads, self.slots, self._start)
        self.replies = ReplyBudget(self.cfg.threads)

    # ---- start and stop

    def load_wsgi(self) -> None:
        """Load the application.

        gunicorn ends the whole service if that fails. While other workers serve, only this one
        ends, after a pause that grows with each failure in a row; another takes its place.
        """
        try:
            super().load_wsgi()
        except (Exception, SystemExit) as exc:
            if rolling_reload.somebody_serves():
                self.booted = True  # or gunicorn would end the service
                pause_s = master.pause_s()
                self.log.error("a worker cannot start, the next tries in %.0f s. %s", pause_s, exc)
                end = time.monotonic() + pause_s
                self._wait_while(lambda: time.monotonic() < end)
            raise

    def _wait_while(self, waits: Callable[[], bool]) -> None:
        while self.alive and waits() and self.is_parent_alive():
            self.notify()
            time.sleep(LOADING_CHECK_S)

    def get_thread_pool(self) -> Any:
        """Return a pool for all requests, and for the probes."""
        return gthread.futures.ThreadPoolExecutor(max_workers=self.cfg.threads + FOR_PROBES)

    def run(self) -> None:
        """Serve. Where another worker can, wait until this one's model is loaded."""
        self._wait_while(lambda: not rolling_reload.takes_requests())
        self.wsgi = self._timed(self.wsgi)
        self.clients = Clients(self, self.replies, self._queue)
        super().run()

    def handle_exit(self, sig: int, frame: object) -> None:
        """Stop, once a newer worker can serve if there is one."""
        self.told_to_stop = True
        self._stop_if_relieved()

    def _stop_if_relieved(self) -> None:
        if not self.told_to_stop or rolling_reload.is_needed():
            return
        if self.alive:
            time_left_s = float(self.cfg.graceful_timeout)
            self.last_call = time.monotonic() + time_left_s - min(LAST_S, time_left_s / 2)
        super().handle_exit(signal.SIGTERM, None)

    def handle_quit(self, sig: int, frame: object) -> None:
        """Stop without waiting for idle clients; at once if the service was told so twice.

        One interrupt at a terminal arrives twice: from the terminal and from the master.
        """
        if rolling_reload.ends_at_once():
            logging.shutdown()
            os._exit(0)
        if not self.told_to_quit:
            self.told_to_quit = True
            super().handle_quit(sig, frame)

    def notify(self) -> None:
        """Beat for gunicorn, and do what is due: make room, stop, warn the application."""
        super().notify()
        if not self._accepting and self.nr_conns >= self.worker_connections:
            self.set_accept_enabled(False)  # or True, if one can be closed by now
        if self.no_descriptor:
            closed = self.clients.close_idle()
            self._warn(f"{self.no_descriptor}: {closed} idle connections are closed")
            self.no_descriptor = ""
            if not closed:
                self._pause()
        self._stop_if_relieved()
        if self.last_call < time.monotonic():
            self.last_call = float("inf")
            for call in near_the_end:
                call()

    # ---- connections

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not. At the limit accept if a silent connection can be closed.

        On a stop, accept what waits and close the listeners: clients would wait there until the
        last request is answered, to be reset then.
        """
        if self.alive and rolling_reload.takes_requests():
            full = self.nr_conns >= self.worker_connections
            enabled = enabled or (full and self._most_silent() is not None)
            super().set_accept_enabled(enabled and time.monotonic() >= self.accept_from)
            return
        super().set_accept_enabled(False)
        if self.alive:
            return
        for listener in self.sockets:
            self.no_descriptor = ""
            while self.nr_conns < self.worker_connections and has_data(listener):
                self.accept(listener)
                if self.no_descriptor or not rolling_reload.takes_requests():
                    break
            listener.close()
        self.sockets = []

    def accept(self, listener: Any) -> None:
        """Accept a connection, unless another worker is to serve it or there is no room."""
        if not rolling_reload.takes_requests():
            self.set_accept_enabled(False)
            return
        if self.nr_conns >= self.worker_connections:
            silent = self._most_silent()
            if silent is None:
                return
            if silent.stage is None:
                self.queue.large.popleft()
            self._warn(f"{self.nr_conns} connections: the one that was silent longest is closed")
            self.clients.end(silent)
        try:
            sock, client = listener.accept()
        except OSError as exc:
            if exc.errno in SCARCE:
                # Room is made later: events of the other connections may be about to be handled.
                self.no_descriptor = exc.strerror or str(exc)
            elif exc.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        server = listener.getsockname()
        sock.setblocking(False)
        if self.cfg.is_ssl and not metrics_port.owns(server):
            try:
                sock = tls.ssl_context(self.cfg).wrap_socket(
                    sock, server_side=True, suppress_ragged_eofs=self.cfg.suppress_ragged_eofs,
                    do_handshake_on_connect=False,  # it is done as bytes arrive
                )  # fmt: skip
            except OSError:  # gone already
                sock.close()
                return
        self.nr_conns += 1
        self.clients.receive(Connection(self.cfg, sock, client, server))

    def _most_silent(self) -> Connection | None:
        return self.clients.most_silent(self.queue.large)

    def _pause(self) -> None:
        self.set_accept_enabled(False)
        self.accept_from = time.monotonic() + PAUSE_S

    def _warn(self, what: str) -> None:
        now = time.monotonic()
        if now >= self.warn_from:
            self.warn_from = now + PAUSE_S
            self.log.warning("this worker is at a limit of its machine: %s", what)

    # ---- the event loop

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events and handle them all: first new connections, then threads that are done.

        Reading what nobody needs comes last. Then end what has taken too long.
        """
        timeout = min(timeout, CHECK_EVERY_S) if self.nr_conns else timeout
        if self.clients.stages[Stage.LINGERING]:
            timeout = min(timeout, DRAIN_EVERY_S)
        timeout = slots.TRY_EVERY_S if self.slots.wanted else timeout
        first = (self.accept, self.method_queue.run_callbacks)
        events = [key for key, _ in self.poller.select(timeout)]
        clients = [key for key in events if key.data not in first]
        overtaking = [key for each in first for key in events if key.data == each]
        for at in range(0, len(clients) or 1, EVENTS_AT_ONCE):
            for key in (*overtaking, *clients[at : at + EVENTS_AT_ONCE]):
                key.data(key.fileobj)
        if self.slots.wanted:
            self.queue.feed()
        self.clients.drain()
        now = time.monotonic()
        self.clients.expire(now, self.queue.reading if self.queue.large else ())
        if now >= self._check_from:
            self._check_from = now + CHECK_EVERY_S
            self.clients.check_deadlines(now)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close every connection at the end of a stop. Deadlines are checked elsewhere."""
        if force:
            self.clients.close_all()

    def murder_pending(self) -> None:
        """Do nothing: gunicorn's own deadlines do not apply."""

    def _cap_keepalive(self, deadline: float) -> None:
        self.clients.cap_idle(deadline)

    # ---- requests and their threads

    def _queue(self, conn: Connection) -> None:
        urgent = conn.buffer.target in self.urgent or metrics_port.owns(conn.server)
        self.queue.add(conn, urgent)

    def _start(self, conn: Connection) -> None:
        """Hand a request to a thread; if none can be started, to the next that is free."""
        self.clients.hand_over(conn)
        try:
            self.tpool.submit(self._answer, conn)
        except RuntimeError as exc:  # it is in the pool's queue nevertheless
            self._warn(f"{exc}: requests wait for the threads there are")
            self._pause()

    def _answer(self, conn: Connection) -> None:
        try:
            with self.slots.used():
                conn.keep_alive = self.handle(conn)
                if conn.timed_out:  # the application has answered half a body
                    conn.discard()
                    self.clients.refuse_as_slow(conn)
                conn.flush()
                if not self.replies.add(conn):
                    self.replies.wait(conn)
        finally:
            self.method_queue.defer(self.finish_request, conn)

    def handle(self, conn: Connection) -> bool:
        """Have the application answer; return whether another request may follow."""
        try:
            conn.request = next(conn.parser)
            conn.parser.unreader.in_head = False
            error_replies.check_coding(conn.request)
            again = self.handle_request(conn.request, conn)
            if not again or conn.timed_out or conn.broken or not conn.buffer.complete:
                return False
            try:  # the next request begins after what was not read of this one
                return bool(conn.parser.finish_body())
            except ParseException:
                return False
        except (StopIteration, NoMoreData) as exc:
            self.log.debug("a request ended early: %s", exc)
        except OSError as exc:
            if exc.errno not in GONE:
                self.log.exception("a request cannot be answered")
            conn.give_up()
        except Exception as exc:
            self.handle_error(conn.request, conn, conn.client, exc)
        return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Reply to a request that gunicorn's parser refuses."""
        buffer = client.buffer
        status, request_id, reply = error_replies.explain(exc, buffer.target, buffer.method)
        peer = addr[0] if isinstance(addr, tuple) else "a Unix socket"
        if status == 500:
            self.log.error("request %s of %s cannot be answered", request_id, peer, exc_info=exc)
        else:
            kind = type(exc).__name__
            what = "request %s of %s is refused with %d: %s"
            self.log.warning(what, request_id, peer, status, kind)
        client.sendall(reply)

    def finish_request(self, conn: Connection) -> None:
        """Go on with a connection after a thread, and give the thread to another request."""
        self.queue.finish(conn)
        self.clients.take_back(conn)
        self.queue.feed()

    def _timed(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        """Return the application, which then notes where each request is."""

        def timed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            conn: Connection = environ["gunicorn.socket"]
            environ["gunicorn.socket"] = conn.socket

            def body_read() -> None:
                if not conn.buffer.complete:
                    conn.buffer.complete = True
                    self.method_queue.defer(self.queue.body_read, conn)

            def start(*args: Any, **kwargs: Any) -> Any:
                conn.reply_began = conn.moved_at = time.monotonic()
                conn.deadline = conn.reply_began + self.write_timeout_s
                if not conn.buffer.complete:
                    # Where the next request begins would be known only once all of it was read.
                    conn.request.force_close()
                return start_response(*args, **kwargs)

            def more_time(until: float) -> None:
                conn.deadline = until  # of a thread that reads a large body

            environ["embedding.more_time"] = more_time
            environ.pop("HTTP_UPGRADE", None)  # no other protocol is supported; it may be ignored
            environ["wsgi.input"] = Body(environ, body_read)
            return application(environ, start)

        return timed
