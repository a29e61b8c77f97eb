"""Services on fake models, open and guarded, and a browser that may reach only this machine."""

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.conftest import free_port, running, write_models
from tests.providers.server import FakeProvider

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run",
]  # fmt: skip
LAN = "box.local"  # this machine by another name: to a browser no secure context over plain HTTP
EVIL = "evil.example"  # a stranger's name that was made to lead to this machine
ALONE = (
    f"--host-resolver-rules=MAP {LAN} 127.0.0.1, MAP {EVIL} 127.0.0.1, MAP * ~NOTFOUND, "
    "EXCLUDE 127.0.0.1, EXCLUDE localhost"
)
MODELS = {
    "first": {"type": "fake", "model_name": "tests/first"},
    "second": {"type": "fake", "model_name": "tests/second", "dimensions": 24},
    "away": {"type": "openai", "model_name": "text-embedding-3-small"},
}
PASSWORD = "correct-horse-battery"
expect.set_options(timeout=60_000)  # for what hangs, however busy the machine
ROLES = {"rita": "reader", "uma": "user", "ada": "admin"}


@dataclass
class Seen:
    """What a browser did that it should not have.

    A browser logs every reply of 400 and more as an error; a test names those it brings about.
    """

    base: str
    expected: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("console", lambda m: self._note(m.text) if m.type == "error" else None)
        context.on("weberror", lambda e: self._note(str(e.error)))

    def _note(self, problem: str) -> None:
        if not any(f"responded with a status of {status} " in problem for status in self.expected):
            self.problems.append(problem)

    @property
    def elsewhere(self) -> list[str]:
        return [u for u in self.requests if not u.startswith((self.base + "/", "data:", "blob:"))]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    # Its shell for programs takes a quarter of the CPU for a page.
    path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
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


@dataclass
class Guarded:
    """A service that asks who one is, with a user of each role, and the provider it may call."""

    url: str
    provider: FakeProvider
    token: str = ""

    def ask(self, method: str, path: str, body: object = None) -> dict:
        return ask(self.url, method, path, body, self.token)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A service with accounts, on the same models; openai's key opens the fake provider."""
    provider = FakeProvider()
    away = {**MODELS["away"], "base_url": f"{provider.url}/v1", "provider": "openai"}
    env = {
        "AUTH_ENABLED": "true",
        "JWT_SECRET_KEY": "tests-" * 8,
        "ADMIN_PASSWORD": PASSWORD,
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "PROVIDER_NETWORKS": "127.0.0.0/8",
        "PROVIDER_HTTP_HOSTS": "127.0.0.1",
    }
    with serving(tmp_path_factory.mktemp("guarded"), {**MODELS, "away": away}, **env) as base:
        there = Guarded(base, provider)
        there.token = ask(base, "POST", "/token", {"username": "admin", "password": PASSWORD})[
            "access_token"
        ]
        for name, role in ROLES.items():
            body = {"username": name, "password": PASSWORD, "role": role}
            there.ask("POST", "/users", body)
        yield there
    provider.shutdown()
    provider.server_close()


def ask(url: str, method: str, path: str, body: object = None, token: str = "") -> dict:
    """Call a route as a program would."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    """Sign in by the dialog that is open."""
    page.get_by_label("Username", exact=True).first.fill(name)
    page.get_by_label("Password", exact=True).first.fill(password)
    page.locator("#sign-in").get_by_role("button", name="Sign in").click()
    expect(page.locator("#sign-in")).to_be_hidden()


@contextmanager
def serving(folder: Path, models: dict[str, dict] = MODELS, **env: str) -> Iterator[str]:
    """Run the service on fake models; yields its address."""
    port = free_port()
    models = write_models(folder / "models.json", models)
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
    with watched(browser, seen) as page:
        yield page


@contextmanager
def watched(browser: Browser, seen: Seen, **look: Any) -> Iterator[Page]:
    """Open the console in a browser of its own, and hold it to what `seen` forbids."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **look)
    seen.watch(context)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(seen.base)
    try:
        yield page
    finally:
        context.close()
    assert seen.problems == []
    assert seen.requests and seen.elsewhere == []
