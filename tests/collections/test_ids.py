"""Every id that can be stored can be got and deleted by its path, with the clients that people use.

What no path can carry is refused when it is stored; where it is there from before, it is reached
with ids in a body. Nothing is deleted that was not named.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from store import Item
from tests.collections.conftest import MODELS, unit
from tests.conftest import free_port, running, write_models

ODD = [
    "/notes.md", "notes.md", "//x", "x", "/dir//a/", "dir/a", "dir/a/", "/", "//", "a/", "a",
    "https://example.org/a?b=c#d", "https://example.org/a", "%2F", "%2e%2e", "a%2Fb", "a b", " a",
    "a+b", "a;b", "a:b", "caf\u00e9", "cafe\u0301", "\U0001f469\u200d\U0001f680", "...", ".a", "a.",
    "a..b", "..a/b..", ". .", "get", "delete", "scroll", "count", "\\", "a\\b", "?", "#", "%",
    "%zz", "aliases", "c", "\u2028", "\u202eabc",
]  # fmt: skip
NODE = """
const [method, ...urls] = JSON.parse(require("fs").readFileSync(0, "utf8"));
(async () => {
  const out = [];
  for (const url of urls) {
    const reply = await fetch(url, {method});
    out.push([reply.status, await reply.text()]);
  }
  console.log(JSON.stringify(out));
})();
"""
Replies = list[tuple[int, str]]


def by_curl(method: str, urls: list[str]) -> Replies:
    command = ["curl", "-sg", "-w", "\n%{http_code}\n\x1e"]
    for url in urls:
        command += ["-X", method, url, "--next", "-sg", "-w", "\n%{http_code}\n\x1e"]
    command = command[: -len(["--next", "-sg", "-w", ""])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    rows = [each.rstrip("\n").rpartition("\n") for each in done.stdout.split("\x1e")[:-1]]
    return [(int(status), body) for body, _, status in rows]


def by_node(method: str, urls: list[str]) -> Replies:
    done = subprocess.run(["node", "-e", NODE], input=json.dumps([method, *urls]), text=True,
                          capture_output=True, timeout=60, check=True)  # fmt: skip
    return [(status, body) for status, body in json.loads(done.stdout)]


def by_requests(method: str, urls: list[str]) -> Replies:
    with requests.Session() as session:
        replies = [session.request(method, url, timeout=30) for url in urls]
    return [(reply.status_code, reply.text) for reply in replies]


def by_httpx(method: str, urls: list[str]) -> Replies:
    with httpx.Client(follow_redirects=True) as client:
        replies = [client.request(method, url) for url in urls]
    return [(reply.status_code, reply.text) for reply in replies]


CLIENTS: dict[str, Callable[[str, list[str]], Replies]] = {
    "curl": by_curl, "node": by_node, "requests": by_requests, "httpx": by_httpx,
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service under gunicorn."""
    folder, port = tmp_path_factory.mktemp("ids"), free_port()
    env = {"HOST": "127.0.0.1", "PORT": str(port), "CACHE": "none", "MAX_WORKERS": "1",
           "MODEL_CONFIG": str(write_models(folder / "m.json", MODELS)),
           "SUPPORTED_MODELS_FILE": "/nonexistent"}  # fmt: skip
    with running([sys.executable, "-m", "gunicorn", "app:app"], port, env):
        yield f"http://127.0.0.1:{port}"


def stored(url: str, name: str, ids: list[str]) -> None:
    with requests.Session() as session:
        session.post(f"{url}/collections", json={"name": name, "dimension": 4})
        body = {"ids": ids, "embeddings": [unit(1, i) for i in range(len(ids))]}
        reply = session.post(f"{url}/collections/{name}/vectors", json=body)
        assert reply.status_code == 201, reply.text


def held(url: str, name: str) -> set[str]:
    page = requests.post(f"{url}/collections/{name}/vectors/scroll", json={"limit": 1000},
                         timeout=30)  # fmt: skip
    return {record["id"] for record in page.json()["vectors"]}


@pytest.mark.fault("Clients")
@pytest.mark.parametrize("client", CLIENTS)
def test_every_id_is_got_and_deleted_by_its_path(url: str, client: str) -> None:
    """Ids with slashes anywhere, with `?`, `%2F`, blanks, emoji, read and deleted by curl, node,
    requests and httpx -> exactly that record.
    """
    ask, left = CLIENTS[client], set(ODD)
    stored(url, client, ODD)
    path = f"{url}/collections/{client}/vectors/"
    got = ask("GET", [path + quote(id_, safe="") for id_ in ODD])
    assert [(status, json.loads(body).get("id")) for status, body in got] == [
        (200, id_) for id_ in ODD
    ]
    for some in (ODD[::2], ODD[1::2]):
        replies = ask("DELETE", [path + quote(id_, safe="") for id_ in some])
        assert [status for status, _ in replies] == [200] * len(some)
        left -= set(some)
        assert held(url, client) == left


@pytest.mark.parametrize("client", CLIENTS)
def test_the_longest_id_is_got_and_deleted_by_its_path(url: str, client: str) -> None:
    """512 characters of four bytes each are 6,144 bytes in a path."""
    ask, name = CLIENTS[client], client.ljust(255, "n")
    ids = ["\u6f22" * 512, "\U0001f600" * 512]
    stored(url, name, ids)
    urls = [f"{url}/collections/{name}/vectors/{quote(id_, safe='')}" for id_ in ids]
    assert [(status, json.loads(body)["id"]) for status, body in ask("GET", urls)] == [
        (200, id_) for id_ in ids
    ]
    assert [status for status, _ in ask("DELETE", urls)] == [200, 200]
    assert not held(url, name)


REFUSED = [
    "..", ".", "a/../b", "../a", "a/..", "./a", "a/.", "a/./b", "/..", "../", "a\\..\\b", "..\\a",
    "a\\.", "two\nlines", "\n", "a\r", "\t", "a\x00", "\x1f", "\x7f", "\x85", "a\x9b",
]  # fmt: skip


@pytest.mark.fault("Clients")
@pytest.mark.parametrize("id_", REFUSED, ids=ascii)
def test_an_id_that_a_path_cannot_carry_is_refused_when_it_is_stored(
    points: FlaskClient, id_: str
) -> None:
    """An id `..`, `a/../b`, one with a line feed -> 422 when it is stored: a client would ask for
    another record.
    """
    bodies = [
        ("/collections/points/vectors", {"id": id_, "vector": unit(1)}),
        ("/collections/points/vectors", {"vectors": [{"id": id_, "vector": unit(1)}]}),
        ("/collections/points/vectors", {"ids": [id_], "embeddings": [unit(1)]}),
        ("/embed-and-store", {"collection": "new", "text": "a", "id": id_}),
        ("/embed-and-store", {"collection": "new", "texts": ["a", "b"], "ids": ["b", id_]}),
    ]
    for path, body in bodies:
        reply = points.post(path, json=body)
        assert (reply.status_code, reply.json["param"]) == (422, "id"), reply.text
        assert "cannot be an id" in reply.json["error"]
    assert points.get("/collections/points").json["count"] == 4
    assert points.get("/collections/new").status_code == 404


@pytest.mark.fault("The store")
@pytest.mark.parametrize("client", CLIENTS)
def test_no_path_that_a_client_makes_of_dots_deletes_anything(url: str, client: str) -> None:
    """DELETE of `vectors/..`, which clients send as the collection's own path and a slash -> 404;
    the collection stays.
    """
    name = f"dots-{client}"
    stored(url, name, ["keep", "b"])
    path = f"{url}/collections/{name}/vectors/"
    asked = ["..", ".", "../", "./", "..%2F", "%2e%2e", "%2E%2E/", "a/../", "..;", "x/../..", "",
             "../../", "..%5C", ".%2e/"]  # fmt: skip
    if client == "httpx":  # it leaves the slash out, too: that is the collection's very own path
        asked = [each for each in asked if not each.endswith("..")]
    replies = CLIENTS[client]("DELETE", [path + each for each in asked])
    assert {status for status, _ in replies} <= {404, 405}
    assert held(url, name) == {"keep", "b"}


def test_what_was_stored_before_is_reached_with_ids_in_a_body(
    points: FlaskClient, app: Flask
) -> None:
    """Records whose ids would be refused today are read, searched, moved and deleted."""
    store = app.extensions["services"].documents.store
    ids = ["..", "a/../b", "two\nlines", "\t", "/a//"]
    store.upsert("points", [Item(id_, unit(1, i), "text") for i, id_ in enumerate(ids)])
    get = "/collections/points/vectors/get"
    got = points.post(get, json={"ids": ids}).json["vectors"]
    assert [record["id"] for record in got] == ids
    found = points.post("/collections/points/search", json={"id": "..", "k": 8})
    assert {"a/../b", "two\nlines"} <= {hit["id"] for hit in found.json["results"]}
    reply = points.post("/collections/points/vectors/delete", json={"ids": ids})
    assert reply.json == {"deleted": 5}
    assert points.get("/collections/points").json["count"] == 4


def nested(keys: list[str]) -> dict:
    """A value in objects within each other."""
    value: Any = 1
    for key in reversed(keys):
        value = {key: value}
    return value


@pytest.mark.fault("The store")
@pytest.mark.parametrize(
    "metadata",
    [
        {"a.b": 1},
        {"a": {"b.c": 1}},
        {"$a": 1},
        {"a": [{"b": {"$gt": 1}}]},
        {".": 1},
        {"": 1},
        {"a": {"": 1}},
        {"a": [{"": 1}]},
        {"k" * 600: 1},
        nested(["k" * 200] * 5),
        nested(["k"] * 21),
    ],
    ids=lambda metadata: str(metadata)[:20],
)
def test_metadata_that_no_filter_finds_is_refused(points: FlaskClient, metadata: dict) -> None:
    """A metadata key that is empty, has a dot or a leading `$`, or is too deep or too long -> 422
    when it is stored: a filter would never find it.
    """
    for path, body in (
        ("/collections/points/vectors", {"id": "new", "vector": unit(1), "metadata": metadata}),
        ("/collections/points/vectors",
         {"ids": ["new"], "embeddings": [unit(1)], "metadatas": [metadata]}),
        ("/embed-and-store", {"collection": "new", "text": "a", "metadata": metadata}),
    ):  # fmt: skip
        reply = points.post(path, json=body)
        assert (reply.status_code, reply.json["param"]) == (422, "metadata"), reply.text
        assert "cannot be named in a filter" in reply.json["error"]
    names = ["k" * 31] * 15 + ["k" * 32]  # 512 characters with the dots
    fine = {
        "id": "new",
        "vector": unit(1),
        "metadata": nested(names) | {"a": {"b": [{"c$": "x.y"}]}},
    }
    assert points.post("/collections/points/vectors", json=fine).status_code == 201
    where = {"filter": {".".join(names): 1}}
    count = points.post("/collections/points/vectors/count", json=where)
    assert count.json == {"count": 1}
    count = points.post("/collections/points/vectors/count", json={"filter": {"a.b": 1}})
    assert count.json == {"count": 0}
