"""Requests that are refused before their body is read: the answer arrives, the connection tells.

On a real gunicorn, and behind a real nginx with the shipped configuration.
"""

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.conftest import Service, until
from tests.faults.crowd import answer, statuses_of
from tests.servers.fixtures import need
from tests.servers.nginx import Nginx

KEY = "a-key-of-the-tests-own"
JSON = "Content-Type: application/json"
# What is refused, however large its body is: method, path, status and headers.
REFUSED = {
    "401": ("POST", "/embed", 401, (JSON,)),
    "404": ("POST", "/nothing", 404, (JSON, f"X-API-Key: {KEY}")),
    "405": ("PUT", "/embed", 405, (JSON, f"X-API-Key: {KEY}")),
    "415": ("POST", "/embed", 415, ("Content-Type: text/plain", f"X-API-Key: {KEY}")),
    "a GET with a body": ("GET", "/health/live", 200, ()),
    "a HEAD with a body": ("HEAD", "/health/live", 200, ()),
}
NEXT = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def service(start_for_all) -> Service:
    return start_for_all(
        "--threads", "8", AUTH_ENABLED="true", API_KEY_SECRET=KEY, READ_TIMEOUT="3",
        ready="/health/live",
    )  # fmt: skip


def head_of(kind: str, rest: str) -> bytes:
    method, path, _, headers = REFUSED[kind]
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, rest, "", ""]
    return "\r\n".join(lines).encode()


def chunked(size: int) -> Iterator[bytes]:
    for at in range(0, size, 1 << 16):
        length = min(1 << 16, size - at)
        yield b"%x\r\n" % length + b"x" * length + b"\r\n"
    yield b"0\r\n\r\n"


@pytest.mark.parametrize("kind", REFUSED)
def test_the_answer_arrives_and_the_connection_works_or_is_said_to_close(service, kind) -> None:
    for size in (0, 1, 65_535, 70_000, 300_000, 2_000_000):
        for way in ("length", "chunks"):
            _check(service, kind, size, way)


@pytest.mark.fault("On the wire")
def test_a_client_that_sends_all_before_it_reads_gets_its_refusal(service) -> None:
    """A refused body of 70 MB, sent whole before the reply is read -> the reply arrives, then the
    connection ends.
    """
    for way in ("length", "chunks"):
        assert _check(service, "401", 70 << 20, way)


def _check(service: Service, kind: str, size: int, way: str) -> bool:
    """Send a whole request, then the next one; return whether the first answer said close."""
    method, _, status, _ = REFUSED[kind]
    with service.connect() as sock:
        if way == "length":
            sock.sendall(head_of(kind, f"Content-Length: {size}"))
            pieces: Iterator[bytes] = (
                b"x" * min(1 << 16, size - at) for at in range(0, size, 1 << 16)
            )
        else:
            sock.sendall(head_of(kind, "Transfer-Encoding: chunked"))
            pieces = chunked(size)
        for piece in pieces:
            sock.sendall(piece)
        first = answer(sock, method)
        assert first.status == status or (status == 200 and first.status == 413 and size > 65_536)
        if first.will_close:
            assert size > 60_000 and first.headers["Connection"] == "close"
            return True
        sock.sendall(NEXT)
        assert answer(sock, "GET").status == 200
        return False


def test_requests_that_come_together_are_answered_in_turn(service) -> None:
    last = NEXT.replace(b"Host", b"Connection: close\r\nHost")
    with service.connect() as sock:
        for kind in ("404", "415"):
            sock.sendall(head_of(kind, "Content-Length: 3000") + b"x" * 3000)
        sock.sendall(head_of("405", "Transfer-Encoding: chunked") + b"".join(chunked(3000)) + last)
        assert statuses_of(sock) == [404, 415, 405, 200]


def test_a_client_that_waits_for_leave_to_send_is_refused(service) -> None:
    for kind in ("401", "404"):
        with service.connect() as sock:
            sock.sendall(head_of(kind, "Content-Length: 300000\r\nExpect: 100-continue"))
            reply = answer(sock, "POST")  # http.client passes over the 100
            assert reply.status == REFUSED[kind][2] and reply.will_close


def test_http_1_0_is_refused_and_closed(service) -> None:
    with service.connect() as sock:
        head = head_of("404", "Content-Length: 300000").replace(b"HTTP/1.1", b"HTTP/1.0")
        sock.sendall(head + b"x" * 300_000)
        assert answer(sock, "POST").status == 404
        assert sock.recv(1) == b""


@pytest.mark.fault("Hostile clients")
def test_bodies_that_are_announced_and_never_sent_hold_nobody(service) -> None:
    """Bodies announced and never sent, on more connections than threads -> others are served."""
    head = head_of("404", "Content-Length: 3000")
    large = (f"POST /embed HTTP/1.1\r\nHost: x\r\n{JSON}\r\nX-API-Key: {KEY}\r\n"
             "Content-Length: 300000\r\n\r\n").encode()  # fmt: skip
    held = [service.connect() for _ in range(40)]
    for sock, what in zip(held, [head, large] * 20, strict=True):
        sock.sendall(what)
    assert service.ask("/embed", {"text": "a"}, **{"X-API-Key": KEY})[0] == 200
    assert service.ask("/health/live")[0] == 200
    replies = [answer(sock, "POST") for sock in held[:4]]
    assert [reply.status for reply in replies] == [408] * 4
    for sock in held:
        sock.close()
    until(lambda: service.ask("/embed", {"text": "a"}, **{"X-API-Key": KEY})[0] == 200)


@pytest.fixture(scope="module")
def nginx(service: Service) -> Iterator[Nginx]:
    """The shipped configuration, but for TLS, in front of the service."""
    need(Nginx)
    shipped = Path(ROOT, "deploy", "nginx.conf").read_text()
    config = shipped.replace("listen 443 ssl", "listen 127.0.0.1:{port}")
    config = config.replace("127.0.0.1:8001", f"127.0.0.1:{service.port}")
    lines = [line for line in config.splitlines() if not line.strip().startswith("ssl_")]
    with Nginx("\n".join(lines)) as nginx:
        yield nginx


@pytest.mark.fault("On the wire")
def test_behind_nginx_a_refused_upload_costs_nobody_an_answer(nginx) -> None:
    """Refused bodies of up to 2 MB during 300 small requests, behind nginx -> no 502 for either."""
    stop, refused = threading.Event(), Counter[tuple[int, int]]()

    def upload(offset: int) -> None:
        for turn in range(offset, 10_000):
            if stop.is_set():
                return
            kind = ("401", "404", "405", "415")[turn % 4]
            method, path, status, headers = REFUSED[kind]
            size = (300_000, 700_000, 2_000_000)[turn % 3]
            client = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=60)
            client.request(method, path, b"x" * size, dict(line.split(": ") for line in headers))
            refused[client.getresponse().status, status] += 1
            client.close()

    small: list[int] = []

    def embed() -> None:
        client = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=60)
        for number in range(100):
            body = json.dumps({"text": f"text {number}"})
            client.request("POST", "/embed", body, dict([JSON.split(": ")], **{"X-API-Key": KEY}))
            with client.getresponse() as reply:
                reply.read()
                small.append(reply.status)
        client.close()

    uploads = [threading.Thread(target=upload, args=(offset,)) for offset in range(2)]
    embeds = [threading.Thread(target=embed) for _ in range(3)]
    for thread in (*uploads, *embeds):
        thread.start()
    for thread in embeds:
        thread.join()
    stop.set()
    for thread in uploads:
        thread.join()
    assert Counter(small) == {200: 300}
    assert refused and not {pair for pair in refused if pair[0] != pair[1]}, refused
