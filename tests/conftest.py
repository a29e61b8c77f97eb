"""Fixtures that many tests share: configurations, applications and clients of them.

`fake_*` run on a tiny deterministic embedder, `real_*` on the bundled all-MiniLM-L6-v2 in float32.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config
from factory import create_app

pytest_plugins = ["tests.servers.fixtures"]

ROOT = Path(__file__).parent.parent
# A shell has what it starts in the background ignore interrupts, and so would every program that a
# test starts and interrupts: `make test &` failed where `make test` did not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What the service keeps of models (verdicts of proofs) goes to pytest's own cache: it is no part of
# the user's, and servers that start one after the other need no new proof.
os.environ.setdefault("HF_HUB_CACHE", str(ROOT / ".pytest_cache" / "hub"))


def write_models(path: Path, models: dict[str, dict], default: str | None = None) -> Path:
    """Write a model_config.json and return its path."""
    path.write_text(json.dumps({"default": default or next(iter(models)), "models": models}))
    return path


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Put the environment back after every test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[..., Config]:
    """Make a Config whose models are the given entries (default: one fake model)."""

    def make(models: dict[str, dict] | None = None, **settings: object) -> Config:
        models = models or {"fake": {"type": "fake", "model_name": "tests/fake"}}
        file = write_models(tmp_path / "model_config.json", models)
        nothing = tmp_path / "none"
        given = {"model_config_file": file, "supported_models_file": nothing,
                 "store_dir": tmp_path / "store", "data_dir": tmp_path / "data",
                 "db_url": f"sqlite:///{tmp_path}/service.db", **settings}  # fmt: skip
        return Config.model_validate(given)

    return make


@pytest.fixture
def fake_app(config_of: Callable[..., Config]) -> Flask:
    """The application on a fake model."""
    return create_app(config_of(), wait=True)


@pytest.fixture
def fake_client(fake_app: Flask) -> FlaskClient:
    """A client of the application on a fake model."""
    return fake_app.test_client()


@pytest.fixture(scope="session")
def real_app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """The application on the real weights, in float32, with the shipped model files."""
    entry = {"type": "sentence_transformer", "normalize": True, "dtype": "float32"}
    entry["model_name"] = "sentence-transformers/all-MiniLM-L6-v2"
    folder = tmp_path_factory.mktemp("real")
    file = write_models(folder / "models.json", {"minilm": entry})
    config = Config(model_config_file=file, device="cpu", store_dir=folder / "store")
    return create_app(config, wait=True)


@pytest.fixture(scope="session")
def real_client(real_app: Flask) -> FlaskClient:
    """A client of the application on the real weights."""
    return real_app.test_client()


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server(subprocess.Popen[str]):
    """A running server. Its log is a file: a pipe that nobody reads would stop it."""

    log: Path


@contextmanager
def running(
    command: list[str], port: int, env: dict[str, str], *, ready: str = "/health", cwd: Path = ROOT
) -> Iterator["Server"]:
    """Run a server until the block ends; wait until `ready` answers 200."""
    with tempfile.TemporaryDirectory() as scratch, Path(scratch, "log").open("w+") as log:
        env = {**os.environ, "STORE_DIR": f"{scratch}/store", "DATA_DIR": f"{scratch}/data",
               "EMBEDDING_DB_URL": f"sqlite:///{scratch}/service.db", **env}  # fmt: skip
        process = Server(command, cwd=cwd, env=env, text=True, stdout=log, stderr=subprocess.STDOUT)
        process.log = Path(log.name)
        try:
            _wait_for(f"http://127.0.0.1:{port}{ready}", process, log.name)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(url: str, process: subprocess.Popen[str], log: str, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"the server ended at once:\n{Path(log).read_text()}")
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer in {limit_s} s")


@contextmanager
def served(*flags: str, **env: str) -> Iterator[str]:
    """Run gunicorn as `make run` does, on a free port of loopback; give its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", *flags, "app:app"]
    with running(command, port, {"HOST": "127.0.0.1", "PORT": str(port), **env}):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start gunicorn on a free port as often as asked; each call returns a base URL."""
    with ExitStack() as stack:
        yield lambda *flags, **env: stack.enter_context(served(*flags, **env))
