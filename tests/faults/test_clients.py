"""Clients that are slow, silent or gone, on a real gunicorn whose every thread they try to hold."""

import json
import socket
import threading
import time
import urllib.request

import pytest

from tests.faults.conftest import Service, until

THREADS = 4
FLAGS = ("--threads", str(THREADS))
BROKEN_OFF = 10_000
HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
def service(start) -> Service:
    return start(*FLAGS, READ_TIMEOUT="2", WRITE_TIMEOUT="2")


def drip(sockets: list[socket.socket], stop: threading.Event) -> None:
    """Send a byte on each every tenth of a second, so that no read ever times out."""
    while not stop.wait(0.1):
        for sock in sockets:
            try:
                sock.sendall(b"a")
            except OSError:
                continue


def assert_they_are_cut_off(service: Service, beginning: bytes) -> None:
    held = [service.connect() for _ in range(THREADS)]
    for sock in held:
        sock.sendall(beginning)
    stop = threading.Event()
    dripping = threading.Thread(target=drip, args=(held, stop))
    dripping.start()
    try:
        until(service.healthy, 15)
        assert service.embed("a") == 200
    finally:
        stop.set()
        dripping.join()
        for sock in held:
            sock.close()


def test_slow_headers_on_every_thread_are_cut_off(service) -> None:
    assert_they_are_cut_off(service, b"GET /health HTTP/1.1\r\nX-Slow: ")


def test_bodies_shorter_than_announced_are_cut_off(service) -> None:
    assert_they_are_cut_off(service, HEAD + b'Content-Length: 100000\r\n\r\n{"t')


def test_slow_chunked_bodies_are_cut_off(service) -> None:
    assert_they_are_cut_off(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n")


def test_without_the_deadlines_slow_headers_do_hold_the_service(start) -> None:
    """The control: plain gthread answers nobody for as long as they drip."""
    service = start(*FLAGS, "-k", "gthread")
    held = [service.connect() for _ in range(THREADS)]
    for sock in held:
        sock.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
    stop = threading.Event()
    dripping = threading.Thread(target=drip, args=(held, stop))
    dripping.start()
    try:
        time.sleep(4)  # twice what the deadline would have been
        assert not service.healthy()
    finally:
        stop.set()
        dripping.join()
        for sock in held:
            sock.close()


def test_idle_connections_hold_no_thread(service) -> None:
    idle = [service.connect() for _ in range(50)]
    assert service.embed("a") == 200
    for sock in idle:
        sock.close()


def test_a_reader_that_takes_its_reply_slowly_is_cut_off(service) -> None:
    body = json.dumps({"texts": ["a"] * 2000, "dimensions": 8}).encode()
    held = []
    for _ in range(THREADS):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.connect(("127.0.0.1", service.port))
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        held.append(sock)
    until(service.healthy, 15)
    for sock in held:
        sock.close()


def test_a_long_pass_is_no_slow_client(start) -> None:
    service = start(*FLAGS, READ_TIMEOUT="0.3", WRITE_TIMEOUT="0.3")
    assert service.embed("slow") == 200  # a second of work, more than both deadlines
    assert service.ask("/embed", {"texts": ["x"] * 1000})[0] == 200


def test_a_client_that_hangs_up_while_it_waits_costs_no_pass(service) -> None:
    body = json.dumps({"texts": "slow"}).encode()
    first = threading.Thread(target=service.embed, args=("slow",))
    first.start()
    until(lambda: b"embedding_requests_in_flight 2.0" in service.ask("/metrics")[2])
    waiting = service.connect()
    waiting.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    until(lambda: b'embedding_queue_texts{model="fake"} 1.0' in service.ask("/metrics")[2])
    waiting.close()
    first.join()
    until(lambda: b'reason="client_closed_request"} 1.0' in service.ask("/metrics")[2])


def test_connections_that_are_opened_and_broken_off_leave_nothing_behind(service) -> None:
    def files() -> int:
        text = service.ask("/metrics")[2].decode()
        return int(float(text.split("\nembedding_process_open_files ")[1].split()[0]))

    before = files()
    for i in range(BROKEN_OFF):
        sock = service.connect()
        if i % 2:
            sock.sendall(HEAD[: i % len(HEAD)])
        sock.close()
    until(lambda: files() <= before + 3)
    assert service.embed("a") == 200


SMUGGLED = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Content-Length: -1\r\n\r\n",
]


@pytest.mark.parametrize("rest", SMUGGLED)
def test_a_request_that_two_servers_could_read_differently_is_refused(service, rest) -> None:
    with service.connect() as sock:
        sock.sendall(HEAD + rest)
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    statuses = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1")]
    assert all(line.split()[1].startswith(b"4") for line in statuses), answer
    assert service.healthy()


def test_a_huge_address_is_refused(service) -> None:
    with service.connect() as sock:
        sock.sendall(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).split()[1] in (b"400", b"414", b"431")


def test_paths_and_methods_that_are_not_there_make_no_series(service) -> None:
    for i in range(50):
        service.ask(f"/nothing/{i}?model={i}")
    text = urllib.request.urlopen(f"{service.url}/metrics", timeout=10).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("embedding_requests_total")]
    assert [line for line in lines if 'route="none"' in line]
    assert not [line for line in lines if "/nothing" in line]


@pytest.mark.parametrize("form", ["line", "json"])
def test_what_a_client_calls_itself_stays_on_one_line_of_the_log(start, form) -> None:
    service = start(LOG_FORMAT=form)
    known = len(service.lines)
    for evil in (b"a\nroot: 1", b"\x1b[31m", b"a\rb"):  # no header can hold these: gunicorn says so
        with service.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: " + evil + b"\r\n\r\n")
            assert sock.recv(100).split()[1] == b"400"
    head = {"X-Request-ID": "x" * 8_000, "User-Agent": "\xff" * 8_000}
    for model in ("\x1b[31m\x9b2J\r\nroot: 1", "x" * 10_000):
        status, headers, body = service.ask("/embed", {"texts": ["a"], "model": model}, **head)
        assert status == 400 and len(headers["X-Request-ID"]) == 32 and len(body) < 1000
    until(lambda: len([line for line in service.lines[known:] if "/embed" in line]) == 2)
    for line in service.lines[known:]:
        assert len(line) < 1000 and not set(line) & {"\x1b", "\x9b", "\r"}
        assert json.loads(line)["time"] if form == "json" else line.startswith("20")


def test_a_page_of_another_origin_is_given_no_leave(start) -> None:
    service = start(CORS_ORIGINS="https://ours.example")
    asked = {"Access-Control-Request-Method": "POST"}
    for origin, allowed in (("https://evil.example", None), ("https://ours.example",) * 2):
        request = urllib.request.Request(
            service.url + "/embed", headers={"Origin": origin, **asked}, method="OPTIONS"
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert reply.headers["Access-Control-Allow-Origin"] == allowed
            given = [name for name in reply.headers if name.startswith("Access-Control-Allow")]
            assert bool(given) == bool(allowed)
