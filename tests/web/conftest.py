"""A service on fake models, and a browser that may reach nothing but this machine."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.conftest import free_port, running, write_models

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run",
]  # fmt: skip
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
MODELS = {
    "first": {"type": "fake", "model_name": "tests/first"},
    "second": {"type": "fake", "model_name": "tests/second", "dimensions": 24},
}


@dataclass
class Seen:
    """What a browser did that it should not have."""

    base: str
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("console", lambda m: self._note(m.text) if m.type == "error" else None)
        context.on("weberror", lambda e: self._note(str(e.error)))

    def _note(self, problem: str) -> None:
        self.problems.append(problem)

    @property
    def elsewhere(self) -> list[str]:
        return [u for u in self.requests if not u.startswith((self.base + "/", "data:", "blob:"))]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        assert os.environ.get("CI") != "true", "chromium is missing; run tests/setup.sh"
        pytest.skip("chromium is missing; run tests/setup.sh")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, ALONE])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with two fake models, as gunicorn runs it."""
    folder = tmp_path_factory.mktemp("console")
    with serving(folder) as base:
        yield base


@contextmanager
def serving(folder: Path, **env: str) -> Iterator[str]:
    """Run the service on fake models; yields its address."""
    port = free_port()
    models = write_models(folder / "models.json", MODELS)
    given = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MODEL_CONFIG": str(models),
        "SUPPORTED_MODELS_FILE": "none",
        "LOG_LEVEL": "WARNING",  # the log is a pipe that nobody reads, and would fill
        **env,
    }
    with running([sys.executable, "-m", "gunicorn", "app:app"], port, given):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def seen(url: str) -> Seen:
    return Seen(url)


@pytest.fixture
def page(browser: Browser, url: str, seen: Seen) -> Iterator[Page]:
    """A page of the console; the test fails if it logs an error or asks another machine."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    seen.watch(context)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.goto(url)
    yield page
    context.close()
    assert seen.problems == []
    assert seen.requests and seen.elsewhere == []
