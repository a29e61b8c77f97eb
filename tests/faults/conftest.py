"""A real gunicorn on the hurting embedder, and the sockets that treat it badly."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.conftest import Server, free_port, running, write_models
from tests.servers.process import workers_of

NO_REPLY = (OSError, HTTPException)  # nobody there yet, or killed before or amid its answer


class Service:
    """One running gunicorn."""

    def __init__(self, port: int, process: Server) -> None:
        self.port, self.process = port, process
        self.url = f"http://127.0.0.1:{port}"

    @property
    def lines(self) -> list[str]:
        """What it has logged so far."""
        return self.process.log.read_text().splitlines(keepends=True)

    def ask(
        self,
        path: str,
        body: object = None,
        timeout: float = 30,
        method: str | None = None,
        **headers: str,
    ) -> tuple[int, dict, bytes]:
        """Send one request; return status, headers and body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, dict(exc.headers), exc.read()

    def embed(self, *texts: str, **options: object) -> int:
        """Embed texts and return the status."""
        return self.ask("/embed", {"texts": list(texts), **options})[0]

    def healthy(self) -> bool:
        """Say whether /health answers 200."""
        try:
            return self.ask("/health", timeout=2)[0] == 200
        except NO_REPLY:
            return False

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def workers(self) -> list[int]:
        """Return the pids of the workers."""
        return workers_of(self.process.pid)

    def signal(self, which: signal.Signals) -> None:
        """Send the master a signal."""
        os.kill(self.process.pid, which)


def until(condition: Callable[[], object], limit_s: float = 90) -> None:
    """Wait for a condition; fail if it does not come. The limit is for what hangs, however busy."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def models_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One fake model."""
    folder = tmp_path_factory.mktemp("models")
    return write_models(folder / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})


@contextmanager
def starting(models_file: Path) -> Iterator[Callable[..., Service]]:
    with ExitStack() as stack:

        def begin(
            *flags: str, ready: str = "/health", app: str = "tests.faults.hurting:app", **env: str
        ) -> Service:
            port = free_port()
            command = [sys.executable, "-m", "gunicorn", *flags, app]
            env = {
                "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(models_file),
                "SUPPORTED_MODELS_FILE": "/nonexistent", "THREADS": "16", "CACHE": "none", **env,
            }  # fmt: skip
            process = stack.enter_context(running(command, port, env, ready=ready))
            return Service(port, process)

        yield begin


@pytest.fixture
def start(models_file: Path) -> Iterator[Callable[..., Service]]:
    """Start gunicorn on the hurting embedder, as often as asked."""
    with starting(models_file) as begin:
        yield begin


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A file that holds each pass with the word `held`, until it is unlinked: `start(HELD=...)`.

    So a test that interrupts requests has them under way for certain.
    """
    file = tmp_path / "held"
    file.touch()
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def start_for_all(models_file: Path) -> Iterator[Callable[..., Service]]:
    """Start it for all tests of a file, which tell their own doings from the others'."""
    with starting(models_file) as begin:
        yield begin


# A user without rights gets them in a namespace of users of its own, where the kernel allows that.
NAMESPACE = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-U", "-r", "-m"]


@pytest.fixture
def mounted(models_file: Path) -> Iterator[Callable[..., Service]]:
    """Start the service with mounts of its own, which nothing else on the machine sees."""
    done = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True)
    if done.returncode:
        reason = f"mounts of one's own are not allowed here: {done.stderr.strip()}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with ExitStack() as stack:

        def begin(mounts: str, *flags: str, log: str = "/dev/stderr", **env: str) -> Service:
            port = free_port()
            serve = [sys.executable, "-m", "gunicorn", *flags, "tests.faults.hurting:app"]
            command = [*NAMESPACE, "sh", "-ec", f"{mounts}; exec {' '.join(serve)} 2>>{log}"]
            env = {
                "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(models_file),
                "SUPPORTED_MODELS_FILE": "/nonexistent", "THREADS": "16", **env,
            }  # fmt: skip
            return Service(port, stack.enter_context(running(command, port, env)))

        yield begin
