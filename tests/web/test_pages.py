"""The pages and their files, as they go over the wire: what is served, and under which policy."""

import gzip
import re
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from routes import ROUTES
from routes.assets import STATIC, tree
from tests.conftest import ROOT

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
OURS = [*(ROOT / "web/static").glob("*.*"), *(ROOT / "web/static/js").glob("*"),
        *(ROOT / "web/static/docs").glob("*"), *(ROOT / "web/templates").glob("*")]  # fmt: skip


def test_a_browser_gets_the_console_and_others_the_json(fake_client: FlaskClient) -> None:
    page = fake_client.get("/", headers={"Accept": BROWSER})
    assert page.mimetype == "text/html" and b"<h1>" in page.data
    for accept in ("*/*", "application/json", None):
        reply = fake_client.get("/", headers={"Accept": accept} if accept else {})
        assert reply.get_json()["service"] == "Embedding Service"
        assert "Accept" in reply.vary and "Accept" in page.vary


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/static/js/main.js"])
def test_the_policy_lets_nothing_in_from_elsewhere(fake_client: FlaskClient, path: str) -> None:
    policy = fake_client.get(path, headers={"Accept": BROWSER}).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "frame-ancestors 'none'" in policy and "http" not in policy and "eval" not in policy
    assert ("unsafe-inline" in policy) == (path in ("/docs", "/redoc"))
    assert ("blob:" in policy) == (path == "/redoc")


@pytest.mark.parametrize("name", STATIC)
def test_every_file_is_served_and_kept_by_the_browser(fake_client: FlaskClient, name: str) -> None:
    reply = fake_client.get(f"/static/{name}")
    assert reply.status_code == 200 and reply.data == (ROOT / "web/static" / name).read_bytes()
    assert reply.mimetype == STATIC[name]
    again = fake_client.get(f"/static/{name}", headers={"If-None-Match": reply.headers["ETag"]})
    assert again.status_code == 304 and again.data == b""


def test_a_file_is_compressed_for_whoever_takes_it_so(fake_client: FlaskClient) -> None:
    content = (ROOT / "web/static/js/main.js").read_bytes()
    for takes in ("gzip, deflate, br, zstd", "br;q=1.0, gzip;q=0.2", "*"):
        reply = fake_client.get("/static/js/main.js", headers={"Accept-Encoding": takes})
        assert reply.headers["Content-Encoding"] == "gzip" and "Accept-Encoding" in reply.vary
        assert gzip.decompress(reply.data) == content and len(reply.data) < len(content) / 2
    for takes in ("identity", "br", "gzip;q=0", ""):
        plain = fake_client.get("/static/js/main.js", headers={"Accept-Encoding": takes})
        assert "Content-Encoding" not in plain.headers and "Accept-Encoding" in plain.vary
        assert plain.data == content and plain.headers["ETag"] != reply.headers["ETag"]
    same = {"Accept-Encoding": "gzip", "If-None-Match": reply.headers["ETag"]}
    assert fake_client.get("/static/js/main.js", headers=same).status_code == 304
    same["If-None-Match"] = f'"other", W/{reply.headers["ETag"]}'  # as a proxy that compresses says
    assert fake_client.get("/static/js/main.js", headers=same).status_code == 304
    same["If-None-Match"] = 'W/"other"'
    assert fake_client.get("/static/js/main.js", headers=same).status_code == 200
    page = fake_client.get("/", headers={"Accept": BROWSER, "Accept-Encoding": "gzip"})
    assert b"<h1>" in gzip.decompress(page.data) and {"Accept", "Accept-Encoding"} <= set(page.vary)


def test_the_description_is_compressed_and_asked_for_again_only_if_it_changed(
    fake_client: FlaskClient,
) -> None:
    plain = fake_client.get("/openapi.json")
    zipped = fake_client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert plain.mimetype == zipped.mimetype == "application/json"
    assert gzip.decompress(zipped.data) == plain.data and plain.get_json()["openapi"] == "3.1.0"
    assert len(zipped.data) < len(plain.data) / 5
    kept = {"Accept-Encoding": "gzip", "If-None-Match": zipped.headers["ETag"]}
    assert fake_client.get("/openapi.json", headers=kept).status_code == 304


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/nothing/here"])
def test_a_browser_asks_for_a_page_and_keeps_its_files(fake_client: FlaskClient, path: str) -> None:
    reply = fake_client.get(path, headers={"Accept": BROWSER})
    assert reply.headers.get("Cache-Control") in ("no-cache", None)
    named = re.findall(r'(?:src|href)="(/static/[^"]+)"', reply.get_data(as_text=True))
    assert named and all(name.startswith(f"/static/{tree()}/") for name in named)
    for name in named:
        assert "immutable" in fake_client.get(name).headers["Cache-Control"], name


def test_a_page_of_another_version_gets_the_present_files(fake_client: FlaskClient) -> None:
    now = fake_client.get(f"/static/{tree()}/js/main.js")
    before = fake_client.get("/static/0123456789ab/js/main.js")
    assert before.status_code == 200 and before.data == now.data
    assert before.headers["Cache-Control"] == "no-cache", "else it would be kept as the old one"
    gone = fake_client.get("/static/0123456789ab/js/no-longer.js")
    assert (gone.status_code, gone.get_json()["error"]) == (404, "unknown file")


def test_an_unknown_address_is_a_page_for_browsers_and_json_for_programs(
    fake_client: FlaskClient,
) -> None:
    page = fake_client.get("/consoel", headers={"Accept": BROWSER})
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert b"nothing at this address" in page.data and b"script" not in page.data
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script" not in policy and "unsafe" not in policy
    for accept in ("*/*", "application/json", None):
        reply = fake_client.get("/consoel", headers={"Accept": accept} if accept else {})
        assert reply.status_code == 404 and "there is no /consoel" in reply.get_json()["error"]
        assert "Accept" in reply.vary and "Accept" in page.vary
    posted = fake_client.post("/consoel", headers={"Accept": BROWSER}, json={})
    assert posted.is_json


@pytest.mark.parametrize(
    "name",
    [
        "../config/__init__.py",
        "%2e%2e/app.py",
        "js",
        "vendor/fetch.sh",
        "x",
        "0123456789ab/x",
    ],
)
def test_no_other_file_is_served(fake_client: FlaskClient, name: str) -> None:
    assert fake_client.get(f"/static/{name}").status_code == 404


def test_every_file_of_ours_is_served() -> None:
    there = {str(p.relative_to(ROOT / "web/static")) for p in OURS if p.parent.name != "templates"}
    assert there == {name for name in STATIC if not name.startswith("vendor/")}


def test_our_pages_write_no_markup_and_name_no_other_machine() -> None:
    for file in OURS:
        text = re.sub(r"""["']http://www\.w3\.org/2000/svg["']""", "", file.read_text())
        found = re.search(
            r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|https?://\w"
            r"|(local|session)Storage|document\.cookie|\bon\w+=\"",
            text,
        )
        assert not found, f"{file.name}: {found and found[0]}"


@pytest.mark.parametrize("name", ["index.html", "docs.html", "redoc.html"])
def test_no_page_holds_a_script_or_a_style(name: str) -> None:
    page = (ROOT / "web/templates" / name).read_text()
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert scripts and all("src=" in tag and not code for tag, code in scripts)
    assert not re.search(r"<style|\sstyle=", page)


def test_the_vendored_files_have_their_licences_and_load_nothing() -> None:
    for folder in ("swagger-ui", "redoc"):
        assert (ROOT / "web/static/vendor" / folder / "LICENSE").read_text().strip()
    redoc = (ROOT / "web/static/vendor/redoc/redoc.standalone.js").read_text()
    assert "cdn." not in redoc.replace("cdnjs", "")


def test_docs_public_decides_who_may_read_the_description(
    config_of: Callable[..., Config],
) -> None:
    for public in (True, False):
        config = config_of(
            auth_enabled=True, jwt_secret_key="k" * 48, docs_public=public,
            admin_password="an-admins-password",
        )  # fmt: skip
        client = create_app(config, wait=True).test_client()
        status = client.get("/openapi.json").status_code
        assert status == (200 if public else 401)
        refused = client.get("/openapi.json", headers={"Authorization": "Bearer x"}).status_code
        assert refused == (200 if public else 401)
        login = {"username": "admin", "password": "an-admins-password"}
        token = client.post("/token", json=login).get_json()["access_token"]
        asked = client.get("/openapi.json", headers={"Authorization": f"Bearer {token}"})
        assert ("private" in asked.headers["Cache-Control"]) == (not public)


def test_the_application_has_the_pages(fake_app: Flask) -> None:
    rules = {rule.rule for rule in fake_app.url_map.iter_rules()}
    assert {"/", "/docs", "/redoc", "/static/<path:name>"} <= rules


@pytest.mark.fault("Console")
def test_the_console_hands_no_list_of_routes_to_strangers(config_of: Callable[..., Config]) -> None:
    """DOCS_PUBLIC=false, and a stranger opens the console -> its page lists no routes."""
    settings = {"auth_enabled": True, "jwt_secret_key": "k" * 48, "docs_public": False}
    client = create_app(config_of(**settings), wait=True).test_client()
    assert client.get("/openapi.json").status_code == 401
    for path in ("/", "/docs", "/redoc"):
        page = client.get(path, headers={"Accept": BROWSER}).get_data(as_text=True)
        page = re.sub(r'="/static/[^"]+"', "", page)  # scripts are named after what they show
        rows = [row for row in ROUTES if row.access != "public" and row.path != "/"]
        told = [row.path for row in rows if row.path in page]
        assert told == [], path
