"""Services, hubs, and `embedding-service` as a person types it, run in this process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from typer.testing import CliRunner

from cli import app
from tests.clients.conftest import fake_service
from tests.servers.hub import Hub


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


def run(*words: object, stdin: str = "", **environment: str) -> Done:
    """Run one command. A traceback fails the test."""
    done = CliRunner().invoke(app, list(map(str, words)), input=stdin, env=environment)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="package")
def fake_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service on a fake model, without a key."""
    with fake_service(tmp_path_factory.mktemp("service")) as url:
        yield url


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A service that asks for a key, and an administrator's token."""
    settings = {"AUTH_ENABLED": "true", "ADMIN_PASSWORD": "a-long-one",
                "JWT_SECRET_KEY": "signs-the-tokens-of-this-test-only-0"}  # fmt: skip
    with fake_service(tmp_path_factory.mktemp("guarded"), **settings) as url:
        form = {"username": "admin", "password": "a-long-one"}
        yield url, requests.post(f"{url}/token", data=form, timeout=60).json()["access_token"]


@pytest.fixture
def at(fake_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The service that the environment names."""
    monkeypatch.setenv("EMBEDDING_SERVICE_URL", fake_url)
    return fake_url


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, in a home of its own."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without models, for this process."""
    with Hub(tmp_path / "hub") as served:
        served.folder.mkdir()
        served.serve_here(monkeypatch)
        yield served
