"""Facets: what a collection's metadata holds, counted as filters count it, within bounds."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config
from documents import facets as module
from documents.facets import facets, ranges
from errors import DeadlineExceeded
from factory import create_app
from store import Item
from store.budget import Budget
from tests.collections.conftest import MODELS, unit

MOST_BYTES = 40_000
# What a filter tells apart, or holds equal: 1 is 1.0, and neither is true or "1".
MIXED: list[Any] = [1, 1.0, True, "1", None, 2**53 + 1, 2**53, "", "é", [1, 1, "x"], ["x"], [], {}]
METADATA: list[dict[str, Any]] = [
    *({"mixed": value, "n": i} for i, value in enumerate(MIXED)),
    *({"lang": "en" if i % 3 else "de", "n": i * i, "by": {"age": i / 7}} for i in range(40)),
    *({"tags": [f"t{i % 3}", "all"], "by": {"name": {"last": f"name {i % 4}"}}} for i in range(20)),
    {"by": "nobody"},
    {},
]


@pytest.fixture
def app(config_of: Callable[..., Config], store_settings: dict) -> Iterator[Flask]:
    app = create_app(config_of(MODELS, max_reply_bytes=MOST_BYTES, **store_settings), wait=True)
    yield app
    app.extensions["services"].documents.store.close()


def store(client: FlaskClient, metadata: list[dict[str, Any]], name: str = "c") -> None:
    client.post("/collections", json={"name": name, "dimension": 4, "if_exists": "ok"})
    rows = [{"id": f"{i:05}", "vector": unit(1), "metadata": m} for i, m in enumerate(metadata)]
    for start in range(0, len(rows), 500):
        body = {"vectors": rows[start : start + 500]}
        assert client.post(f"/collections/{name}/vectors", json=body).status_code == 201


def ask(client: FlaskClient, **body: object) -> dict[str, Any]:
    reply = client.post("/collections/c/facets", json=body)
    assert reply.status_code == 200, reply.json
    return dict(reply.json)


def count(client: FlaskClient, *filters: object) -> int:
    body = {"filter": {"$and": [*filters]}}
    return int(client.post("/collections/c/vectors/count", json=body).json["count"])


@pytest.mark.parametrize("filter", [{}, {"lang": "en"}, {"$not": {"by": {"$exists": True}}}])
def test_every_figure_is_what_a_filter_on_it_counts(client: FlaskClient, filter: dict) -> None:
    store(client, METADATA)
    found = ask(client, filter=filter, values=100)
    assert found["exact"] and found["count"] == found["looked_at"] == count(client, filter)
    assert found["fields"] and not found["left_out"]
    for row in found["fields"]:
        name = row["field"]
        assert count(client, filter, {name: {"$exists": False}}) == row["missing"]
        assert sum(row["kinds"].values()) + row["missing"] == found["count"]
        assert len(row["values"]) == row["distinct"] - len(row["elements"])
        for one in row["values"]:
            assert count(client, filter, {name: one["value"]}) == one["count"], (name, one)
        for one in row["elements"]:
            lists = {name: {"$contains": one["value"]}}
            strings = {name: {"$in": ["", "é", "1", one["value"]]}}
            assert count(client, filter, lists, {"$not": strings}) == one["count"], (name, one)
        for at, one in enumerate(row["ranges"]):
            up_to = "$lte" if at == len(row["ranges"]) - 1 else "$lt"
            both = {name: {"$gte": one["from"], up_to: one["to"]}}
            assert count(client, filter, both) == one["count"], (name, one)
        assert sum(one["count"] for one in row["ranges"]) == row["kinds"].get("number", 0)


def test_fields_are_described_as_filters_name_them(client: FlaskClient) -> None:
    store(client, METADATA)
    fields = {row["field"]: row for row in ask(client)["fields"]}
    assert {*fields} == {"mixed", "n", "lang", "by", "by.age", "by.name.last", "tags"}
    assert [*fields][0] == "by"  # of most records; its inner object "by.name" is left out
    assert fields["by"]["kinds"] == {"object": 60, "string": 1}
    assert fields["lang"]["values"] == [{"value": "en", "count": 26}, {"value": "de", "count": 14}]
    assert fields["tags"]["elements"][0] == {"value": "all", "count": 20}
    assert fields["mixed"]["kinds"]["number"] == 4 and fields["mixed"]["kinds"]["boolean"] == 1
    assert fields["n"]["ranges"][0]["from"] == 0 and fields["n"]["ranges"][-1]["to"] == 39 * 39
    asked = ask(client, fields=["tags", "by.age", "no such field"], values=1)["fields"]
    assert [row["field"] for row in asked] == ["tags", "by.age", "no such field"]
    assert len(asked[0]["elements"]) == 1 and asked[2]["missing"] == len(METADATA)
    first = ask(client, limit=2)
    assert len(first["fields"]) == 2 and first["left_out"] == 5


def test_an_empty_collection_has_no_fields(client: FlaskClient) -> None:
    store(client, [])
    assert ask(client) == {"count": 0, "looked_at": 0, "exact": True, "fields": [], "left_out": 0}


def test_of_many_records_a_random_choice_is_looked_at_and_said(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECORDS_MOST", 200)
    store(client, [{"half": "early" if i < 600 else "late", "n": i} for i in range(1200)])
    found = ask(client)
    assert (found["count"], found["looked_at"], found["exact"]) == (1200, 200, False)
    of = {each["value"]: each["count"] for each in found["fields"][0]["values"]}
    assert min(of["early"], of["late"]) > 60  # not the first by id
    assert found == ask(client)
    under = ask(client, filter={"n": {"$lt": 150}})
    assert under["exact"] and under["count"] == 150


def test_costly_metadata_ends_the_look_early_with_a_random_choice(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORK_MOST", 3000)
    store(client, [{"text": "x" * 2000, "n": i} for i in range(600)])  # 22 each
    found = ask(client)
    assert not found["exact"] and found["count"] == 600 and found["looked_at"] == 200
    (row,) = [row for row in found["fields"] if row["field"] == "n"]
    assert row["ranges"][0]["from"] < 60 and row["ranges"][-1]["to"] > 540
    monkeypatch.undo()
    assert ask(client)["exact"]


def test_long_and_very_many_values_are_counted_as_such_and_not_named(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VALUES_OF_ONE", 50)
    store(client, [{"id": i, "long": "y" * (i + 150), "kind": i % 2} for i in range(100)])
    fields = {row["field"]: row for row in ask(client)["fields"]}
    assert (fields["id"]["distinct"], fields["id"]["values"]) == (None, [])
    assert len(fields["id"]["ranges"]) == 5
    assert fields["long"]["distinct"] is None and fields["long"]["kinds"] == {"string": 100}
    assert fields["kind"]["distinct"] == 2
    monkeypatch.setattr(module, "VALUES_OF_ALL", 50)
    monkeypatch.setattr(module, "VALUES_OF_ONE", 100)
    fields = {row["field"]: row for row in ask(client)["fields"]}
    assert fields["id"]["distinct"] is None and fields["kind"]["distinct"] == 2


@pytest.mark.fault("Hostile clients")
def test_hostile_metadata_is_bounded_in_work_and_reply(app: Flask, client: FlaskClient) -> None:
    """10,000 fields, long values, long lists, deep objects -> facets in bounded work, memory and
    bytes of reply; what is left out is said.
    """
    deep: dict[str, Any] = {"end": 1}
    for _ in range(25):
        deep = {"d": deep}
    metadata = [
        *({f"f{i * 500 + j}": "v" * 40 for j in range(500)} for i in range(20)),
        *({"list": [*range(5000)], "text": "z" * 30_000} for _ in range(10)),
    ]
    store(client, metadata)
    unnamed = {"deep": deep, "a.b": 1, "$c": 2, "": 3}  # no filter names these
    app.extensions["services"].documents.store.upsert(
        "c", [Item("past HTTP", unit(1), "", unnamed)]
    )
    body = {"filter": {}, "limit": 200, "values": 100}
    reply = client.post("/collections/c/facets", json=body)
    assert reply.status_code == 200 and len(reply.data) < MOST_BYTES + 2000
    found = reply.json
    assert found["looked_at"] == len(metadata) + 1 and found["exact"]
    assert len(found["fields"]) + found["left_out"] >= 1900
    fields = {row["field"]: row for row in found["fields"]}
    if "list" in fields:  # it may be among those that came late
        assert len(fields["list"]["elements"]) == 100
    listed = ask(client, fields=["list"])["fields"][0]
    assert listed["kinds"] == {"list": 10} and listed["elements"][0]["count"] == 10


def test_a_request_ends_at_its_deadline(app: Flask, client: FlaskClient) -> None:
    store(client, METADATA)
    there = app.extensions["services"].documents.store
    with pytest.raises(DeadlineExceeded):
        facets(there, "c", budget=Budget(deadline=time.monotonic() - 1))


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("nothing", {}, 404),
        ("c", {"filter": {"$xor": []}}, 400),
        ("c", {"fields": []}, 422),
        ("c", {"values": 101}, 422),
        ("c", {"filters": {}}, 422),
    ],
)
def test_what_cannot_be_answered_is_refused(
    client: FlaskClient, name: str, body: dict, status: int
) -> None:
    store(client, [{}])
    assert client.post(f"/collections/{name}/facets", json=body).status_code == status


def test_ranges_hold_about_as_many_numbers_each_and_all_of_them() -> None:
    found = ranges([i * i for i in range(1000)])
    assert [(r.start, r.end) for r in found] == [
        (0, 40_000), (40_000, 160_000), (160_000, 360_000), (360_000, 640_000), (640_000, 998_001),
    ]  # fmt: skip
    assert sum(r.records for r in found) == 1000 and min(r.records for r in found) > 150
    assert [tuple(r) for r in ranges([7, 7.0])] == [(7, 7, 2)]
    assert [tuple(r) for r in ranges([1] * 90 + [2])] == [(1, 2, 91)]
    assert ranges([]) == []
    years = [(r.start, r.end) for r in ranges([1990 + i % 30 for i in range(3000)])]
    assert years == [(1990, 1996), (1996, 2002), (2002, 2008), (2008, 2014), (2014, 2019)]
    for wide in ([-1e308, 0.5, 1e308], [5e-324, 1e-320, 0.0], [2**53, 2**53 + 1, 2**62]):
        assert sum(r.records for r in ranges(wide)) == 3
