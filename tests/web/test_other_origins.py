"""Pages of other origins in a real browser, beside a service as it is installed: what they read and
change, and what is left of it in the store.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.servers.fixtures import need
from tests.servers.nginx import Nginx
from tests.web.conftest import EVIL, Guarded, ask, serving

# Calls a route as a page's script does; gives the status, or "blocked" where it learns nothing.
CALL = """async ([url, method, body, headers, mode]) => {
  const kind = body && !mode ? {"Content-Type": "application/json"} : {};
  const given = {method, mode: mode ?? "cors", body, headers: {...kind, ...headers}};
  try {
    const reply = await fetch(url, given);
    return reply.type === "opaque" ? "opaque" : [reply.status, await reply.text()];
  } catch { return "blocked"; }
}"""
# What needs no script's leave: forms, each into a frame of its own, images, scripts, styles.
ELEMENTS = """(url) => {
  const add = (tag, facts) => new Promise((done) => {
    const made = Object.assign(document.createElement(tag), facts);
    made.onload = () => done("loaded");
    made.onerror = () => done("failed");
    document.body.append(made);
  });
  const form = (path, enctype, fields) => {
    add("iframe", {name: path});
    const facts = {action: url + path, method: "POST", enctype, target: path};
    const made = Object.assign(document.createElement("form"), facts);
    for (const [name, value] of Object.entries(fields))
      made.append(Object.assign(document.createElement("input"), {name, value}));
    document.body.append(made);
    made.submit();
  };
  const fields = "application/x-www-form-urlencoded";
  form("/embed-and-store", "text/plain", {'{"collection":"planted","texts":["x"],"y":"': '"}'});
  form("/collections/diary/aliases", fields, {alias: "mine"});
  form("/token", fields, {username: "admin", password: "guess-1"});
  return Promise.all([
    add("iframe", {name: "read", src: url + "/collections/diary/vectors/pin"}),
    add("img", {src: url + "/collections"}),
    add("script", {src: url + "/settings"}),
    add("link", {rel: "stylesheet", href: url + "/jobs"}),
  ]);
}"""
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
DIARY = '{"collection":"diary","texts":["x"]}'
STORED: list[tuple[str, str, str | None]] = [
    ("GET", "/collections", None),
    ("POST", "/collections", '{"name":"planted","model":"first"}'),
    ("GET", "/collections/diary", None),
    ("DELETE", "/collections/diary", None),
    ("POST", "/collections/diary/aliases", '{"alias":"mine"}'),
    ("POST", "/collections/diary/vectors/get", '{"ids":["pin"]}'),
    ("POST", "/collections/diary/vectors/scroll", "{}"),
    ("POST", "/collections/diary/vectors/delete", '{"ids":["pin"]}'),
    ("GET", "/collections/diary/vectors/pin", None),
    ("DELETE", "/collections/diary/vectors/pin", None),
    ("POST", "/collections/diary/search", '{"text":"PIN"}'),
    ("GET", "/collections/diary/map", None),
    ("POST", "/collections/diary/reembed", '{"model":"second"}'),
    ("POST", "/embed-and-store", DIARY),
    ("GET", "/jobs", None),
    ("GET", "/settings", None),
    ("POST", "/settings", '{"key":"max_texts","value":9}'),
    ("GET", "/users", None),
    ("GET", "/users/me", None),
    ("GET", "/providers", None),
    ("GET", "/metrics", None),
]
PUBLIC: list[tuple[str, str, str | None]] = [
    ("POST", "/embed", '{"text":"hello"}'),
    ("POST", "/embed/single?text=hello", None),
    ("POST", "/v1/embeddings", '{"input":"hello"}'),
    ("GET", "/v1/models", None),
    ("GET", "/models", None),
    ("GET", "/health", None),
    ("GET", "/openapi.json", None),
]
# What OpenAI's SDK for JavaScript sends beside the key.
SDK = {"x-stainless-os": "Linux", "x-stainless-retry-count": "0", "x-stainless-lang": "js"}

Call = Callable[..., Any]


class _Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The origin of a page that has nothing to do with the service."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser: Browser, elsewhere: str) -> Iterator[Page]:
    """A page of that origin."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(elsewhere)
        yield page


@pytest.fixture
def diary(url: str) -> Iterator[str]:
    """A service that holds one text; at the end it holds that and nothing else."""
    ask(url, "POST", "/embed-and-store",
        {"collection": "diary", "texts": ["my PIN is 1234"], "ids": ["pin"]})  # fmt: skip
    before = _state(url)
    yield url
    assert _state(url) == before
    ask(url, "DELETE", "/collections/diary")


def _state(url: str) -> list[dict]:
    found = ask(url, "POST", "/collections/diary/vectors/get", {"ids": ["pin"]})
    return [ask(url, "GET", "/collections"), ask(url, "GET", "/jobs"), found,
            ask(url, "GET", "/settings")]  # fmt: skip


def calls(page: Page, url: str, **headers: str) -> Call:
    """Give a function that calls the service from the page."""
    return lambda method, path, body, mode=None: page.evaluate(
        CALL, [url + path, method, body, headers, mode]
    )


def test_a_page_of_another_origin_neither_reads_nor_changes_what_is_stored(
    page: Page, diary: str
) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer x"},
        {"X-API-Key": "x", "X-Forwarded-For": "::1"},
    ):
        call = calls(page, diary, **headers)
        for method, path, body in STORED:
            said = call(method, path, body)
            assert said == "blocked" or said[0] in (401, 403), (method, path, said)
            assert "my PIN" not in str(said)


def test_neither_does_one_that_asks_for_no_leave(page: Page, diary: str) -> None:
    """No preflight comes before these: forms, images, beacons, `no-cors`."""
    for method, path, body in STORED:
        if method == "DELETE":
            continue
        for kind in SIMPLE:
            call = calls(page, diary, **({"Content-Type": kind} if method == "POST" else {}))
            assert call(method, path, body, "no-cors") in ("opaque", "blocked")
    with ExitStack() as stack:
        paths = ("/embed-and-store", "/collections/diary/aliases", "/token")
        answers = [stack.enter_context(page.expect_response(diary + path)) for path in paths]
        page.evaluate(ELEMENTS, diary)
    assert [answer.value.status for answer in answers] == [403] * 3
    shown = page.frame(name="read")
    assert shown is not None and "my PIN" not in shown.content()


def test_every_page_may_embed_with_an_sdk(page: Page, diary: str) -> None:
    for method, path, body in PUBLIC:
        assert calls(page, diary, **SDK)(method, path, body)[0] == 200, path
    status, text = calls(page, diary, Authorization="Bearer sk-none", **SDK)(*PUBLIC[2])
    assert status == 200 and '"embedding"' in text


def test_a_link_from_another_origin_opens_the_console(page: Page, diary: str) -> None:
    with page.context.expect_page() as opened:
        page.evaluate("(to) => { window.open(to); }", diary)
    expect(opened.value.get_by_role("tab", name="Collections")).to_be_visible()


def test_a_page_that_is_named_may_all_that_others_may_not(
    page: Page, url: str, elsewhere: str
) -> None:
    setting = {"key": "cors_origins", "value": ["*", elsewhere.upper() + "/"]}
    ask(url, "POST", "/settings", setting)
    try:
        call = calls(page, url)
        assert call("POST", "/embed-and-store", DIARY)[0] == 201
        assert call("POST", "/collections/diary/search", '{"text":"x"}')[0] == 200
        assert call("DELETE", "/collections/diary", None)[0] == 200
        assert call("GET", "/settings", None)[0] == 401, "of this machine it is not"
    finally:
        ask(url, "DELETE", "/settings/cors_origins")


def test_a_page_with_a_key_may_what_the_keys_owner_may(page: Page, guarded: Guarded) -> None:
    body = {"label": "page", "role": "reader"}
    key = guarded.ask("POST", "/users/uma/api-key", body)
    reader = calls(page, guarded.url, **{"X-API-Key": key["api_key"]})
    assert reader("GET", "/collections", None)[0] == 200
    assert reader("POST", "/embed-and-store", DIARY)[0] == 403, "and it reads why"
    admin = calls(page, guarded.url, Authorization=f"Bearer {guarded.token}")
    assert admin("GET", "/settings", None)[0] == 200
    guess = '{"username":"admin","password":"guess-1"}'
    assert calls(page, guarded.url)("POST", "/token", guess) == "blocked"
    guarded.ask("DELETE", f"/users/uma/api-keys/{key['id']}")


def test_a_page_whose_name_was_made_to_lead_here_gets_at_nothing_that_is_stored(
    browser: Browser, diary: str
) -> None:
    """Its browser takes the service for its own origin, and sends no Sec-Fetch-Site."""
    base = diary.replace("127.0.0.1", EVIL)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(base)
        for headers in ({}, {"Authorization": "Bearer x"}, {"X-Forwarded-For": "203.0.113.7"}):
            call = calls(page, base, **headers)
            for method, path, body in STORED:
                said = call(method, path, body)
                assert said[0] in (401, 403) and "my PIN" not in said[1], (method, path, said)
        assert calls(page, base)("POST", "/embed", '{"text":"hello"}')[0] == 200


@pytest.mark.parametrize("configured", [True, False])
def test_a_proxy_on_this_machine_passes_on_its_public_name_if_it_is_configured(
    diary: str, tmp_path: Path, configured: bool
) -> None:
    need(Nginx)
    own = {"Origin": "http://embed.example"}
    with ExitStack() as stack:
        if configured:
            diary = stack.enter_context(serving(tmp_path, TRUSTED_PROXY_HOPS="1"))
        front = (
            "server { listen 127.0.0.1:{port}; location / { proxy_set_header Host $host;"
            f" proxy_set_header X-Forwarded-For $remote_addr; proxy_pass {diary}; }} }}"
        )
        nginx = stack.enter_context(Nginx(front))
        for headers in ({}, own, {"Origin": "x"}):
            through = 200 if configured and headers != {"Origin": "x"} else 403
            assert _named(nginx.url(), headers) == through
            assert _named(diary, headers) == 403


def _named(url: str, headers: dict[str, str]) -> int:
    """Ask for the collections as `embed.example`; return the status."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = HTTPConnection(host, int(port), timeout=60)
    connection.request("GET", "/collections", headers={"Host": "embed.example", **headers})
    status = connection.getresponse().status
    connection.close()
    return status
