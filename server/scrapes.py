"""The metrics' own port: opened once in gunicorn's master, answered by every worker.

A worker holds a few connections, each in a thread and with a deadline as a whole; a new one takes
the place of the oldest, so that connections which are held open keep no scrape out. The sockets
outlive a reload, which an imported module does too. Called by `gunicorn.conf.py` alone; knows
nothing of the application.
"""

import hmac
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from server.listening import addresses_of

log = logging.getLogger("gunicorn.error")

SCRAPE_S = 10.0  # for one scrape, from the first byte of its request to the last of its answer
PAUSE_S = 0.5  # after a connection could not be accepted, as without descriptors
MOST = 8  # connections at once, in each worker

_sockets: list[socket.socket] = []
_token: str | None = None


def listen(host: str, port: int, token: str | None = None) -> None:
    """Open the metrics' port in the master. A taken port is an error line, not the end."""
    global _token
    _token = token
    addresses = addresses_of(host)
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        both = addresses == ["::"]  # Python, unlike gunicorn, leaves IPv4 out otherwise
        try:
            opened = socket.create_server((address, port), family=family, dualstack_ipv6=both)
        except OSError as exc:
            what = "METRICS_PORT %d cannot be had on %s (%s); /metrics still answers"
            log.error(what, port, address, exc.strerror)
        else:
            opened.setblocking(False)  # of several workers that see a connection, one gets it
            _sockets.append(opened)


def serve(exposition: Callable[[], bytes], content_type: str) -> None:
    """Answer on the inherited sockets from threads of this worker, whichever accepts first."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if _token and not (scheme.lower() == "bearer" and _is_token(given)):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
            return [b"send METRICS_TOKEN as a bearer token\n"]
        start_response("200 OK", [("Content-Type", content_type)])
        return [exposition()]

    for opened in _sockets:
        server = ScrapeServer(opened)
        server.set_app(application)
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _is_token(given: str) -> bool:
    return hmac.compare_digest(given.strip().encode("latin-1"), (_token or "").encode())


class ScrapeServer(socketserver.ThreadingMixIn, WSGIServer):
    """Answers each connection in a thread, and cuts off those that take too long."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, limit_s: float = SCRAPE_S) -> None:
        super().__init__(("", 0), _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket, self._limit_s = listener, limit_s
        self.server_name, self.server_port = "metrics", listener.getsockname()[1]
        self._deadlines: dict[Any, float] = {}  # of each connection, the oldest first
        self._places = threading.Semaphore(MOST)
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection, if no other worker did."""
        try:
            return super().get_request()
        except BlockingIOError:
            raise
        except OSError:
            time.sleep(PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own, within the limit."""
        if len(self._deadlines) >= MOST:
            self._cut(next(iter(self._deadlines)))
        if not self._places.acquire(timeout=self._limit_s):  # its thread ends when it notices
            self.shutdown_request(request)
            return
        self._deadlines[request] = time.monotonic() + self._limit_s
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off who is late; called twice a second and after every connection."""
        now = time.monotonic()
        for request, deadline in list(self._deadlines.items()):
            if deadline < now:
                self._cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in the log that a scrape failed: its client is gone, or was cut off."""
        log.debug("a scrape was not answered", exc_info=True)

    def _cut(self, request: socket.socket) -> None:
        self._deadlines.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)  # wakes the thread that is blocked on it
        except OSError:
            log.debug("the client of a scrape was gone already")


class _Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape every few seconds is no news."""
