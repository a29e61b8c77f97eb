"""The metrics' own port: a scrape is answered whoever else holds a connection."""

import logging
import resource
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from server import scrapes
from tests.faults.conftest import until
from tests.ops.test_prometheus import Prometheus
from tests.servers.fixtures import need

LIMIT_S = 2.5


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[scrapes.ScrapeServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        server = scrapes.ScrapeServer(listener, LIMIT_S)

        def application(environ, start_response) -> list[bytes]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"up 1\n"]

        server.set_app(application)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def scrape(server: scrapes.ScrapeServer) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=30) as reply:
        return reply.read()


def test_clients_that_drip_or_are_silent_hold_no_scrape_and_are_cut_off(server) -> None:
    began = time.monotonic()
    held = [socket.create_connection(server.socket.getsockname(), timeout=30) for _ in range(5)]
    assert scrape(server) == b"up 1\n"
    assert server._deadlines  # those held are still there
    dripping = held[0]

    def is_cut_off() -> bool:
        try:
            dripping.sendall(b"a")
        except OSError:
            return True
        return False

    until(is_cut_off)
    for sock in held[1:]:
        assert sock.recv(1) == b""
    assert time.monotonic() - began >= LIMIT_S
    until(lambda: not server._deadlines)
    assert scrape(server) == b"up 1\n"
    for sock in held:
        sock.close()


def test_a_connection_that_another_worker_took_is_no_fault(server, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(BlockingIOError):
        server.get_request()
    server._handle_request_noblock()
    assert scrape(server) == b"up 1\n" and not caplog.records


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have more connections than is usual."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.fault("Hostile clients")
def test_idle_connections_neither_make_threads_nor_keep_a_scrape_out(many_files) -> None:
    """1,500 idle connections on the metrics' port -> 8 are kept, Prometheus is still answered."""
    need(Prometheus)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener, ExitStack() as idle:
        listener.setblocking(False)
        server = scrapes.ScrapeServer(listener)
        server.set_app(lambda environ, start: (start("200 OK", []), [b"up_here 1\n"])[1])
        thread = threading.Thread(target=server.serve_forever)
        before, seen = threading.active_count(), [0]
        thread.start()
        for _ in range(1500):
            address = listener.getsockname()
            idle.enter_context(socket.create_connection(address, timeout=30))
        with Prometheus(server.server_port) as prometheus:

            def is_scraped() -> bool:
                seen.append(threading.active_count() - before)
                return prometheus.numbers("up_here") == [1.0]

            until(is_scraped)
        assert max(seen) <= scrapes.MOST + 1  # and the one that accepts
        server.shutdown()
        thread.join()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """The sockets of the metrics' port, none at first; closed at the end."""
    opened: list[socket.socket] = []
    monkeypatch.setattr(scrapes, "_sockets", opened)
    monkeypatch.setattr(scrapes, "_token", None)
    yield opened
    for sock in opened:
        sock.close()


def test_a_taken_port_is_a_line_in_the_log(port, caplog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        scrapes.listen("127.0.0.1", taken.getsockname()[1])
    assert "METRICS_PORT" in caplog.text
    scrapes.serve(lambda: b"", "text/plain")  # and nothing is answered there


@pytest.mark.parametrize("given", ["", "Bearer wrong", "Basic right-token", "right-token", "é"])
def test_with_a_token_nobody_else_is_answered(port, monkeypatch, given: str) -> None:
    held: list[scrapes.ScrapeServer] = []
    monkeypatch.setattr(scrapes.ScrapeServer, "set_app", lambda self, app: held.append(app))
    monkeypatch.setattr(scrapes.ScrapeServer, "serve_forever", lambda self: None)
    scrapes.listen("127.0.0.1", 0, "right-token")
    scrapes.serve(lambda: b"up 1", "text/plain")
    said: list[str] = []
    (application,) = held
    body = application({"HTTP_AUTHORIZATION": given}, lambda status, headers: said.append(status))
    assert said == ["401 Unauthorized"] and b"up 1" not in b"".join(body)
    header = {"HTTP_AUTHORIZATION": "bearer right-token"}
    assert application(header, lambda status, headers: said.append(status)) == [b"up 1"]
