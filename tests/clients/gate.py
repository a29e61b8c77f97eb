"""A gate between a client and the service: so many requests pass, the others wait for the test.

It refuses a POST that holds `REFUSED` as the service refuses a row, which no client can foresee.
"""

import contextlib
import threading
from collections.abc import Iterable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

ENDLESS = 1 << 60
REFUSED = "no service takes this"
REFUSAL = b'{"error": "a text is refused", "error_type": "invalid_input"}'
OWN = ("connection", "content-length", "date", "server", "transfer-encoding")


class Gate(ThreadingHTTPServer):
    """Passes every request to the service; a POST waits for leave, in the order they come."""

    daemon_threads = False  # they are waited for: nothing of a test goes on after it

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.service = urlsplit(url).netloc
        self._changed = threading.Condition()
        self._come, self._leave, self._closed = 0, ENDLESS, False
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True  # whoever still waits gets no answer
            self._changed.notify_all()
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def come(self) -> int:
        """How many POSTs have come so far."""
        return self._come

    @property
    def held(self) -> bool:
        """Whether a POST is held now."""
        return self._come > self._leave

    def hold_after(self, count: int) -> None:
        """Let the next `count` POSTs pass, and hold those after them."""
        self._let(lambda: self._come + count)

    def release(self) -> None:
        """Let those pass that are held now, and none after them."""
        self._let(lambda: self._come)

    def open(self) -> None:
        """Hold nothing."""
        self._let(lambda: ENDLESS)

    def until_held(self, count: int, limit_s: float = 60) -> None:
        """Wait until so many POSTs are held."""
        with self._changed:
            held = self._changed.wait_for(lambda: self._come - self._leave >= count, limit_s)
            assert held, f"{count} requests did not come to the gate"

    def _let(self, leave) -> None:
        with self._changed:
            self._leave = leave()
            self._changed.notify_all()

    def pass_through(self) -> bool:
        """Take a place in the row and wait for leave; False if it does not come any more."""
        with self._changed:
            place, self._come = self._come, self._come + 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or place < self._leave)
            return place < self._leave


class Handler(BaseHTTPRequestHandler):
    server: Gate

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "POST" and not self.server.pass_through():
            return
        if REFUSED.encode() in body:
            with contextlib.suppress(ConnectionError):
                self.answer(422, REFUSAL, [("Content-Type", "application/json")])
            return
        service = HTTPConnection(self.server.service, timeout=60)
        with contextlib.closing(service), contextlib.suppress(ConnectionError):
            kind = {"Content-Type": self.headers.get("Content-Type", "text/plain")}
            service.request(self.command, self.path, body, kind)
            reply = service.getresponse()
            data = reply.read()
            self.answer(reply.status, data, reply.getheaders())

    def answer(self, status: int, data: bytes, headers: Iterable[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)  # a client that was killed does not take it

    do_POST = do_GET
