"""The log: one form from the first line to the last, and no request waits for it."""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from observability import logs
from tests.conftest import ROOT, free_port, running, write_models
from tests.faults.conftest import Service, until


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    file = write_models(tmp_path / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    return {
        "HOST": "127.0.0.1", "PORT": str(free_port()), "MODEL_CONFIG": str(file),
        "SUPPORTED_MODELS_FILE": str(tmp_path / "none"), "STORE_DIR": str(tmp_path / "store"),
        "DATA_DIR": str(tmp_path), "EMBEDDING_DB_URL": f"sqlite:///{tmp_path}/service.db",
    }  # fmt: skip


GUNICORN = [sys.executable, "-m", "gunicorn", "app:app"]


def test_every_line_is_json_where_that_is_asked(environment) -> None:
    port = int(environment["PORT"])
    with running(GUNICORN, port, {**environment, "LOG_FORMAT": "json"}) as process:
        service = Service(port, process)
        assert service.ask("/embed/x%0a%1b[31m", {"texts": "a"})[0] == 404
        assert service.embed("a") == 200
        service.signal(signal.SIGHUP)
        until(lambda: sum("Booting worker" in line for line in service.lines) == 2)
        until(service.healthy)
        service.signal(signal.SIGTERM)
        assert process.wait(40) == 0
        lines = [json.loads(line) for line in service.lines]
    assert {"gunicorn.error", "access"} <= {line["logger"] for line in lines}
    assert {200, 404} <= {line.get("status") for line in lines}
    assert "Shutting down" in lines[-1]["message"] or "exiting" in lines[-1]["message"]


@pytest.mark.fault("Process and machine")
def test_a_log_that_nobody_reads_holds_no_request(environment) -> None:
    """The log is not read -> no request waits."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    env = {**os.environ, **environment}
    process = subprocess.Popen(GUNICORN, cwd=ROOT, env=env, text=True, stderr=write)
    os.close(write)
    service = Service(int(environment["PORT"]), process)  # type: ignore[arg-type]
    try:
        until(service.healthy, 90)
        assert [service.embed("a") for _ in range(100)] == [200] * 100  # 15 kB of lines
    finally:
        process.terminate()
        with os.fdopen(read) as log:  # to its end, which is the process's
            assert "Booting worker" in log.read()
        assert process.wait(40) == 0


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "", 0, text, (), None)


class Attempts:
    """Stands in for `os.write` and notes how often it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._write = 0, os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, data: bytes) -> int:
        self.count += 1
        return self._write(descriptor, data)


@pytest.fixture
def descriptor() -> Iterator[int]:
    """A log on a full disk. It stays open: the handler's thread has no end."""
    yield os.open("/dev/full", os.O_WRONLY)


def heal(descriptor: int, file: Path) -> None:
    """Make room: what is written from now on goes to a file."""
    with file.open("wb") as healthy:
        os.dup2(healthy.fileno(), descriptor)


@pytest.mark.fault("Process and machine")
def test_what_finds_no_room_is_counted_and_told(descriptor, tmp_path) -> None:
    """The log is not read -> lines beyond 20,000 are dropped, and a later line counts them."""
    handler = logs.BackgroundHandler(3, descriptor)
    handler.emit(record("line 0"))
    until(handler._lines.empty)  # it is in the thread's hand
    for i in range(1, 10):
        handler.handle(record(f"line {i}"))
    heal(descriptor, tmp_path / "log")
    until(lambda: not handler._lines.unfinished_tasks)
    told = "6 lines could not be written in time"
    expected = ["line 0", "line 1", "line 2", "line 3", told]
    assert (tmp_path / "log").read_text().splitlines() == expected


@pytest.mark.fault("Process and machine")
def test_a_full_disk_costs_few_attempts_and_no_line_that_has_room(
    descriptor, tmp_path, monkeypatch
) -> None:
    """The log's disk is full -> lines wait in memory."""
    attempts = Attempts(monkeypatch)
    handler = logs.BackgroundHandler(descriptor=descriptor)
    expected = [f"line {i}" for i in range(100)]
    began = time.monotonic()
    for text in expected:
        handler.handle(record(text))
    handler.flush()  # comes to an end, though nothing was written
    took_s = time.monotonic() - began
    assert 1 <= attempts.count <= 2 + took_s / logs.RETRY_S
    assert handler._lines.unfinished_tasks == 100
    heal(descriptor, tmp_path / "log")
    until(lambda: not handler._lines.unfinished_tasks)
    assert (tmp_path / "log").read_text().splitlines() == expected


def test_a_line_that_is_written_in_parts_is_written_once(tmp_path, monkeypatch) -> None:
    read, write = os.pipe()  # stays open, like the handler's thread
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    monkeypatch.setattr(logs, "RETRY_S", 0.01)
    handler = logs.BackgroundHandler(descriptor=write)
    text = "".join(map(str, range(5_000)))
    handler.handle(record(text + "\ud800"))
    with os.fdopen(read) as log:
        assert log.readline() == text + "\\ud800\n"
    handler.flush()
