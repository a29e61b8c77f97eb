"""A worker that does not wait for ever on its clients, and stops only when it is relieved.

gunicorn's own `timeout` is a heartbeat of the worker, not of a request. Here every connection has a
deadline: to send its request, then to take its reply. Work in between is not timed.
A stop has a deadline too: shortly before it the application is told to answer what it cannot do.
How a worker takes over from an older one is in `server/rolling_reload.py`. Loaded by name from
`gunicorn.conf.py`; knows nothing of the application.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from server import master, rolling_reload
from server.connection import Connection
from server.scarcity import ThriftyWorker, has_data

# How often a worker that waits for its model looks whether it is there.
LOOK_S = 0.05
# `near_the_end` is called so long before a stopping worker's time is up, or in the middle of it.
LAST_S = 5.0

near_the_end: list[Callable[[], object]] = []  # what to call then; the application adds to it


class DeadlineWorker(ThriftyWorker):
    """Tells where each request is, and stops when it is relieved."""

    told_to_stop = told_to_quit = False
    wsgi: Callable[..., Iterable[bytes]]
    sockets: list[Any]
    last_call = float("inf")  # when a stopping worker has to come to an end, in time.monotonic()

    def load_wsgi(self) -> None:
        """Load the application and tell from its calls where each request is.

        gunicorn ends the whole service if that fails. While others serve, only this worker ends,
        and waits before, longer each time in a row: another takes its place at once.
        """
        try:
            super().load_wsgi()
        except (Exception, SystemExit) as exc:
            if rolling_reload.somebody_serves():
                self.booted = True  # or so gunicorn shall think
                pause_s = master.pause_s()
                self.log.error("a worker cannot start, the next tries in %.0f s. %s", pause_s, exc)
                end = time.monotonic() + pause_s
                self._wait_while(lambda: time.monotonic() < end)
            raise
        self.wsgi = self._timed(self.wsgi)

    def _wait_while(self, waits: Callable[[], bool]) -> None:
        while self.alive and waits() and self.is_parent_alive():
            self.notify()
            time.sleep(LOOK_S)

    def run(self) -> None:
        """Serve; where another worker can, only once this one's model is there too."""
        self._wait_while(lambda: not rolling_reload.takes_requests())
        super().run()

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, or leave it to another worker that became ready before this one."""
        if rolling_reload.takes_requests():
            super().accept(listener)
        else:
            self.set_accept_enabled(False)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; on a stop take those that wait and let go of the listeners.

        Clients would wait there until the last request is answered, to be reset then.
        """
        if self.alive and rolling_reload.takes_requests():
            super().set_accept_enabled(enabled)
        else:
            gthread.ThreadWorker.set_accept_enabled(self, False)
        if self.alive:
            return
        for listener in self.sockets:
            self._take_all(listener)
            listener.close()
        self.sockets = []

    def _take_all(self, listener: Any) -> None:
        self.no_descriptor = ""
        while self.nr_conns < self.worker_connections and has_data(listener):
            self.accept(listener)
            if self.no_descriptor or not rolling_reload.takes_requests():
                return

    def handle_exit(self, sig: int, frame: object) -> None:
        """Stop, once a newer worker can serve if there is one."""
        self.told_to_stop = True
        self._stop_if_relieved()

    def handle_quit(self, sig: int, frame: object) -> None:
        """Stop without waiting for idle clients; at once where the service was told so twice.

        One interrupt at a terminal comes twice, from there and from the master.
        """
        if rolling_reload.ends_at_once():
            logging.shutdown()
            os._exit(0)
        if not self.told_to_quit:
            self.told_to_quit = True
            super().handle_quit(sig, frame)

    def notify(self) -> None:
        """Show a sign of life, and come to an end if it is time."""
        super().notify()
        self._stop_if_relieved()
        now = time.monotonic()
        if self.last_call < now:
            self.last_call = float("inf")
            for tell in near_the_end:
                tell()

    def _stop_if_relieved(self) -> None:
        if not self.told_to_stop or rolling_reload.is_needed():
            return
        if self.alive:
            time_left_s = float(self.cfg.graceful_timeout)
            self.last_call = time.monotonic() + time_left_s - min(LAST_S, time_left_s / 2)
        super().handle_exit(signal.SIGTERM, None)

    def _timed(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def timed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            conn: Connection = environ["gunicorn.socket"]
            environ["gunicorn.socket"] = conn.socket

            def arrived() -> None:
                self.body_is_here(conn)

            def answering(*args: Any, **kwargs: Any) -> Any:
                conn.reply_began = conn.moved_at = time.monotonic()
                conn.deadline = conn.reply_began + self.write_timeout_s
                if not conn.body_came:
                    # Where the next request begins would be known only once all of it was read.
                    conn.request.force_close()
                return start_response(*args, **kwargs)

            environ.pop("HTTP_UPGRADE", None)  # no other protocol is spoken, and it may be ignored
            environ["wsgi.input"] = Body(environ, arrived)
            return application(environ, answering)

        return timed


class Body:
    """A request's body that tells when the last of it has been read."""

    def __init__(self, environ: dict[str, Any], arrived: Callable[[], None]) -> None:
        self._input = environ["wsgi.input"]
        self._arrived = arrived
        length = environ.get("CONTENT_LENGTH")
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        self._left: int | None = None if chunked else int(length or 0)
        if self._left == 0:
            arrived()

    def read(self, size: int = -1) -> bytes:
        """Read as the server's stream does."""
        try:
            return self._noted(self._input.read(size), size)
        except ParseException as exc:  # which no framework knows: it would be our error, not theirs
            raise OSError("the body's chunks cannot be read") from exc

    def readline(self, size: int = -1) -> bytes:
        """Read as the server's stream does."""
        return self._noted(self._input.readline(size), size)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """Read as the server's stream does."""
        lines: list[bytes] = self._input.readlines(hint)
        self._arrived()
        return lines

    def __iter__(self) -> Any:
        return iter(self.readline, b"")

    def _noted(self, data: bytes, size: int) -> bytes:
        if self._left is not None:
            self._left -= len(data)
        if self._left == 0 or (not data and size != 0) or (self._left is None and size < 0):
            self._arrived()
        return data
