"""What cannot be stored or asked is refused over HTTP, by name, and the store is as it was."""

import contextlib
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

import factory
from errors import Busy, Corrupt, Full, Unavailable
from factory import create_app
from store import VectorStore, open_store
from tests.collections.conftest import unit

VECTORS, SEARCH = "/collections/points/vectors", "/collections/points/search"
GOOD = {"id": "good", "vector": unit(1)}


def among(bad: object) -> dict:
    """Good items with a bad one as the third."""
    return {"vectors": [{**GOOD, "id": "g0"}, {**GOOD, "id": "g1"}, bad]}


def raw(vector: str) -> bytes:
    """The same with a vector that no JSON library writes."""
    return json.dumps(among({"id": "bad", "vector": "HERE"})).replace('"HERE"', vector).encode()


BAD = {
    "wrong dimension": (VECTORS, among({"id": "bad", "vector": [1, 2]}), 400, "item 2 (id 'bad')"),
    "NaN": (VECTORS, raw("[1, 2, NaN, 4]"), 422, "vectors.2.vector: it should be a list"),
    "Inf": (VECTORS, raw("[1, 2, Infinity, 4]"), 422, "vectors.2.vector: it should be a list"),
    "beyond float32": (VECTORS, raw("[1, 2, 1e39, 4]"), 422, "item 2 (id 'bad')"),
    "NaN in base64": (
        VECTORS, among({"id": "bad", "vector": "AADAfwAAgD8AAIA/AACAPw=="}), 422,
        "item 2 (id 'bad')",
    ),
    "zero vector": (VECTORS, among({"id": "bad", "vector": unit()}), 422, "item 2 (id 'bad')"),
    "id twice": (VECTORS, among({**GOOD, "id": "g0"}), 422, "item 2: id 'g0' comes twice"),
    "600-character id": (VECTORS, among({**GOOD, "id": "i" * 600}), 422, "item 2: the id has 600"),
    "65 KiB of metadata": (
        VECTORS, among({**GOOD, "id": "bad", "metadata": {"m": "x" * 65 * 1024}}), 413,
        "item 2 (id 'bad'): metadata",
    ),
    "columns of unlike lengths": (
        VECTORS, {"ids": ["g0", "g1"], "embeddings": [unit(1)] * 2, "documents": ["a"]}, 422,
        "2 ids but 1 documents",
    ),
    "fewer vectors than ids": (
        VECTORS, {"ids": ["g0", "g1"], "embeddings": [unit(1)]}, 422, "2 ids but 1 embeddings",
    ),
    "a matrix that ends amid a vector": (
        VECTORS, {"ids": ["g0", "g1"], "matrix": "AACAPwAAgD8AAIA/"}, 422,
        "matrix has 3 numbers: no whole vectors for 2 ids",
    ),
    "a matrix that ends amid a number": (
        VECTORS, {"ids": ["g0"], "matrix": "AACA"}, 422, "matrix: no whole number of float32",
    ),
    "a matrix of another dimension": (
        VECTORS, {"ids": ["g0"], "matrix": "AACAPwAAgD8="}, 400, "item 0 (id 'g0')",
    ),
    "NaN in a matrix": (
        VECTORS, {"ids": ["bad"], "matrix": "AADAfwAAgD8AAIA/AACAPw=="}, 422, "item 0 (id 'bad')",
    ),
    "columns without ids": (
        VECTORS, {"documents": ["a"], "metadatas": [{}]}, 422, "give ids with the columns",
    ),
    "one item and columns": (VECTORS, {**GOOD, "documents": ["a"]}, 422, "give one item"),
    "a matrix and vectors": (
        VECTORS, {"ids": ["g0"], "embeddings": [unit(1)], "matrix": "AACAPw=="}, 422,
        "give either embeddings or matrix",
    ),
    "columns without content": (VECTORS, {"ids": ["g0"]}, 422, "give embeddings, matrix"),
    "a null document without a vector": (
        VECTORS, {"ids": ["g0"], "documents": [None]}, 422, "a vector where a document is null",
    ),
    "items and columns": (
        VECTORS, {"ids": ["g0"], "documents": ["a"], "vectors": [GOOD]}, 422, "give one item",
    ),
    "a wrong vector in a column": (
        VECTORS, {"ids": ["g0"], "embeddings": ["x!"]}, 422, "embeddings.0: it should be a list",
    ),
    "collection ../x": ("/collections", {"name": "../x", "dimension": 4}, 422, "'../x'"),
    "collection ..%2Fx": (
        "/embed-and-store", {"collection": "../x", "texts": ["a"]}, 422, "'../x'",
    ),
    "65 indexed fields": (
        "/collections", {"name": "new", "dimension": 4, "indexed": [f"f{i}" for i in range(65)]},
        413, "indexed: over 64 items; at most 64",
    ),
    "an indexed field that is none": (
        "/collections", {"name": "new", "dimension": 4, "indexed": ["n", "a..b"]}, 422,
        "indexed field 1: 'a..b'",
    ),
    "an indexed field twice": (
        "/collections", {"name": "new", "dimension": 4, "indexed": ["n", "m", "n"]}, 422,
        "indexed field 2: 'n' comes twice",
    ),
    "an indexed field that is no string": (
        "/collections", {"name": "new", "dimension": 4, "indexed": ["n", 5]}, 422, "indexed.1",
    ),
    "a new collection's id twice": (
        "/embed-and-store", {"collection": "new", "texts": ["a", "b"], "ids": ["i", "i"]}, 422,
        "item 1: id 'i' comes twice",
    ),
    "a new collection's long id": (
        "/embed-and-store", {"collection": "new", "text": "a", "id": "i" * 600}, 422,
        "item 0: the id has 600",
    ),
    "a new collection's metadata": (
        "/embed-and-store",
        {"collection": "new", "text": "a", "id": "i", "metadata": {"m": "x" * 65 * 1024}}, 413,
        "item 0 (id 'i'): metadata",
    ),
    "a new collection's half surrogate": (
        "/embed-and-store", b'{"collection": "new", "text": "\\ud800"}', 422, "surrogate",
    ),
    "a new collection's 1001 texts": (
        "/embed-and-store", {"collection": "new", "texts": ["a"] * 1001}, 413,
        "texts: over 1000 items",
    ),
    "a new collection's update": (
        "/embed-and-store", {"collection": "new", "text": "a", "mode": "update"}, 404, "new",
    ),
    "a new collection's dimensions": (
        "/embed-and-store", {"collection": "new", "text": "a", "dimensions": 9}, 400, "9",
    ),
    "unknown operator": (
        SEARCH, {"vector": unit(1), "filter": {"n": {"$near": 1}}}, 400, "$near",
    ),
    "deletion by an unknown operator": (
        f"{VECTORS}/delete", {"filter": {"n": {"$near": 1}}}, 400, "$near",
    ),
    "k = 0": (SEARCH, {"vector": unit(1), "k": 0}, 422, "k must be from 1 to 1000, not 0"),
    "k = 10^9": (SEARCH, {"vector": unit(1), "k": 10**9}, 422, "k must be from 1 to 1000"),
    "query of zeros": (SEARCH, {"vector": unit()}, 422, "the query"),
    "wrong dimension of a query": (
        SEARCH, {"vectors": [unit(1), [1, 2, 3]]}, 400, "query 1",
    ),
    "10^6 ids": (f"{VECTORS}/get", {"ids": ["a"] * 10**6}, 413, "ids: over 1000 items"),
}  # fmt: skip


def held(client: FlaskClient) -> tuple[Any, ...]:
    """All there is: collections, and each record of the points."""
    page = client.post(f"{VECTORS}/scroll", json={"limit": 1000}).json
    return client.get("/collections").json, page


@pytest.mark.parametrize(("path", "body", "status", "said"), BAD.values(), ids=BAD)
def test_it_is_refused_by_name_and_the_store_is_as_it_was(
    points: FlaskClient, app, path: str, body: object, status: int, said: str
) -> None:
    before = held(points)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = points.post(path, data=data, content_type="application/json")
    assert reply.status_code == status, reply.text
    assert said in reply.json["error"], reply.text
    assert held(points) == before
    report = app.extensions["services"].documents.store.verify("points")
    assert report.ok and report.rows == 4


def test_a_million_items_are_refused_and_the_store_is_as_it_was(points: FlaskClient, app) -> None:
    before = held(points)
    data = b'{"vectors":[' + b",".join([b'{"vector":[1,2,3,4]}'] * 10**6) + b"]}"
    reply = points.post(VECTORS, data=data, content_type="application/json")
    assert reply.status_code == 413, reply.text
    assert "send several smaller ones" in reply.json["error"]
    assert held(points) == before
    assert app.extensions["services"].documents.store.verify("points").ok


def test_the_same_items_without_the_bad_one_are_stored(points: FlaskClient) -> None:
    """The control: it was the third item that was refused."""
    assert points.post(VECTORS, json=among({**GOOD, "id": "ok"})).status_code == 201
    assert points.get("/collections/points").json["count"] == 7


@pytest.mark.parametrize(
    ("error", "status", "wait"),
    [(Full, 507, "30"), (Unavailable, 503, "5"), (Busy, 503, "1"), (Corrupt, 503, None)],
)
def test_what_passes_by_itself_is_answered_with_when_to_try_again(
    points: FlaskClient, app, monkeypatch: pytest.MonkeyPatch, error: type, status: int, wait: str
) -> None:
    def upsert(*_: object, **__: object) -> None:
        raise error("not now")

    monkeypatch.setattr(app.extensions["services"].documents.store, "upsert", upsert)
    reply = points.post(VECTORS, json=GOOD)
    assert (reply.status_code, reply.headers.get("Retry-After")) == (status, wait)


def test_the_file_store_is_opened_as_the_settings_say(config_of, monkeypatch) -> None:
    given: dict[str, object] = {}

    def noted(*where: object, **options: object) -> VectorStore:
        given.update(options)
        return open_store(*where, **options)

    monkeypatch.setattr(factory, "open_store", noted)
    app = create_app(config_of(store_fsync="never", store_lock_timeout_s=3.5), wait=True)
    store = app.extensions["services"].documents.store
    with contextlib.closing(store):
        assert (given["fsync"], given["lock_timeout_s"]) == ("never", 3.5)
        assert store.stats()["fsync"] == "never"


REFUSED_WRITES = {
    "another dimension": ("c12", {"texts": ["a"]}, 400),
    "an id that is there": ("c8", {"texts": ["a"], "ids": ["own"], "mode": "insert"}, 409),
    "an id that is not there": ("c8", {"texts": ["a"], "ids": ["none"], "mode": "update"}, 404),
    "an id twice": ("c8", {"texts": ["a", "b"], "ids": ["x", "x"]}, 422),
}


@pytest.mark.fault("The store")
@pytest.mark.parametrize("name", REFUSED_WRITES)
def test_a_refused_write_binds_a_collection_to_no_model(client: FlaskClient, name: str) -> None:
    """A collection of the caller's own vectors refuses texts -> it stays free for any model; the
    first text that is stored binds it.
    """
    collection, body, status = REFUSED_WRITES[name]
    for size in (8, 12):
        made = {"name": f"c{size}", "dimension": size}
        assert client.post("/collections", json=made).status_code == 201
        item = {"id": "own", "vector": [1.0] * size}
        assert client.post(f"/collections/c{size}/vectors", json=item).status_code == 201
    reply = client.post(
        "/embed-and-store", json={"collection": collection, "model": "small", **body}
    )
    assert reply.status_code == status
    assert client.get(f"/collections/{collection}").json["model"] is None
    right = "wide" if collection == "c12" else "other"
    fine = {"collection": collection, "texts": ["a"], "model": right}
    assert client.post("/embed-and-store", json=fine).status_code == 201
    assert client.get(f"/collections/{collection}").json["model"] == f"tests/{right}"
