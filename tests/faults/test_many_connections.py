"""More connections than the service keeps, and more clients that are slow than it has threads."""

import contextlib
import http.client
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.faults.conftest import Service, until
from tests.faults.crowd import answer
from tests.faults.test_clients import HEAD, SLOW_HEADERS

THREADS = 32
SECONDS = 3.0
LIVE_WITHIN_S = 1.0
# A probe in a process of its own: the test's own threads would make it late.
PROBE = """
import http.client, json, sys, time
port, seconds = int(sys.argv[1]), float(sys.argv[2])
times, failed, until = [], [], time.monotonic() + seconds
while time.monotonic() < until:
    began = time.monotonic()
    try:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("GET", "/health/live")
        if client.getresponse().status != 200:
            failed.append("status")
        client.close()
    except Exception as exc:
        failed.append(repr(exc))
    times.append(time.monotonic() - began)
    time.sleep(0.05)
print(json.dumps({"times": times, "failed": failed}))
"""


@pytest.fixture(scope="module")
def service(start_for_all) -> Service:
    return start_for_all("--threads", str(THREADS), DIMENSION="1024")


@contextlib.contextmanager
def open_files(count: int) -> Iterator[None]:
    """Let this process have so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def probing(service: Service, seconds: float) -> Iterator[dict[str, list]]:
    """Ask for /health/live from another process while the block runs; then give what came."""
    found: dict[str, list] = {}
    command = [sys.executable, "-c", PROBE, str(service.port), str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield found
        found.update(json.loads(process.communicate()[0]))


@pytest.mark.fault("Hostile clients")
def test_idle_and_slow_connections_beyond_the_limit_keep_nobody_waiting(service) -> None:
    """1,100 idle connections and 400 slow ones that come anew -> `/health/live` within a second."""
    with open_files(4096), contextlib.ExitStack() as stack:
        idle = [stack.enter_context(service.connect()) for _ in range(1100)]
        with probing(service, SECONDS) as found:
            slow: list[socket.socket] = []
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                slow.append(service.connect())
                slow[-1].sendall(SLOW_HEADERS)
                if len(slow) > 400:  # it comes anew
                    slow.pop(0).close()
                if len(slow) % 40 == 0:
                    for sock in slow:
                        with contextlib.suppress(OSError):
                            sock.sendall(b"a")
                    time.sleep(0.05)
            for sock in slow:
                sock.close()
        assert idle and not found["failed"], found["failed"]
        assert max(found["times"]) < LIVE_WITHIN_S
    assert service.embed("a") == 200


def test_a_connection_that_is_used_outlives_those_that_were_never(service) -> None:
    used = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    with open_files(4096), contextlib.ExitStack() as stack:
        for turn in range(1200):
            stack.enter_context(service.connect())
            if turn % 100 == 0:
                used.request("GET", "/health/live")
                with used.getresponse() as reply:
                    assert reply.status == 200 and reply.read()
                    assert not reply.will_close
    used.close()


@pytest.mark.fault("Hostile clients")
def test_more_readers_that_take_nothing_than_there_are_threads_hold_nobody(service) -> None:
    """Large replies that twice as many clients as threads do not read -> others are served."""
    body = json.dumps({"texts": ["a"] * 200}).encode()  # 2 MB of answer
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(service.connect()) for _ in range(2 * THREADS)]
        for sock in held:
            sock.sendall(request)
            assert sock.recv(1, socket.MSG_PEEK)  # the reply is there, and too large for the kernel
        assert service.embed("a") == 200 and service.healthy()
        whole = answer(held[0], "POST")  # whoever comes to read it has all of it
        assert len(json.loads(whole.content)["embeddings"]) == 200


def test_threads_that_read_slow_bodies_are_half_of_them_at_most(service) -> None:
    large = HEAD + b"Content-Length: 300000\r\n\r\n{"
    with contextlib.ExitStack() as stack:
        for _ in range(2 * THREADS):
            stack.enter_context(service.connect()).sendall(large)
        until(lambda: service.embed("a") == 200)
        assert service.healthy()
