"""What is stored is answered in replies of a bounded size, whatever is asked for."""

import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from tests.collections.conftest import MODELS, unit

MOST = 100_000
LONG = "x" * 20_000


@pytest.fixture
def app(config_of: Callable[..., Config], store_settings: dict) -> Iterator[Flask]:
    app = create_app(config_of(MODELS, max_reply_bytes=MOST, **store_settings), wait=True)
    yield app
    app.extensions["services"].documents.store.close()


@pytest.fixture
def long_texts(client: FlaskClient) -> FlaskClient:
    """A collection `c` of ten long texts."""
    client.post("/collections", json={"name": "c", "dimension": 4})
    rows = [{"id": str(i), "vector": unit(1, i), "text": LONG} for i in range(10)]
    assert client.post("/collections/c/vectors", json={"vectors": rows}).status_code == 201
    return client


ASKED = {
    "search": {"vector": unit(1), "k": 10},
    "search of many": {"vectors": [unit(1)] * 10, "k": 1},
    "search like one": {"id": "1", "k": 9},
    "vectors/get": {"ids": [str(i) for i in range(10)]},
}


@pytest.mark.fault("Hostile clients")
@pytest.mark.parametrize("what", ASKED)
def test_a_reply_over_its_limit_is_refused_with_what_to_ask_instead(
    long_texts: FlaskClient, what: str
) -> None:
    """A search, or ids, whose records exceed `MAX_REPLY_BYTES` -> 413 that says how to ask for
    less, as soon as that many bytes are read.
    """
    path, body = f"/collections/c/{what.split()[0]}", ASKED[what]
    reply = long_texts.post(path, json=body)
    assert (reply.status_code, reply.json["error_type"]) == (413, "too_large")
    assert "ask for less" in reply.json["error"] and "MAX_REPLY_BYTES" in reply.json["error"]
    assert long_texts.post(path, json={**body, "include": ["metadata"]}).status_code == 200


def test_what_more_like_this_skips_costs_no_bytes(long_texts: FlaskClient) -> None:
    body = {"id": "0", "k": 2, "offset": 7}
    reply = long_texts.post("/collections/c/search", json=body)
    assert [hit["id"] for hit in reply.json["results"]] == ["8", "9"]


def test_an_id_that_comes_a_thousand_times_is_one_record(long_texts: FlaskClient) -> None:
    reply = long_texts.post("/collections/c/vectors/get", json={"ids": ["1"] * 1000})
    assert [record["id"] for record in reply.json["vectors"]] == ["1"]


def test_pages_of_a_scroll_end_early_and_come_to_the_end(long_texts: FlaskClient) -> None:
    seen, cursor = [], None
    while True:
        body = {"limit": 1000, "cursor": cursor}
        reply = long_texts.post("/collections/c/vectors/scroll", json=body)
        assert len(reply.data) <= MOST
        seen += [record["id"] for record in reply.json["vectors"]]
        cursor = reply.json["next_cursor"]
        if cursor is None:
            break
        assert 1 <= len(reply.json["vectors"]) <= 4
    assert seen == [str(i) for i in range(10)]


def test_one_record_over_the_limit_can_be_scrolled_past(client: FlaskClient) -> None:
    client.post("/collections", json={"name": "c", "dimension": 4})
    for id_ in ("a", "b", "c"):
        body = {"id": id_, "vector": unit(1), "text": "x" * 2 * MOST}
        assert client.post("/collections/c/vectors", json=body).status_code == 201
    seen, cursor = [], None
    for _ in range(3):
        page = client.post("/collections/c/vectors/scroll", json={"cursor": cursor}).json
        seen += [record["id"] for record in page["vectors"]]
        cursor = page["next_cursor"]
    assert seen == ["a", "b", "c"] and cursor is None


def test_a_search_ranks_no_more_than_it_may(long_texts: FlaskClient) -> None:
    many = {"vectors": [unit(1)] * 100, "k": 1000, "min_score": 2}
    assert long_texts.post("/collections/c/search", json=many).status_code == 200
    reply = long_texts.post("/collections/c/search", json={**many, "offset": 1})
    assert reply.status_code == 413
    assert "100 queries x (offset 1 + k 1000) records; at most 100,000" in reply.json["error"]


def test_collections_are_listed_in_pages(client: FlaskClient) -> None:
    fields = [f"{i:02}" + "f" * 500 for i in range(60)]
    names = [f"c{i}" for i in range(5)]
    for name in names:
        body = {"name": name, "dimension": 4, "indexed": fields}
        assert client.post("/collections", json=body).status_code == 201

    def listed(path: str) -> tuple[list[str], str | None]:
        reply = client.get(path)
        assert reply.status_code == 200 and len(reply.data) <= MOST
        return [row["name"] for row in reply.json["collections"]], reply.json["next_cursor"]

    assert listed("/collections") == (["c0", "c1", "c2"], "c2")
    assert listed("/collections?cursor=c2") == (["c3", "c4"], None)
    assert listed("/collections?limit=2&cursor=c0") == (["c1", "c2"], "c2")
    assert client.get("/collections?limit=0").status_code == 422


def test_a_collection_has_so_many_aliases(client: FlaskClient) -> None:
    client.post("/collections", json={"name": "c", "dimension": 4})
    path = "/collections/c/aliases"
    for i in range(100):
        assert client.post(path, json={"alias": f"a{i}"}).status_code == 201
    reply = client.post(path, json={"alias": "one-more"})
    assert reply.status_code == 422 and "has 100 aliases, at most 100" in reply.json["error"]
    assert client.post(path, json={"alias": "a7"}).status_code == 201
    assert client.delete(f"{path}/a7").status_code == 200
    assert client.post(path, json={"alias": "one-more"}).status_code == 201


CALLS = {
    "vectors/get": {"ids": ["1"]},
    "search": {"vector": unit(1), "filter": {"n": 1}},
    "vectors/scroll": {"filter": {"n": 1}},
    "vectors/count": {"filter": {"n": 1}},
    "vectors/delete": {"filter": {}},
}


@pytest.mark.parametrize("what", CALLS)
def test_what_is_late_is_answered_504(
    long_texts: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    library = app.extensions["services"].documents
    monkeypatch.setattr("routes.budget.g", type("Late", (), {"deadline": time.monotonic()}))
    reply = long_texts.post(f"/collections/c/{what}", json=CALLS[what])
    assert (reply.status_code, reply.json["error_type"]) == (504, "deadline_exceeded")
    assert library.store.count("c") == 10


def test_null_is_as_good_as_left_out(client: FlaskClient) -> None:
    made = client.post(
        "/collections",
        json={"name": "c", "dimension": 4, "metric": None, "if_exists": None, "indexed": None},
    )
    assert made.status_code == 201 and made.json["metric"] == "cosine"
    stored = [
        client.post("/collections/c/vectors", json=body).status_code
        for body in (
            {"id": "a", "vector": unit(1), "metadata": None, "mode": None},
            {"vectors": [{"id": "b", "vector": unit(2), "metadata": None, "text": None}]},
            {"ids": ["c"], "embeddings": [unit(3)], "metadatas": [None], "documents": [None]},
        )
    ]
    assert stored == [201] * 3
    texts = {"collection": "t", "texts": ["x", "y"], "ids": [None, "y"], "metadata": [None, {}],
             "mode": None, "create": None}  # fmt: skip
    assert client.post("/embed-and-store", json=texts).status_code == 201
    unset = dict.fromkeys(("k", "offset", "include", "exact", "filter", "min_score"))
    found = client.post("/collections/c/search", json={"vector": unit(1), **unset})
    assert found.status_code == 200 and len(found.json["results"]) == 3
    for path, body in {
        "get": {"ids": ["a"], "include": None},
        "scroll": {"cursor": None, "limit": None, "filter": None, "include": None},
        "count": {"filter": None},
    }.items():
        assert client.post(f"/collections/c/vectors/{path}", json=body).status_code == 200
