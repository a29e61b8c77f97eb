"""Disks that are full or may not be written: real mounts, in a namespace of the service's own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Service, until


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no byte free on a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    yield
    filler.unlink()


@pytest.fixture
def on_a_small_disk(mounted, tmp_path) -> tuple[Service, Path]:
    """A service whose store, database, other files and log share a disk of 16 MB, and that disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    service = mounted(
        f"mount -t tmpfs -o size=16m none {disk}",
        log=f"{disk}/log", STORE_DIR=f"{disk}/store", DATA_DIR=f"{disk}/data",
        EMBEDDING_USE_DB_SETTINGS="true", EMBEDDING_DB_URL=f"sqlite:///{disk}/service.db",
    )  # fmt: skip
    return service, Path(f"/proc/{service.process.pid}/root{disk}")


@pytest.mark.fault("Process and machine")
def test_a_full_disk_stops_no_embedding_and_heals(on_a_small_disk) -> None:
    """The disk is full -> embedding and search go on; writes are 507 or 503 until there is room."""
    service, disk = on_a_small_disk
    workers = service.workers()
    small = {"collection": "kept", "texts": ["a"], "ids": ["a"]}
    assert service.ask("/embed-and-store", small)[0] == 201
    assert service.ask("/settings", {"key": "max_texts", "value": 5})[0] == 200
    large = {"collection": "kept", "texts": ["w " * 30_000], "ids": ["large"]}
    with filled(disk):
        written = (disk / "log").stat().st_size
        assert [service.embed("b", "c") for _ in range(50)] == [200] * 50
        status, headers, body = service.ask("/embed-and-store", large)
        assert status == 507 and b"full" in body and int(headers["Retry-After"]) > 0
        for value in range(6, 300):  # the first ones fit into the log as it is
            status, _, body = service.ask("/settings", {"key": "max_texts", "value": value})
            if status != 200:
                break
        assert status == 503 and b"full" in body
        assert json.loads(service.ask("/settings/max_texts")[2])["value"] == value - 1
        assert service.healthy() and found(service) == ["a"]
        assert (disk / "log").stat().st_size - written < 4096
    assert service.ask("/embed-and-store", large)[0] == 201
    assert service.ask("/settings", {"key": "max_texts", "value": 6})[0] == 200
    assert sorted(found(service)) == ["a", "large"] and service.workers() == workers
    until(lambda: (disk / "log").read_text().count(" path=/embed ") == 50)  # they waited for room


def found(service: Service) -> list[str]:
    """Search the collection; return the ids."""
    reply = json.loads(service.ask("/collections/kept/search", {"text": "a", "k": 5})[2])
    assert "results" in reply, reply
    return [hit["id"] for hit in reply["results"]]


@pytest.mark.fault("Process and machine")
def test_a_full_metrics_directory_is_not_used(mounted, tmp_path) -> None:
    """`METRICS_DIR` is full -> it is not used.

    Its files are mapped: a worker that wrote to one on a full disk would be killed (SIGBUS).
    """
    disk = tmp_path / "numbers"
    disk.mkdir()
    service = mounted(
        f"mount -t tmpfs -o size=100k none {disk}", "--workers", "2", METRICS_DIR=str(disk)
    )
    until(lambda: len(service.workers()) == 2)  # one that is there answers for both
    before = service.workers()
    for _ in range(20):
        assert service.embed("a") == 200
    assert (
        b'embedding_requests_total{method="POST",route="/embed",status="200"} 20.0'
        in (service.ask("/metrics")[2])
    )
    assert service.workers() == before and len(before) == 2
    assert any("METRICS_DIR" in line and "another place" in line for line in service.lines)


@pytest.mark.fault("Process and machine")
def test_it_serves_from_a_read_only_root(mounted, tmp_path) -> None:
    """Nothing can be written but `/dev/shm` -> it starts and embeds; `/health` says degraded."""
    read_only = f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}"
    service = mounted(
        f"{read_only}; mount -o remount,bind,ro /",
        STORE_DIR=f"{tmp_path}/store", DATA_DIR=f"{tmp_path}/data", HOME=str(tmp_path),
        EMBEDDING_DB_URL=f"sqlite:///{tmp_path}/db/service.db", EMBEDDING_USE_DB_SETTINGS="true",
    )  # fmt: skip
    with pytest.raises(OSError, match="Read-only"):  # it really is one
        Path(f"/proc/{service.process.pid}/root{tmp_path}/proof").touch()
    assert service.embed("a", "b") == 200 and service.healthy()
    assert service.ask("/embed-and-store", {"collection": "c", "texts": ["a"]})[0] == 503
    assert service.ask("/settings", {"key": "max_texts", "value": 6})[0] == 503
    degraded = json.loads(service.ask("/health")[2])["degraded"]
    assert degraded and service.embed("a") == 200
