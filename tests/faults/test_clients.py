"""Clients that are slow, silent or gone, on a real gunicorn whose every thread they try to hold."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Service, until

THREADS = 4
FLAGS = ("--threads", str(THREADS))
BROKEN_OFF = 10_000
HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


SLOW_HEADERS = b"GET /health HTTP/1.1\r\nX-Slow: "
SHORT_BODY = HEAD + b'Content-Length: 100000\r\n\r\n{"t'
SLOW_CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n"
LIMIT_S = 2  # to send a request, and to take its reply
SLACK_S = 1 + 5  # the worker looks once a second; and a busy machine


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the file is put that holds the passes with the word `held`."""
    return tmp_path_factory.mktemp("holding") / "held"


@pytest.fixture(scope="module")
def service(start_for_all, holding) -> Service:
    limits = {"READ_TIMEOUT": str(LIMIT_S), "WRITE_TIMEOUT": str(LIMIT_S), "HELD": str(holding)}
    return start_for_all(*FLAGS, DIMENSION="1024", **limits)


@contextmanager
def sending(
    service: Service, beginning: bytes, drips: bool, count: int = THREADS
) -> Iterator[None]:
    """Begin some requests; then send a byte of each every tenth of a second, or nothing."""
    with ExitStack() as stack:
        held = [stack.enter_context(service.connect()) for _ in range(count)]
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                for sock in held if drips else []:
                    with suppress(OSError):
                        sock.sendall(b"a")

        for sock in held:
            sock.sendall(beginning)
        dripping = threading.Thread(target=drip)
        dripping.start()
        stack.callback(dripping.join)
        stack.callback(stop.set)
        yield


@contextmanager
def not_reading(service: Service, count: int) -> Iterator[list[socket.socket]]:
    """Ask for replies of 22 MB, more than the kernel's buffers hold, and take their first byte."""
    body = json.dumps({"texts": ["a"] * 2000}).encode()
    with ExitStack() as stack:
        held = [stack.enter_context(service.connect()) for _ in range(count)]
        for sock in held:
            sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for sock in held:
            assert sock.recv(1) == b"H"
        yield held


def cut_off(service: Service) -> int:
    """Return how many clients were too slow so far."""
    return sum("too slow and is cut off" in line for line in service.lines)


def assert_they_are_cut_off(service: Service, known: int, began: float) -> None:
    until(lambda: cut_off(service) == known + THREADS)
    assert LIMIT_S <= time.monotonic() - began <= LIMIT_S + SLACK_S
    assert service.healthy() and service.embed("a") == 200


@pytest.mark.fault("Clients")
def test_slow_headers_on_every_thread_are_cut_off(service) -> None:
    """Headers sent a byte at a time -> cut off after `READ_TIMEOUT`."""
    known, began = cut_off(service), time.monotonic()
    with sending(service, SLOW_HEADERS, drips=True):
        assert_they_are_cut_off(service, known, began)


@pytest.mark.fault("Clients")
@pytest.mark.parametrize("drips", [True, False], ids=["slow", "silent"])
def test_bodies_shorter_than_announced_are_cut_off(service, drips) -> None:
    """A body shorter than announced, then silence -> cut off after `READ_TIMEOUT`; the thread is
    free.
    """
    known, began = cut_off(service), time.monotonic()
    with sending(service, SHORT_BODY, drips):
        assert_they_are_cut_off(service, known, began)


@pytest.mark.fault("Clients")
def test_slow_chunked_bodies_are_cut_off(service) -> None:
    """A chunked body that arrives slowly -> cut off after `READ_TIMEOUT`."""
    known, began = cut_off(service), time.monotonic()
    with sending(service, SLOW_CHUNKS, drips=True):
        assert_they_are_cut_off(service, known, began)


@pytest.mark.fault("Clients")
def test_a_reader_that_takes_its_reply_slowly_is_cut_off(service) -> None:
    """The reply is not read -> cut off after `WRITE_TIMEOUT`."""
    known, count = cut_off(service), THREADS - 1  # one thread is kept for probes
    with not_reading(service, count) as held:
        until(lambda: all(sock.recv(100) for sock in held) and cut_off(service) == known + count)
        assert service.healthy() and service.embed("a") == 200


def test_without_the_deadlines_slow_clients_do_hold_the_service(start) -> None:
    """The control: plain gthread answers nobody while half of them drip and half do not read."""
    service = start(*FLAGS, "-k", "gthread", DIMENSION="1024")
    with not_reading(service, THREADS // 2), sending(service, SLOW_HEADERS, True, THREADS // 2):
        time.sleep(LIMIT_S + 1)
        assert not service.healthy()


@pytest.mark.fault("Clients")
def test_idle_connections_hold_no_thread(service) -> None:
    """Connections opened and left idle -> they hold no thread."""
    idle = [service.connect() for _ in range(50)]
    began = time.monotonic()
    assert service.embed("a") == 200
    assert time.monotonic() - began < 5  # what gunicorn itself waits for one of them
    for sock in idle:
        sock.close()


@pytest.mark.fault("Clients")
def test_a_long_pass_is_no_slow_client(start) -> None:
    """A pass takes longer than `READ_TIMEOUT` and `WRITE_TIMEOUT` -> its client is not cut off."""
    service = start(*FLAGS, READ_TIMEOUT="0.3", WRITE_TIMEOUT="0.3")
    assert service.embed("slow") == 200  # a second of work, more than both deadlines
    assert service.ask("/embed", {"texts": ["x"] * 1000})[0] == 200


def hung_up(service: Service) -> float:
    """Return how many requests were left by their clients so far."""
    lines = service.ask("/metrics")[2].decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if 'reason="client_closed_request"' in line)


@pytest.mark.fault("Overload")
def test_a_client_that_hangs_up_while_it_waits_costs_no_pass(service, holding) -> None:
    """The client hangs up while it waits -> no pass is spent on it; counted, 499 in the log."""
    known = hung_up(service)
    body = json.dumps({"texts": "late"}).encode()
    holding.touch()
    first = threading.Thread(target=service.embed, args=("held",))
    first.start()
    until(lambda: b"embedding_requests_in_flight 2.0" in service.ask("/metrics")[2])
    waiting = service.connect()
    waiting.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    queued = b'embedding_queue_texts{lane="interactive",model="fake"} 1.0'
    until(lambda: queued in service.ask("/metrics")[2])
    waiting.close()
    holding.unlink()
    first.join()
    until(lambda: hung_up(service) == known + 1)


@pytest.mark.fault("Process and machine")
def test_connections_that_are_opened_and_broken_off_leave_nothing_behind(service) -> None:
    """10,000 connections are broken off -> no descriptor is left behind."""

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


@pytest.mark.fault("Clients")
@pytest.mark.parametrize("rest", SMUGGLED)
def test_a_request_that_two_servers_could_read_differently_is_refused(service, rest) -> None:
    """A request that two servers could read differently -> 4xx."""
    with service.connect() as sock:
        sock.sendall(HEAD + rest)
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    statuses = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1")]
    assert all(line.split()[1].startswith(b"4") for line in statuses), answer
    assert service.healthy()


@pytest.mark.fault("Clients")
def test_a_huge_address_is_refused(service) -> None:
    """A URL of 20 kB -> 4xx."""
    with service.connect() as sock:
        sock.sendall(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).split()[1] in (b"400", b"414", b"431")


@pytest.mark.fault("Clients")
def test_paths_and_methods_that_are_not_there_make_no_series(service) -> None:
    """Made-up paths and methods -> no metric series of their own."""
    for i in range(50):
        service.ask(f"/nothing/{i}?model={i}")
    text = urllib.request.urlopen(f"{service.url}/metrics", timeout=60).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("embedding_requests_total")]
    assert [line for line in lines if 'route="none"' in line]
    assert not [line for line in lines if "/nothing" in line]


@pytest.mark.fault("Clients")
@pytest.mark.parametrize("form", ["line", "json"])
def test_what_a_client_calls_itself_stays_on_one_line_of_the_log(start, form) -> None:
    """Line feeds or escapes in `User-Agent` or a model's name -> the log keeps one short line."""
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


@pytest.mark.fault("Clients")
def test_a_page_of_another_origin_is_given_no_leave(start) -> None:
    """A page asks for access from an origin not in CORS_ORIGINS -> no header grants it."""
    service = start(CORS_ORIGINS="https://ours.example")
    asked = {"Access-Control-Request-Method": "POST"}
    for origin, allowed in (("https://evil.example", None), ("https://ours.example",) * 2):
        request = urllib.request.Request(
            service.url + "/embed", headers={"Origin": origin, **asked}, method="OPTIONS"
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert reply.headers["Access-Control-Allow-Origin"] == allowed
            given = [name for name in reply.headers if name.startswith("Access-Control-Allow")]
            assert bool(given) == bool(allowed)
