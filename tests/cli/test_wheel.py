"""The wheel: one folder that holds everything, and runs from an empty one."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
import requests

from tests.cli.conftest import run
from tests.conftest import ROOT, free_port, running
from tools.places import version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME = "embedding_service"
KEY = "a-key-of-sixteen-or-more"
# What is in the folder and not in a wheel.
LEFT = ("bench", "tests", "docs", "deploy", "examples", "build")


def test_the_wheel_has_every_package_and_the_version_of_the_change_log() -> None:
    parts = {path.relative_to(ROOT).parts[:-1] for path in ROOT.rglob("*.py")}
    ours = {
        ".".join((NAME, *each))
        for each in parts
        if not each or not (each[0] in LEFT or each[0].startswith("."))
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == ours
    assert PROJECT["project"]["version"] == version()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy, so that no file of the build stays here."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "data", *LEFT[:2])
    shutil.copytree(ROOT, folder / "source", ignore=skip)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
             "--no-index", "-w", str(folder), str(folder / "source")]  # fmt: skip
    done = subprocess.run(build, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder of packages in which the wheel is installed."""
    target = wheel.parent / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target",
               str(target), str(wheel)]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.mark.long
def test_the_wheel_has_one_name_that_no_dependency_has(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {NAME}
    assert NAME not in set(packages_distributions()) | sys.stdlib_module_names
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    assert sorted(line.removeprefix("Requires-Dist: ") for line in metadata.splitlines()
                  if line.startswith("Requires-Dist: ")) == sorted(pins)  # fmt: skip
    inside = {name.removeprefix(f"{NAME}/") for name in names}
    files = [path for folder in ("web", "routes", "sql") for path in (ROOT / folder).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts]  # fmt: skip
    assert {str(path.relative_to(ROOT)) for path in files} <= inside
    assert {"gunicorn.conf.py", "model_config.json", "CHANGELOG.md", "requirements.txt"} <= inside


@pytest.fixture
def program(installed: Path, empty: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The installed command and its environment, in an empty folder."""
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    for name in ("STORE_DIR", "DATA_DIR", "EMBEDDING_DB_URL", "MODEL_CONFIG"):
        env.pop(name, None)
    yield [str(installed / "bin" / "embedding-service")], env


@pytest.mark.long
def test_it_serves_stores_and_shows_the_console_from_an_empty_folder(
    program: tuple[list[str], dict[str, str]], empty: Path
) -> None:
    command, env = program
    port = free_port()
    url, data = f"http://127.0.0.1:{port}", empty.parent / "home/.local/share/embedding-service"
    serve = [*command, "serve", "--port", str(port), "--host", "127.0.0.1", "--key", KEY]
    unset = dict.fromkeys(("STORE_DIR", "DATA_DIR", "EMBEDDING_DB_URL"), "")
    with running(serve, port, {**env, **unset}, cwd=empty, cold=True):
        health = requests.get(f"{url}/health", timeout=60).json()
        assert health["status"] == "healthy" and health["version"] == version()
        page = requests.get(url, headers={"Accept": "text/html"}, timeout=60)
        assert page.status_code == 200 and "<html" in page.text
        assert requests.get(f"{url}/docs", timeout=60).status_code == 200
        ours = ("--url", url, "--key", KEY)
        stored = run("embed", "-", "--store", "docs", "--quiet", *ours, stdin="rain\nsun\n")
        assert stored.code == 0, stored.err
        assert "rain" in run("search", "docs", "wet weather", "-k", "1", *ours).out
        listed = subprocess.run([*command, "store", "list"], env=env, cwd=empty,
                                capture_output=True, text=True, timeout=120)  # fmt: skip
        assert "docs" in listed.stdout, listed.stderr
    assert (data / "store" / "catalog.db").is_file() and (data / "service.db").is_file()
    assert list(empty.iterdir()) == []


@pytest.mark.long
def test_several_workers_share_a_model_process_from_an_empty_folder(
    program: tuple[list[str], dict[str, str]], empty: Path
) -> None:
    command, env = program
    port = free_port()
    serve = [*command, "serve", "--port", str(port), "--host", "127.0.0.1", "--workers", "2"]
    with running(serve, port, env, cwd=empty, cold=True):
        body = {"texts": ["a", "b"]}
        reply = requests.post(f"http://127.0.0.1:{port}/embed", json=body, timeout=60)
        assert reply.json()["count"] == 2
