"""The metrics' own port: a scrape is answered whoever else holds a connection."""

import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from server import scrapes
from tests.faults.conftest import until

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


def test_a_taken_port_is_a_line_in_the_log(monkeypatch, caplog) -> None:
    monkeypatch.setattr(scrapes, "_socket", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        scrapes.listen("127.0.0.1", taken.getsockname()[1])
    assert "METRICS_PORT" in caplog.text
    scrapes.serve(lambda: b"", "text/plain")  # and nothing is answered there
