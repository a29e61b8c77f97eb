"""Files that are given over bad lines and onto full disks: nothing half is kept, nothing lost."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Service, until
from tests.faults.test_disk import filled, on_a_small_disk

__all__ = ["on_a_small_disk"]  # a fixture
ROW = b"a row of sixty-four bytes, so that a thousand are sixty-four kB\n"


def give(service: Service, content: bytes, name: str = "a.txt") -> tuple[int, dict]:
    """Give a file; return the status and the reply."""
    url = f"{service.url}/collections/kept/files?filename={name}"
    try:
        request = urllib.request.Request(url, content, {"Accept": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def job_of(service: Service, id_: str) -> dict:
    return json.loads(service.ask(f"/jobs/{id_}")[2])


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "files").glob("*/"))


@pytest.mark.fault("Files")
def test_a_full_disk_refuses_files_and_keeps_no_half_one(on_a_small_disk) -> None:  # noqa: F811
    """The disk fills up while a file comes in, or is full -> 507, and nothing is left of it; a job
    that is under way waits for room.
    """
    service, disk = on_a_small_disk
    assert service.ask("/collections", {"name": "kept", "model": "fake"})[0] == 201
    status, reply = give(service, ROW * 250_000)  # 16 MB onto what is left of 16 MB
    assert status == 507 and "no space is left" in reply["error"]
    assert kept(disk / "store") == []
    with filled(disk):
        assert give(service, ROW)[0] == 507
        assert kept(disk / "store") == [] and service.healthy()
    status, reply = give(service, ROW * 100)
    assert status == 202
    until(lambda: job_of(service, reply["id"])["state"] == "done")
    assert job_of(service, reply["id"])["file"]["stored"] == 100


@pytest.mark.fault("Clients")
def test_a_large_file_may_take_longer_than_read_timeout(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    """A file comes in more slowly than READ_TIMEOUT allows for a request, but steadily -> it is
    taken. One of which nothing comes any more, or whose client goes away -> nothing of it is kept.
    """
    service = start(READ_TIMEOUT="2", STORE_DIR=str(tmp_path / "store"))
    assert service.ask("/collections", {"name": "kept", "model": "fake"})[0] == 201
    head = (
        b"POST /collections/kept/files?filename=a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
    )
    head += b"Connection: close\r\n\r\n"
    part = ROW * 4000  # 256 kB: four seconds more
    with service.connect() as client:
        client.sendall(head % (6 * len(part)))
        began = time.monotonic()
        for _ in range(6):
            client.sendall(part)
            time.sleep(0.6)
        assert time.monotonic() - began > 2
        reply = read(client)
    assert b" 202 " in reply.partition(b"\r\n")[0]
    id_ = json.loads(reply.partition(b"\r\n\r\n")[2])["id"]
    until(lambda: job_of(service, id_)["state"] == "done")
    assert job_of(service, id_)["done"] == 24_000
    with service.connect() as silent, service.connect() as gone:
        for client in (silent, gone):
            client.sendall(head % (6 * len(part)) + part[:70_000])
        until(lambda: len(kept(tmp_path / "store")) == 2)
        gone.close()
        assert b" 408 " in read(silent).partition(b"\r\n")[0]
    until(lambda: kept(tmp_path / "store") == [])
    assert [job["id"] for job in json.loads(service.ask("/jobs")[2])["jobs"]] == [id_]


def read(client: socket.socket) -> bytes:
    found = b""
    while piece := client.recv(65536):
        found += piece
    return found
