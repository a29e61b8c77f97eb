"""TLS that gunicorn itself speaks, in process: the bytes come through a handshake."""

import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from flask import Flask, request

from routes.budget import client_gone
from server import metrics_port
from tests.faults.conftest import until
from tests.faults.crowd import answer
from tests.ops.test_scarcity import Running

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
NEXT = GET.replace(b"/ ", b"/next ")


def application(seen: list[bool]) -> Flask:
    """Tell of each request's body how long it is, and note whether its client seemed gone."""
    app = Flask(__name__)

    @app.route("/<path:_>", methods=["GET", "POST"])
    @app.route("/")
    def size(_: str = "") -> str:
        body = request.get_data()
        gone = client_gone()
        seen.append(bool(gone and gone()))
        return str(len(body))

    return app


@pytest.fixture
def seen() -> list[bool]:
    return []


def tls_worker(tmp_path: Path, seen: list[bool], *further: socket.socket) -> Running:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    running = Running(further=further)
    running.worker.cfg.set("certfile", str(tmp_path / "certificate.pem"))
    running.worker.cfg.set("keyfile", str(tmp_path / "key.pem"))
    running.worker.cfg.set("do_handshake_on_connect", True)
    running.worker.wsgi = application(seen)
    return running


@pytest.fixture
def running(tmp_path: Path, seen) -> Iterator[Running]:
    with tls_worker(tmp_path, seen) as running:
        yield running


@contextlib.contextmanager
def metrics_listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(metrics_port, "_listeners", {listener.getsockname(): listener})
        yield listener


def plain(running: Running) -> socket.socket:
    return socket.create_connection(running.listener.getsockname(), timeout=30)


def shaken(running: Running) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain(running))


@pytest.mark.fault("Hostile clients")
def test_a_client_that_never_shakes_hands_holds_nobody(running) -> None:
    """TLS by gunicorn, and a client that never finishes the handshake -> others are served."""
    with plain(running), plain(running) as half:
        half.sendall(b"\x16\x03\x01")
        with shaken(running) as sock:
            sock.sendall(GET)
            assert answer(sock).status == 200


def test_a_client_that_has_sent_its_next_request_is_not_gone(running, seen) -> None:
    with shaken(running) as sock:
        sock.sendall(GET + NEXT)
        assert answer(sock).status == 200 and answer(sock).status == 200
    assert seen == [False, False]


def test_a_body_larger_than_is_gathered_comes_over_tls(running) -> None:
    with shaken(running) as sock:
        for size in (100_000, 3_000_000):
            sock.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            sock.sendall(b"x" * size)
            assert answer(sock, "POST").content == str(size).encode()


def test_a_client_that_speaks_no_tls_is_cut_off(running) -> None:
    with plain(running) as sock:
        sock.sendall(GET)
        with contextlib.suppress(ConnectionResetError):
            assert not sock.recv(100).startswith(b"HTTP")
    until(lambda: running.worker.nr_conns == 0)


def test_the_metrics_port_speaks_plain_http(seen, tmp_path: Path, monkeypatch) -> None:
    with metrics_listener(monkeypatch) as listener:
        running = tls_worker(tmp_path, seen, listener)
        with running, socket.create_connection(listener.getsockname(), timeout=30) as sock:
            sock.sendall(GET)
            assert answer(sock).status == 200
            with shaken(running) as other:
                for stopped in (False, True):  # the listeners are closed then
                    if stopped:
                        running.worker.handle_exit(signal.SIGTERM, None)
                        until(lambda: not running.worker.sockets)
                    other.sendall(GET)
                    assert answer(other).status == 200
