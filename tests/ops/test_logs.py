"""The log: one form from the first line to the last, and no request waits for it."""

import fcntl
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import logs
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
        assert process.wait(20) == 0
        lines = [json.loads(line) for line in service.lines]
    assert {"gunicorn.error", "access"} <= {line["logger"] for line in lines}
    assert {200, 404} <= {line.get("status") for line in lines}
    assert "Shutting down" in lines[-1]["message"] or "exiting" in lines[-1]["message"]


def test_a_log_that_nobody_reads_holds_no_request(environment) -> None:
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
        assert process.wait(30) == 0


class Stuck(io.StringIO):
    """A log that takes nothing until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.go_on.wait(30)
        return super().write(text)


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "", 0, text, (), None)


def test_what_finds_no_room_is_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck()
    monkeypatch.setattr(sys, "stderr", stuck)
    handler = logs.Aside(room=3)
    logging.getLogger("log").addHandler(handler)
    try:
        for i in range(10):
            handler.emit(record(f"line {i}"))
        stuck.go_on.set()
        until(lambda: "could not be written in time" in stuck.getvalue())
        handler.flush()
    finally:
        logging.getLogger("log").removeHandler(handler)
    written = stuck.getvalue().splitlines()
    assert written[0] == "line 0"
    lost = int(written[-1].split()[0])
    assert lost in (6, 7) and len(written) == 10 - lost + 1  # one may be in the thread's hand


def test_a_log_that_cannot_be_written_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    handler = logs.Aside()
    handler.emit(record("a"))
    handler.flush()
    assert not handler._lines.unfinished_tasks
