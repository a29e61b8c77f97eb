"""More connections than the service keeps, and more clients that are slow than it has threads."""

import contextlib
import http.client
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

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
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
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
    """1,100 idle connections and 400 slow ones that reconnect -> `/health/live` within a second."""
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
    used = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
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
    """Twice as many clients as threads do not read their large replies -> others are served."""
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


@pytest.mark.fault("Hostile clients")
def test_large_replies_that_nobody_reads_are_not_all_kept(start, tmp_path: Path) -> None:
    """Clients do not read replies of 1.6 GB in all -> not all are kept: clients that read nothing
    are cut off. A client that reads gets the whole reply once there is room.
    """
    service = start("--threads", "64", STORE_DIR=str(tmp_path))
    texts = {"ids": list("abcd"), "embeddings": [[1, 0]] * 4, "documents": ["x" * 1_000_000] * 4}
    assert service.ask("/collections", {"name": "c", "dimension": 2})[0] == 201
    for turn in range(4):
        texts["ids"] = [f"{turn}-{i}" for i in range(4)]
        assert service.ask("/collections/c/vectors", texts)[0] == 201
    head = HEAD.replace(b"/embed ", b"/collections/c/vectors/scroll ")
    request = head + b"Content-Length: 2\r\n\r\n{}"  # 16 MB of answer
    (worker,) = service.workers()
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(service.connect()).sendall(request)
        until(lambda: any("too slow and is cut off" in line for line in service.lines), 20)

        def whole() -> bool:
            """Say whether a reader has all of a reply."""
            with service.connect() as sock, contextlib.suppress(http.client.HTTPException, OSError):
                sock.sendall(request)
                return len(json.loads(answer(sock, "POST").content)["vectors"]) == 16
            return False

        until(whole)
        assert service.embed("a") == 200 and service.healthy()
    status = Path(f"/proc/{worker}/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kb < 1400 << 10


SLOW = {
    "a length of 1 MB": HEAD + b"Content-Length: 1000000\r\n\r\n{",
    "a length of 5 MB": HEAD + b"Content-Length: 5000000\r\n\r\n{",
    "a chunk with zeros": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 16 + b"d\r\n",
    "a long extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\nd;" + b"a" * 4200,
    "leave to send it": HEAD + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n",
}


@pytest.mark.fault("Hostile clients")
@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW)
def test_bodies_that_do_not_come_hold_no_other(service, slow) -> None:
    """More bodies that stop after their first byte, or inside a chunk's line, than there are
    threads -> others are read meanwhile, large ones too.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(4 * THREADS):
            stack.enter_context(service.connect()).sendall(slow)
        began = time.monotonic()
        assert service.ask("/embed", {"texts": ["a" * 600] * 300})[0] == 200  # 180 KB
        assert service.ask("/embed", {"texts": ["a" * 60_000] * 20})[0] == 200  # 1.2 MB
        assert service.healthy()
        assert time.monotonic() - began < 15  # of the 30 s for which they could be silent


@pytest.mark.fault("Hostile clients")
def test_bodies_that_nobody_reads_keep_nobody_waiting(service) -> None:
    """40 clients send refused bodies without end -> open connections are answered at once."""
    refused = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000\r\n\r\n"
    piece, stop = b"x" * (1 << 20), threading.Event()

    def send() -> None:
        while not stop.is_set():
            with service.connect() as sock, contextlib.suppress(OSError):
                sock.sendall(refused)
                while not stop.is_set():
                    sock.sendall(piece)

    senders = [threading.Thread(target=send) for _ in range(40)]
    for sender in senders:
        sender.start()
    try:
        with probing(service, SECONDS) as found:
            time.sleep(SECONDS)
    finally:
        stop.set()
        for sender in senders:
            sender.join()
    assert not found["failed"], found["failed"]
    assert max(found["times"]) < LIVE_WITHIN_S
