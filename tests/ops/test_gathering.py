"""Where there is no more room to gather requests, in process: who hardly sends makes some."""

import contextlib
import socket

import pytest

from server import clients
from tests.faults.conftest import until
from tests.faults.crowd import answer
from tests.ops.test_scarcity import Running

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"


def connect(running: Running) -> socket.socket:
    return socket.create_connection(running.listener.getsockname(), timeout=30)


@pytest.mark.fault("Hostile clients")
def test_bodies_that_fill_the_room_and_stop_are_cut_off(monkeypatch) -> None:
    """Incomplete bodies fill their 64 MB and stop -> 408 after 1 s; others are read meanwhile."""
    monkeypatch.setattr(clients, "GATHERED_LIMIT", 100_000)
    with Running() as running, contextlib.ExitStack() as stack:
        stopped = [stack.enter_context(connect(running)) for _ in range(3)]
        for sock in stopped:
            sock.sendall(HEAD.replace(b"300000", b"60000") + b"x" * 50_000)
        with connect(running) as other:
            other.sendall(HEAD + b"x" * 300_000)
            assert answer(other, "POST").status == 200
        assert [answer(sock, "POST").status for sock in stopped] == [408] * 3
        until(lambda: running.worker.clients.gathered == 0)


def test_what_was_gathered_is_not_counted_once_a_thread_has_it() -> None:
    with Running() as running, connect(running) as sock:
        for _ in range(3):
            sock.sendall(HEAD + b"x" * 300_000)
            assert answer(sock, "POST").status == 200
        sock.sendall(HEAD[:20])
        until(lambda: running.worker.clients.gathered == 20)
    assert running.worker.clients.gathered == 0
