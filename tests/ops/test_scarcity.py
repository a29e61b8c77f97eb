"""A worker that runs short of descriptors or threads, in process and on a listener that says so."""

import errno
import http.client
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from server import worker
from server.connection import Stage
from server.worker import DeadlineWorker
from tests.conftest import ROOT
from tests.faults.conftest import until


class ShortListener(socket.socket):
    """Accepts once it has been short of descriptors as often as asked."""

    short = refusals = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals < self.short:
            self.refusals += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


class Application:
    """Answers at once, or on `/slow` once it may."""

    def __init__(self) -> None:
        self.slow, self.go_on = threading.Semaphore(0), threading.Event()

    def __call__(self, environ, start_response) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            self.slow.release()
            self.go_on.wait(30)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]


class Running:
    """A worker in a thread of this process."""

    def __init__(self, threads: int = 4, further: Iterable[socket.socket] = ()) -> None:
        self.listener = ShortListener()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        config = Config()
        config.set("threads", threads)
        config.set("keepalive", 60)
        self.app = Application()
        self.worker = DeadlineWorker(
            1, os.getppid(), [self.listener, *further], None, 30, config, Logger(config)
        )
        self.worker.tpool = self.worker.get_thread_pool()
        self.worker.poller = selectors.DefaultSelector()
        self.worker.method_queue.init()
        self.worker.wsgi = self.app
        self.thread = threading.Thread(target=self.worker.run)
        self.connections: list[http.client.HTTPConnection] = []

    def __enter__(self) -> "Running":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.app.go_on.set()
        self.worker.handle_exit(signal.SIGTERM, None)
        self.thread.join()
        self.worker.tmp.close()
        for connection in self.connections:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that ends with the test, however that ends."""
        connection = http.client.HTTPConnection(*self.listener.getsockname(), timeout=60)
        self.connections.append(connection)
        return connection


def ask(connection: http.client.HTTPConnection, path: str = "/") -> int:
    connection.request("GET", path)
    with connection.getresponse() as reply:
        reply.read()
        return reply.status


@pytest.fixture
def running() -> Iterator[Running]:
    with Running() as running:
        yield running


def in_a_thread(running: Running, path: str) -> tuple[threading.Thread, list[int]]:
    statuses: list[int] = []
    connection = running.connect()

    def run() -> None:
        statuses.append(ask(connection, path))
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, statuses


@pytest.mark.fault("Process and machine")
def test_without_a_descriptor_the_longest_idle_connections_make_room(running) -> None:
    """Descriptors run out -> the longest idle connections are closed."""
    idle = [running.connect() for _ in range(4)]
    for number, connection in enumerate(idle, 1):
        assert ask(connection) == 200
        # A connection is idle only after its reply was read: one that is asked before may be later.
        until(lambda number=number: len(running.worker.clients.stages[Stage.IDLE]) == number)
    thread, statuses = in_a_thread(running, "/slow")
    assert running.app.slow.acquire(timeout=30)
    running.listener.short = 1
    further = running.connect()
    assert ask(further) == 200 and thread.is_alive()
    assert [ask(connection) for connection in idle[2:]] == [200, 200]
    for connection in idle[:2]:
        with pytest.raises(OSError):
            ask(connection)
    running.app.go_on.set()
    thread.join()
    assert statuses == [200]
    for connection in (further, *idle):
        connection.close()


def test_without_a_descriptor_and_without_idle_connections_it_tries_once_a_second(running) -> None:
    running.listener.short = 1000
    began = time.monotonic()
    waiting = running.connect()
    waiting.connect()
    until(lambda: running.listener.refusals >= 2)
    assert running.listener.refusals <= 1 + (time.monotonic() - began) / worker.PAUSE_S
    running.listener.short = 0
    assert ask(waiting) == 200
    waiting.close()


@pytest.mark.fault("Process and machine")
def test_a_stop_takes_the_connections_that_wait_and_refuses_further_ones(running) -> None:
    """SIGTERM under load -> waiting connections are accepted, later ones refused."""
    first, statuses = in_a_thread(running, "/slow")
    assert running.app.slow.acquire(timeout=30)
    running.listener.short = 1000
    waiting, later = in_a_thread(running, "/")
    until(lambda: running.listener.refusals)  # and it does not accept for a second
    running.listener.short = 0
    address = running.listener.getsockname()
    running.worker.handle_exit(signal.SIGTERM, None)
    until(lambda: later == [200])
    with pytest.raises(ConnectionRefusedError):
        until(lambda: socket.create_connection(address).close())
    assert not statuses
    running.app.go_on.set()
    for thread in (first, waiting):
        thread.join()
    assert statuses == [200]


def test_another_error_of_the_listener_ends_it_as_before(running) -> None:
    with pytest.raises(OSError, match="accept"):
        running.worker.accept(Broken())


class Broken:
    def accept(self) -> None:
        raise OSError(errno.EINVAL, "accept")


def test_where_no_further_thread_starts_requests_wait_for_one_there_is(
    running, monkeypatch
) -> None:
    first, statuses = in_a_thread(running, "/slow")
    assert running.app.slow.acquire(timeout=30)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("ThreadPoolExecutor"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    second, later = in_a_thread(running, "/")
    until(lambda: running.worker.warn_from)
    assert running.worker.nr_conns == 2 and not later
    running.app.go_on.set()
    for thread in (first, second):
        thread.join()
    assert (statuses, later) == ([200], [200])


def limits_after(soft: int, hard: int) -> list[int]:
    """Ask for room for 1000 in a process with these limits; return what it says, and its limit."""
    code = (
        "import resource; from server.sockets import room_for_connections as r;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "print(r(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_the_limit_of_descriptors_is_raised_and_connections_kept_below_it() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= 4096
    assert limits_after(64, 4096) == [1000, 4096]
    assert limits_after(64, 1024) == [768, 1024]
    assert limits_after(64, 128) == [64, 128]
