"""A gunicorn that is forked warm behaves as one that a shell starts."""

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT, Server, free_port, running, write_models
from tests.servers import warm
from tests.servers.forked import Forked
from tests.servers.process import children, workers_of
from tests.servers.warm import GUNICORN, Gunicorn, can_fork, has_models

# What must be imported in the service itself: what reads the environment then, and of our modules
# all but those that only define things.
NEVER_EARLY = {"prometheus_client"}
DEFINES = {"circuit_breaker", "config", "errors", "schemas", "settings", "sql", "store"}
WITH_MODELS = {"huggingface_hub", "tokenizers", "torch", "transformers"}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    models = write_models(tmp_path / "m.json", {"f": {"type": "fake", "model_name": "tests/fake"}})
    return {"HOST": "127.0.0.1", "PORT": str(free_port()), "MODEL_CONFIG": str(models),
            "SUPPORTED_MODELS_FILE": "/none"}  # fmt: skip


@pytest.mark.parametrize("libraries", ["LIBRARIES", "DEFINITIONS", "OF_MODELS"])
def test_nothing_that_depends_on_the_environment_is_imported_early(libraries: str) -> None:
    code = (
        f"import importlib, sys\nfrom tests.servers.warm import {libraries}\n"
        f"for name in {libraries}: importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ours = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    ours -= DEFINES if libraries == "DEFINITIONS" else set()
    never = NEVER_EARLY | ours | (set() if libraries == "OF_MODELS" else WITH_MODELS)
    assert set(done.stdout.split()) & never == {"tests"}


def test_one_with_a_real_model_is_forked_with_the_libraries_as_they_were_imported(
    env: dict[str, str], tmp_path: Path
) -> None:
    local = {"type": "sentence_transformer", "model_name": "org/name"}
    real = os.environ | {"MODEL_CONFIG": str(write_models(tmp_path / "r.json", {"m": local}))}
    assert has_models(real) and has_models(
        {**real, "MODEL_CONFIG": "/none", "EMBEDDING_MODEL": "x"}
    )
    assert not has_models({**os.environ, **env})
    assert not has_models({**real, "HF_ENDPOINT": "http://127.0.0.1:9"})


def test_a_process_forks_from_one_that_another_process_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = forkserver.ForkServer()
    started.ensure_running()
    shared = warm._Shared(warm.told_of(started))
    monkeypatch.setattr(warm, "_with_models", shared)
    forked = Forked(warm._ModelsProcess(target=sys.exit, args=(3,)))
    assert forked.wait(40) == 3
    os.close(shared._forkserver_alive_fd)
    started._stop()


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "forked"])
def test_it_serves_and_ends_in_good_order(env: dict[str, str], cold: bool) -> None:
    port = int(env["PORT"])
    with running([*GUNICORN, "-w", "2", "app:app"], port, env, cold=cold) as server:
        assert isinstance(server, Gunicorn) != cold
        reply = requests.get(f"http://127.0.0.1:{port}/", timeout=30)
        assert reply.json()["available_models"] == ["tests/fake"]
        assert len(workers_of(server.pid)) == 2
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.01)
        server.send_signal(signal.SIGINT)
        assert server.wait(40) == server.poll() == 0
        assert "Shutting down" in server.log.read_text()


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "forked"])
def test_a_killed_one_says_so(env: dict[str, str], cold: bool) -> None:
    with running([*GUNICORN, "app:app"], int(env["PORT"]), env, cold=cold) as server:
        kill(server)
        assert server.wait(40) == -signal.SIGKILL


def kill(server: Server) -> None:
    for pid in [server.pid, *children(server.pid)]:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "forked"])
def test_one_that_cannot_start_says_why(env: dict[str, str], cold: bool) -> None:
    wrong = {**env, "DEVICE": "toaster"}
    with (
        pytest.raises(AssertionError, match="DEVICE=toaster"),
        running([*GUNICORN, "app:app"], int(env["PORT"]), wrong, cold=cold),
    ):
        pass


def test_what_python_reads_when_it_starts_is_no_matter_for_a_fork(env: dict[str, str]) -> None:
    env = {**os.environ, **env}
    assert can_fork([*GUNICORN, "app:app"], env)
    assert not can_fork([*GUNICORN, "app:app"], {**env, "LD_PRELOAD": "/some.so"})
    assert not can_fork([sys.executable, "app.py"], env)


def test_a_fork_finds_what_is_on_its_own_path(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("from app import app\n")
    env["PYTHONPATH"] = str(tmp_path)
    with running([*GUNICORN, "elsewhere:app"], int(env["PORT"]), env) as server:
        assert isinstance(server, Gunicorn)
