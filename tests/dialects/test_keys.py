"""Several routes on one path: which of them takes a body is decided by the body's keys."""

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from routes import ROUTES
from routes.parse import choose
from routes.table import NATIVE, Dialect, Failure, Route, by_endpoint

BODIES = [
    ({"inputs": "a"}, "tei"),
    ({"inputs": []}, "tei"),
    ({"inputs": None}, "ours"),
    ({"texts": ["a"]}, "ours"),
    ({"texts": ["inputs"]}, "ours"),
    ({"texts": ['"inputs":']}, "ours"),
    ({"text": "inputs"}, "ours"),
    ({"model": "inputs", "texts": ["a"]}, "ours"),
    ({"options": {"inputs": 1}, "texts": ["a"]}, "ours"),
    ({"texts": [{"inputs": 1}]}, "ours"),
    ({"prompt": "a", "inputs": None}, "vllm"),
    ({"messages": [], "texts": None}, "vllm"),
    ({"inputs": "a", "prompt": "b"}, "tei"),
    ({}, "ours"),
    ([], "ours"),
    (["inputs"], "ours"),
    ("inputs", "ours"),
    (5, "ours"),
]  # fmt: skip
ROOM = [row for rows in by_endpoint(ROUTES).values() if len(rows) > 1 for row in rows]


def rows() -> list[Route]:
    """The rows of one path; a handler of each is not needed to choose one."""

    def row(name: str, *keys: str) -> Route:
        dialect = Dialect(name, lambda failure: (failure.status, {}))
        return Route("POST", "/x", access="embed", tag="x", keys=keys, dialect=dialect)

    made = [row("ours"), row("tei", "inputs"), row("vllm", "prompt", "messages")]
    return by_endpoint(made)["POST /x"]


@pytest.mark.parametrize(("body", "taken"), BODIES, ids=str)
def test_the_first_row_whose_key_the_body_has_takes_it(body: Any, taken: str) -> None:
    for raw in (json.dumps(body), json.dumps(body, indent=2), json.dumps(body).replace(":", " : ")):
        assert choose(rows(), raw.encode()).dialect.name == taken


@pytest.mark.parametrize(
    ("raw", "taken"),
    [
        (b'{"inputs": ["a"', "tei"),
        (b'{"prompt" "a"}', "vllm"),
        (b"{", "ours"),
        (b"", "ours"),
        (b'{"inputs": 1, "inputs": null}', "ours"),  # the last counts, as in the body itself
        (b'{"inputs": "\xff"}', "tei"),
        (b'{"inputs": "\\ud800"}', "tei"),
    ],
)
def test_a_body_that_is_no_json_is_refused_by_the_row_that_was_meant(
    raw: bytes, taken: str
) -> None:
    assert choose(rows(), raw).dialect.name == taken


def test_the_row_without_keys_is_the_default_wherever_it_stands() -> None:
    assert [row.keys for row in rows()] == [("inputs",), ("prompt", "messages"), ()]


@pytest.mark.parametrize("endpoint", sorted({row.endpoint for row in ROOM}))
def test_who_may_call_and_how_much_is_one_for_all_rows_of_a_path(endpoint: str) -> None:
    """The caller is checked before the body is read, which decides the row."""
    found = by_endpoint(ROUTES)[endpoint]
    assert [row for row in found if not row.keys] == found[-1:], "one row has no keys"
    taken = [key for row in found for key in row.keys]
    assert len(taken) == len(set(taken))
    for field in ("access", "works", "counted", "large", "any_page", "own_account", "probe"):
        assert len({getattr(row, field) for row in found}) == 1, field
    assert all(row.body is not None for row in found)
    if found[-1].body.model_config.get("extra") == "forbid":  # it is read before keys are sought
        assert not set(found[-1].body.model_fields) & set(taken)
    assert not any(row.scope or row.optional_body or row.form for row in found)


def test_no_endpoint_is_there_twice_with_the_same_keys() -> None:
    names = [row.name for row in ROUTES]
    assert len(names) == len(set(names))


DIALECTS = list({row.dialect.name: row.dialect for row in ROUTES}.values())


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_says_every_failure(fake_app: Flask, dialect: Dialect) -> None:
    for status in (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504, 507):
        failure = Failure(status, "a_code", "what is wrong", "a_field", "an-id", None)
        with fake_app.test_request_context():
            given, body = dialect.error(failure)
        assert 400 <= given < 600 and (given < 500) == (status < 500)
        assert "what is wrong" in json.dumps(body)
        assert set(body) >= dialect.reply.__required_keys__
        assert set(body) <= dialect.reply.__annotations__.keys()
    assert (dialect is NATIVE) == (dialect.name == "native")


def test_the_native_path_takes_a_body_with_the_words_of_others(fake_client: FlaskClient) -> None:
    for text in ("inputs", '"inputs"', 'a"inputs', '{"inputs": 1}'):
        reply = fake_client.post("/embed", json={"texts": [text]})
        assert reply.status_code == 200 and reply.json["count"] == 1
