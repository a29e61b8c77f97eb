"""A service on the fake model, under load, for what watches it."""

import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, running, write_models


class Watched:
    """A running service: its ports, and something that calls it all the time."""

    def __init__(self, port: int, metrics_port: int, workers: int) -> None:
        self.workers = workers
        self.port, self.metrics_port = port, metrics_port

    def get(self, path: str, port: int | None = None, **headers: str) -> tuple[bytes, dict]:
        """Fetch a path of either port."""
        url = f"http://127.0.0.1:{port or self.port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
            return reply.read(), dict(reply.headers)

    def send(self, method: str, path: str, body: object = None) -> int:
        """Send a request; return the status."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code

    def embed(self, texts: list[str]) -> dict:
        """Embed texts."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/embed",
            json.dumps({"texts": texts}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            return json.loads(reply.read())


@pytest.fixture(scope="module", params=["1", "4"], ids=["one worker", "four workers"])
def watched(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Watched]:
    """The service with ENABLE_METRICS, with one worker and with four."""
    folder: Path = tmp_path_factory.mktemp("watched")
    file = write_models(folder / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    port, metrics_port = free_port(), free_port()
    env = {
        "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(file),
        "SUPPORTED_MODELS_FILE": str(folder / "none"), "ENABLE_METRICS": "true",
        "METRICS_PORT": str(metrics_port), "MAX_WORKERS": request.param, "LOG_LEVEL": "WARNING",
        "CACHE": "none",
    }  # fmt: skip
    with running([sys.executable, "-m", "gunicorn", "app:app"], port, env):
        yield Watched(port, metrics_port, int(request.param))


@pytest.fixture
def load(watched: Watched) -> Iterator[None]:
    """Call the service until the test ends."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            watched.embed(["a b c", "d " * 30])

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()
