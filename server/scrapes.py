"""The metrics' own port: opened once in gunicorn's master, answered by every worker.

Each scrape has a thread and a deadline as a whole, so that a client which sends or takes a byte now
and then holds up nobody else. The socket outlives a reload, which an imported module does too.
Called by `gunicorn.conf.py` alone; knows nothing of the application.
"""

import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

log = logging.getLogger("gunicorn.error")

SCRAPE_S = 10.0  # for one scrape, from the first byte of its request to the last of its answer
PAUSE_S = 0.5  # after a connection could not be accepted, as without descriptors

_socket: socket.socket | None = None


def listen(host: str, port: int) -> None:
    """Open the metrics' port in the master. A taken port is an error line, not the end."""
    global _socket
    try:
        _socket = socket.create_server((host, port))
    except OSError as exc:
        log.error("METRICS_PORT %d cannot be had (%s); /metrics still answers", port, exc.strerror)
    else:
        _socket.setblocking(False)  # of several workers that see a connection, one gets it


def serve(exposition: Callable[[], bytes], content_type: str) -> None:
    """Answer on the inherited socket from threads of this worker, whichever accepts first."""
    if _socket is None:
        return

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", content_type)])
        return [exposition()]

    server = ScrapeServer(_socket)
    server.set_app(application)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class ScrapeServer(socketserver.ThreadingMixIn, WSGIServer):
    """Answers each connection in a thread, and cuts off those that take too long."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, limit_s: float = SCRAPE_S) -> None:
        super().__init__(("", 0), _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket, self._limit_s = listener, limit_s
        self.server_name, self.server_port = "metrics", listener.getsockname()[1]
        self._deadlines: dict[Any, float] = {}
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
        self._deadlines[request] = time.monotonic() + self._limit_s
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off who is late; called twice a second and after every connection."""
        now = time.monotonic()
        for request, deadline in list(self._deadlines.items()):
            if deadline < now and self._deadlines.pop(request, None) is not None:
                self._cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in the log that a scrape failed: its client is gone, or was cut off."""
        log.debug("a scrape was not answered", exc_info=True)

    def _cut(self, request: socket.socket) -> None:
        try:
            request.shutdown(socket.SHUT_RDWR)  # wakes the thread that is blocked on it
        except OSError:
            log.debug("the client of a scrape was gone already")


class _Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape every few seconds is no news."""
