"""Fixtures that many tests share: configurations, applications and clients of them.

`fake_*` run on a tiny deterministic embedder, `real_*` on the bundled all-MiniLM-L6-v2 in float32.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from flask import Flask
from flask.testing import FlaskClient
from xdist.scheduler import LoadScopeScheduling

from config import Config
from factory import create_app
from tests.servers import warm
from tests.servers.process import free_port

pytest_plugins = ["tests.servers.fixtures"]

ROOT = Path(__file__).parent.parent
# A shell has what it starts in the background ignore interrupts, and so would every program that a
# test starts and interrupts: `make test &` failed where `make test` did not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What the service keeps of models (verdicts of proofs) goes to pytest's own cache: it is no part of
# the user's, and servers that start one after the other need no new proof.
os.environ.setdefault("HF_HUB_CACHE", str(ROOT / ".pytest_cache" / "hub"))

# The tests of this folder share one service.
TOGETHER = "dialects/clients/"
# These start first: one that started last would keep a process when the others are done.
LONGEST = [
    "real_url", TOGETHER, "soak/test_soak.py", "fuzz/test_fuzz.py",
    "store/test_sql_contract.py", "settings/test_swap_under_load.py",
    "model_process/test_service_workers.py", "model_process/test_service_faults.py",
    "bench/test_gpu.py",
    "store/test_ann.py", "settings/test_faults.py", "test_server.py", "zoo/test_zoo.py",
    "zoo/test_encoders.py", "faults/test_machine.py", "web/test_accounts.py",
    "providers/test_remote_replica.py", "zoo/test_decoders.py", "ops/test_openapi_calls.py",
    "embedders/test_local.py", "test_first_start.py", "web/test_files.py",
    "web/test_true.py", "faults/test_stop.py", "gpu/test_passes.py", "faults/test_process.py",
    "web/test_newcomer.py", "speed/test_packed.py",
    "store/test_sql_search.py", "scale/test_topology.py", "web/test_docs_pages.py",
    "store/test_sql_faults.py", "web/test_other_origins.py", "ops/test_proxies.py",
    "web/test_console.py", "cache/test_redis_faults.py", "ops/test_deploy_page.py",
]  # fmt: skip
ON_THE_REAL_MODEL = {"test_docs.py", "clients/test_clients.py", "clients/test_examples.py"}


class ByFile(LoadScopeScheduling):
    """Runs the tests of a file in one process; and those of the files that share `real_url`."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(nodeid: str) -> str:
    """Return what a test runs with: its file, the folder `TOGETHER`, or `real_url`.

    A part of a long test runs alone.
    """
    if "[part " in nodeid:
        return nodeid
    file = nodeid.partition("::")[0].removeprefix("tests/")
    if file.startswith(TOGETHER):
        return TOGETHER
    return "real_url" if file in ON_THE_REAL_MODEL else file


def pytest_configure(config: pytest.Config) -> None:
    """Have the processes of a run of all tests share what takes long to start."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        warm.share()


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collectstart() -> None:
    """Have nothing look through what the collection makes, a million objects for good.

    That takes a quarter of its CPU: 9.8 s, and 7.2 s without it (2 cores of an EPYC, 2026-11).
    """
    gc.disable()


def pytest_collection_finish() -> None:
    """Spare the garbage collector what the collection made."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {unit: at for at, unit in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(unit_of(item.nodeid), len(rank)))


@pytest.fixture(scope="session")
def real_url() -> Iterator[str]:
    """A service as `make run` starts it, for all."""
    with served() as base:
        yield base


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


class Server(Protocol):
    """A running server: what `subprocess.Popen` and `tests.servers.warm.Gunicorn` both have."""

    pid: int
    log: Path  # a file: a full pipe would stop the server

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Started(subprocess.Popen[bytes]):
    """A server as a shell starts it."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            super().__init__(command, cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT)


@contextmanager
def running(
    command: list[str], port: int, env: dict[str, str], *, ready: str = "/health",
    cwd: Path = ROOT, cold: bool = False,
) -> Iterator[Server]:  # fmt: skip
    """Run a server until the block ends; wait until `ready` answers 200.

    A gunicorn is forked from a process that has its libraries, unless it is to start `cold`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        env = {**os.environ, "STORE_DIR": f"{scratch}/store", "DATA_DIR": f"{scratch}/data",
               "EMBEDDING_DB_URL": f"sqlite:///{scratch}/service.db", **env}  # fmt: skip
        log = Path(scratch, "log")
        log.touch()
        start = Started if cold or not warm.can_fork(command, env) else warm.Gunicorn
        process: Server = start(command, cwd, env, log)
        try:
            _wait_for(f"http://127.0.0.1:{port}{ready}", process)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(url: str, process: Server, limit_s: float = 300) -> None:
    end, pause = time.monotonic() + limit_s, 0.02
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"the server ended at once:\n{process.log.read_text()}")
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(pause)
    raise AssertionError(f"{url} did not answer in {limit_s} s")


@contextmanager
def served(*flags: str, cold: bool = False, **env: str) -> Iterator[str]:
    """Run gunicorn as `make run` does, on a free port of loopback; give its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", *flags, "app:app"]
    with running(command, port, {"HOST": "127.0.0.1", "PORT": str(port), **env}, cold=cold):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start gunicorn on a free port as often as asked; each call returns a base URL."""
    with ExitStack() as stack:
        yield lambda *flags, **given: stack.enter_context(served(*flags, **given))
