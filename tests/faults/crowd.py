"""Many clients at once, while the service is stopped, reloaded or hurt."""

import re
import socket
import threading
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPResponse

from tests.faults.conftest import Service, until

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end."""

    status: int
    headers: Message
    content: bytes
    will_close: bool


def answer(sock: socket.socket, method: str = "GET") -> Answer:
    """Read one answer. Raises what a client would see: a reset, or an end before the answer's."""
    with HTTPResponse(sock, method=method) as reply:
        reply.begin()
        return Answer(reply.status, reply.headers, reply.read(), reply.will_close)


def statuses_of(sock: socket.socket) -> list[int]:
    """Read answers until the connection is closed; return their statuses."""
    data = b"".join(iter(lambda: sock.recv(65536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", data)]


class Crowd:
    """Clients that embed one after the other until told to stop."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self.service, self.stopped = service, threading.Event()
        self.statuses: list[int] = []
        self.lost: list[Exception] = []
        self.threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                self.statuses.append(self.service.embed("a b c"))
            except (OSError, HTTPException) as exc:
                self.lost.append(exc)
            self.stopped.wait(0.02)  # or they take the CPU from what the test waits for

    def __enter__(self) -> "Crowd":
        for thread in self.threads:
            thread.start()
        until(lambda: len(self.statuses) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


class Arrivals(Crowd):
    """Clients that keep their connections; half of them open a new one for each request.

    Whoever cannot connect any more ends. `lost` are errors on connections that had been answered.
    """

    def _run(self) -> None:
        keeps, client = threading.current_thread() in self.threads[::2], None
        while not self.stopped.is_set():
            fresh = client is None or client.sock is None
            client = client or HTTPConnection("127.0.0.1", self.service.port, timeout=30)
            try:
                client.request("POST", "/embed", b'{"texts": "a b c"}', JSON)
                with client.getresponse() as reply:
                    reply.read()
                self.statuses.append(reply.status)
            except (OSError, HTTPException) as exc:
                client.close()
                if not fresh:
                    self.lost.append(exc)
                elif isinstance(exc, ConnectionRefusedError):
                    return
            if not keeps:
                client.close()
        if client:
            client.close()
