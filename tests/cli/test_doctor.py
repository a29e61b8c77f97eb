"""`doctor` finds what is really wrong: each test breaks one part."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Done, run
from tests.conftest import ROOT, free_port, write_models
from tests.faults.conftest import NAMESPACE
from tests.servers.hub import Hub
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

FAKE = {"fake": {"type": "fake", "model_name": "tests/fake"}}
Findings = dict[str, dict[str, str]]


@pytest.fixture(autouse=True)
def well(empty: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a free port of its own, where nothing is wrong."""
    monkeypatch.setenv("MODEL_CONFIG", str(write_models(empty / "models.json", FAKE)))
    monkeypatch.setenv("EMBEDDING_PORT", str(free_port()))
    monkeypatch.setenv("EMBEDDING_HOST", "127.0.0.1")
    return empty


def look(code: int = 0, **environment: str) -> Findings:
    """Return what `doctor` finds, by name, after checking that it ended so."""
    done = run("doctor", "--json", **environment)
    assert done.code == code, done.out
    found = {each["name"]: each for each in done.json["findings"]}
    assert done.json["problems"] == sum(each["state"] == "problem" for each in found.values())
    return found


def is_problem(finding: dict[str, str], *words: str) -> None:
    """Check a problem's state, what it says, and that it says what to do."""
    assert finding["state"] == "problem" and finding["do"], finding
    for word in words:
        assert word in finding["fact"], finding


def test_where_nothing_is_wrong_it_ends_with_0(well: Path, hub: Hub) -> None:
    found = look()
    for name in ("settings", "Python", "packages", "CPU", "memory", "GPU", "access", "model fake",
                 "hub", "model folder", "data folder", "store folder", "port",
                 "database"):  # fmt: skip
        assert found[name]["state"] in ("ok", "warning"), found[name]
    assert "dtype" in found["CPU"]["fact"] and hub.url in found["hub"]["fact"]
    assert found["port"]["state"] == found["hub"]["state"] == "ok"
    assert [path.name for path in well.iterdir()] == ["models.json"]
    assert not (well.parent / "home").exists()  # it changed nothing


def test_a_person_reads_a_line_each_and_what_to_do() -> None:
    done: Done = run("doctor", EMBEDDING_HOST="0.0.0.0")
    assert done.code == 0 and "ok       port" in done.out
    assert "-> ask for a key" in done.out and "0 problems, 1 warnings" in done.out.splitlines()[-1]


def test_a_port_that_is_taken_is_a_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = look(1, EMBEDDING_PORT=port)
    is_problem(found["port"], port, "taken")


def test_a_port_on_which_the_service_runs_is_well(fake_url: str) -> None:
    found = look(EMBEDDING_PORT=fake_url.rpartition(":")[2])
    assert found["port"]["state"] == "ok" and "this service runs there" in found["port"]["fact"]


def test_an_address_of_another_machine_is_a_problem() -> None:
    is_problem(look(1, EMBEDDING_HOST="192.0.2.1")["port"], "192.0.2.1")


def test_a_redis_that_is_away_is_a_problem_and_a_living_one_is_well(redis_server: Redis) -> None:
    on = {"REDIS_ENABLED": "true"}
    dead = look(1, REDIS_URL=f"redis://:secret@127.0.0.1:{free_port()}/0", **on)["Redis"]
    is_problem(dead, "does not answer")
    assert "secret" not in str(dead)
    assert look(REDIS_URL=redis_server.url(), **on)["Redis"]["state"] == "ok"
    assert "Redis" not in look()


def test_a_database_that_is_away_is_a_problem_and_a_living_one_is_well(postgres: Postgres) -> None:
    dead = f"postgresql://user:secret@127.0.0.1:{free_port()}/name"
    found = look(1, EMBEDDING_DB_URL=dead, STORE_URL=dead)
    is_problem(found["database"])
    is_problem(found["vector store"])
    assert "secret" not in str(found)
    url = postgres.database()
    found = look(EMBEDDING_DB_URL=url, STORE_URL=url)
    assert found["database"]["state"] == found["vector store"]["state"] == "ok"


def test_a_database_file_that_is_damaged_is_a_problem(well: Path) -> None:
    (well / "service.db").write_bytes(b"no database " * 1000)
    is_problem(look(1, EMBEDDING_DB_URL=f"sqlite:///{well}/service.db")["database"])


def test_settings_that_stop_the_start_are_problems_each(well: Path) -> None:
    done = run("doctor", "--json", EMBEDDING_DEVICE="toaster", THREADS="1", EMBEDING_HOST="x")
    found = [each for each in done.json["findings"] if each["name"] == "settings"]
    assert done.code == 1 and len(found) == 2
    assert any("toaster" in each["fact"] for each in found) and all(each["do"] for each in found)


def test_a_name_that_is_no_setting_is_a_warning() -> None:
    done = run("doctor", "--json", EMBEDDING_MODLE="x")
    (found,) = [f for f in done.json["findings"] if "EMBEDDING_MODLE" in f["fact"]]
    assert done.code == 0 and found["state"] == "warning"


def test_a_model_that_is_nowhere_is_a_problem_without_a_hub(
    hub: Hub, well: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"SUPPORTED_MODELS": "org/absent", "EMBEDDING_MODEL_CACHE_DIR": str(well / "cache")}
    found = look(0, **named)
    assert found["model org/absent"]["state"] == "warning"
    assert found["model org/absent"]["do"] == "embedding-service pull org/absent"
    assert found["hub"]["state"] == "ok" and "org/absent" in found["hub"]["fact"]
    hub.stop()
    is_problem(look(1, **named)["hub"], "cannot be reached", "org/absent")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    is_problem(look(1, **named)["hub"], "HF_HUB_OFFLINE")
    assert look()["hub"]["state"] == "ok"


def test_a_folder_of_a_model_that_lacks_files_is_a_problem(well: Path) -> None:
    (well / "half").mkdir()
    (well / "half" / "config.json").write_text("{}")
    is_problem(look(1, SUPPORTED_MODELS=str(well / "half"))[f"model {well}/half"], "not whole")


def test_a_provider_without_a_key_is_a_warning(well: Path) -> None:
    models = {**FAKE, "far": {"type": "openai", "model_name": "text-embedding-3-small"}}
    file = str(write_models(well / "models.json", models))
    assert look(MODEL_CONFIG=file)["model far"]["state"] == "warning"
    assert look(MODEL_CONFIG=file, OPENAI_API_KEY="sk-x")["model far"]["state"] == "ok"


def test_a_gpu_that_is_asked_for_and_not_there_is_a_problem() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    is_problem(look(1, EMBEDDING_DEVICE="cuda")["GPU"], "DEVICE=cuda")


@pytest.mark.parametrize(
    ("smi", "said"),
    [("echo 550.54.15", "driver 550.54.15"),
     ("echo 'NVML: Driver/library version mismatch'; exit 9", "nvidia-smi fails: NVML"),
     (None, "no nvidia-smi")],
)  # fmt: skip
def test_a_driver_whose_gpu_torch_cannot_use_is_a_problem(
    well: Path, monkeypatch: pytest.MonkeyPatch, smi: str | None, said: str
) -> None:
    """The device's file is there, and this machine's torch finds no GPU behind it."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (well / "nvidiactl").touch()
    monkeypatch.setattr("observability.machine.NVIDIA", (str(well / "nvidiactl"),))
    path = well / "bin"
    path.mkdir()
    if smi:
        (path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
        (path / "nvidia-smi").chmod(0o755)
    found = look(1, PATH=f"{path}:/usr/bin:/bin" if smi else str(path))["GPU"]
    is_problem(found, said, "build without CUDA" if torch.version.cuda is None else "finds no GPU")


def test_a_folder_that_is_no_folder_is_a_problem(well: Path) -> None:
    (well / "file").write_text("")
    found = look(1, STORE_DIR=str(well / "file" / "store"))
    is_problem(found["store folder"], "cannot be written")


may_mount = pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
    reason="needs the right to mount",
)


@may_mount
def test_folders_that_are_read_only_or_full_are_problems(well: Path) -> None:
    """The data are on a read-only disk, the store on one of a megabyte."""
    for name in ("data", "store"):
        (well / name).mkdir()
    mounts = (
        "mount --bind data data && mount -o remount,bind,ro data; "
        "mount -t tmpfs -o size=1m none store"
    )
    command = shlex.join([sys.executable, str(ROOT / "cli.py"), "doctor"])
    env = {**os.environ, "DATA_DIR": "data", "STORE_DIR": "store", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*NAMESPACE, "sh", "-ec", f"{mounts}; exec {command}"], cwd=well, env=env,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    (data,) = [each for each in lines if " data folder " in each]
    (store,) = [each for each in lines if " store folder " in each]
    assert data.startswith("problem") and "Read-only file system" in data
    assert store.startswith("problem") and "0.0 GB free" in store
