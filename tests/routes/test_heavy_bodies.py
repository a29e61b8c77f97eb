"""A body that is small to send and costly to read is refused before it costs anything."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from errors import TooLarge
from routes import ROUTES, body_limits
from schemas.base import LISTS

JSON = {"Content-Type": "application/json"}
MANY = 300_000
SHOWN = "json_schema_input_schema"  # what is told of a field in the description, and no more
BODIES = {model for row in ROUTES for model in (row.body, row.optional_body) if model}


def parts_of(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of a schema that validates, wherever it stands."""
    if isinstance(schema, dict):
        yield schema
        schema = [inner for name, inner in schema.items() if name != SHOWN]
    if isinstance(schema, list | tuple):
        for inner in schema:
            yield from parts_of(inner)


@pytest.mark.parametrize("model", sorted(BODIES, key=str), ids=lambda model: model.__name__)
@pytest.mark.fault("Hostile clients")
def test_every_list_of_a_body_ends_at_its_first_wrong_item(model: type[BaseModel]) -> None:
    """A list of millions of wrong items -> 422 at the first of them."""
    for part in parts_of(model.__pydantic_core_schema__):
        kind = part.get("type") if isinstance(part.get("type"), str) else None  # or a field's name
        if kind in LISTS and kind != "tuple":
            assert part.get("fail_fast"), f"{model.__name__}: a list reads on after a wrong item"
            most = part.get("max_length")
            assert most is not None, f"{model.__name__}: a list has no max_length"
        if kind == "tuple":
            assert part.get("fail_fast")


def body_of(name: str, items: str) -> str:
    return f'{{"{name}": [{items}]}}'


WRONG = {
    "numbers": ("/embed", body_of("texts", "0," * MANY + "0")),
    "one text, then numbers": ("/embed", body_of("texts", '"a",' + "0," * MANY + "0")),
    "texts among token ids": ("/v1/embeddings", body_of("input", "[1]," + '"",' * MANY + '""')),
    "numbers among texts": ("/v1/embeddings", body_of("input", '"",' + "1," * MANY + "1")),
    "texts among ids": ("/v1/embeddings", body_of("input", "1," + '"",' * MANY + '""')),
    "ids": ("/collections/c/vectors/get", body_of("ids", "0," * MANY + "0")),
    "items": ("/collections/c/vectors", body_of("vectors", "0," * 999 + "0")),
    "documents": ("/collections/c/vectors", body_of("documents", "0," * MANY + "0")),
    "a vector": ("/collections/c/search", body_of("vector", '"",' * MANY + '""')),
    "parts": ("/collections/c/search", body_of("include", "0," * MANY + "0")),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body"), WRONG.values(), ids=WRONG)
def test_wrong_items_cost_no_more_than_the_first_one(
    signed_in: FlaskClient, path: str, body: str
) -> None:
    tracemalloc.start()
    reply = signed_in.post(path, data=body, headers=JSON)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reply.status_code in (400, 413, 422)
    assert "problems" not in reply.text
    assert most < 30 * len(body) + 1_000_000  # an error of each item takes 500 bytes and more


HEAVY = {
    "names that nobody knows": ("{" + ",".join(f'"{i}":0' for i in range(30_000)) + "}", "names"),
    "one name over and over": ("{" + '"a":0,' * 30_000 + '"a":0}', "names"),
    "names in metadata": (
        '{"text":"a","metadata":{' + ",".join(f'"{i}":0' for i in range(30_000)) + "}}", "names",
    ),
    "names far down": ('{"a":[[{"b":{' + '"a":{},' * 30_000 + '"a":{}}}]]}', "names"),
    "lists": ('{"texts":[' + "[]," * 600_000 + "[]]}", "lists"),
    "objects": ('{"texts":[' + '{"":0},' * 300_000 + "{}]}", "lists"),
    "brackets that close nothing": ('{"a":[' + "[]," * 20_001 + "}" * 600_000, "lists"),
    "numbers": ('{"texts":[' + "0," * 5_000_001 + "0]}", "5000000 values"),
    "empty texts": ('{"texts":[' + '"",' * 5_000_001 + '""]}', "5000000 values"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "named"), HEAVY.values(), ids=HEAVY)
@pytest.mark.fault("Hostile clients")
def test_a_body_of_too_many_parts_is_refused_before_it_is_parsed(
    signed_in: FlaskClient, body: str, named: str
) -> None:
    """An object of over 1,000 names, a body of over 500,000 lists, objects and names or of over
    5,000,000 values -> 413 before it is parsed.
    """
    reply = signed_in.post("/embed", data=body, headers=JSON)
    assert reply.status_code == 413
    assert named in reply.text


@pytest.mark.parametrize("path", ["/v1/embeddings", "/collections/c/vectors", "/embed-and-store"])
def test_so_is_one_of_any_other_route(signed_in: FlaskClient, path: str) -> None:
    reply = signed_in.post(path, data=HEAVY["names in metadata"][0], headers=JSON)
    assert reply.status_code == 413
    assert "over 1000 names" in reply.text


NOT_HEAVY = {
    "a text full of marks": {"texts": ['{"a":[1,2,{:,"\\' * 40_000]},
    "a text of escapes": {"texts": ['\\"\n\t' * 300_000]},
    "1,000 texts with colons": {"texts": ["at 10:30: {1, 2, [3]}: yes" * 20] * 1000},
}


@pytest.mark.parametrize("body", NOT_HEAVY.values(), ids=NOT_HEAVY)
def test_what_stands_in_a_text_does_not_count(signed_in: FlaskClient, body: object) -> None:
    assert signed_in.post("/embed", json=body).status_code == 200


def test_a_thousand_items_of_many_fields_pass() -> None:
    metadata = {f"field {i}": i for i in range(200)}
    items = [{"id": str(i), "text": "a:b", "metadata": metadata} for i in range(1000)]
    body_limits.refuse_heavy(json.dumps({"vectors": items}).encode())
    body_limits.refuse_heavy(json.dumps({"metadata": {str(i): [{}] for i in range(1000)}}).encode())


JSON_VALUES = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.text(alphabet='a"\\:,{}[]é\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet='ab"\\:{', max_size=3), inner, max_size=4)
    ),
    max_leaves=30,
)


def counted(value: Any) -> tuple[int, int, int]:
    """Commas, then lists and objects and names, then the most names of an object."""
    if not isinstance(value, dict | list):
        return 0, 0, 0
    inner = [counted(each) for each in (value.values() if isinstance(value, dict) else value)]
    names = len(value) if isinstance(value, dict) else 0
    commas = max(len(value) - 1, 0) + sum(row[0] for row in inner)
    return commas, 1 + names + sum(row[1] for row in inner), max([names, *(r[2] for r in inner)])


@given(value=JSON_VALUES, piece=st.integers(1, 40), blanks=st.booleans(), plain=st.booleans(),
       names=st.integers(0, 3), more=st.integers(0, 8), values=st.integers(0, 8))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_what_is_counted_is_what_json_says(
    value: Any, piece: int, blanks: bool, plain: bool, names: int, more: int, values: int
) -> None:
    raw = json.dumps(value, ensure_ascii=plain, separators=None if blanks else (",", ":")).encode()
    limits = {"PIECE": piece, "NAMES": names, "PARTS": 5 * names + more, "VALUES": values}
    found = counted(value)
    heavy = found[0] > values or found[1] > limits["PARTS"] or found[2] > names
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in limits.items():
            patch.setattr(body_limits, name, limit)
        with pytest.raises(TooLarge) if heavy else nullcontext():
            body_limits.refuse_heavy(raw)


def test_the_count_follows_its_limits_exactly() -> None:
    body_limits.refuse_heavy(json.dumps({str(i): 0 for i in range(1000)}).encode())
    with pytest.raises(TooLarge, match="over 1000 names"):
        body_limits.refuse_heavy(json.dumps({"a": {str(i): 0 for i in range(1001)}}).encode())
    with pytest.raises(TooLarge, match="over 1000 names"):  # the shortest there is
        body_limits.refuse_heavy(b"{" + b'"":0,' * 1000 + b'"" : 0}')


def test_half_a_surrogate_pair_in_a_large_body_is_refused_without_a_search(
    signed_in: FlaskClient,
) -> None:
    body = '{"texts": [' + '"aaaaaaaaaa",' * 100_000 + '"\\ud800"]}'
    reply = signed_in.post("/embed", data=body, headers=JSON)
    assert reply.status_code == 422
    assert "a string of the body has half a surrogate pair" in reply.json["error"]


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/embed-and-store"])
@pytest.mark.fault("Hostile clients")
def test_a_prompt_that_is_put_before_each_text_is_short(signed_in: FlaskClient, path: str) -> None:
    """A `prompt` of megabytes, to be put before each of 2,048 texts -> 400 or 422; at most 10,000
    characters are allowed.
    """
    texts = {"input" if path.startswith("/v1") else "texts": ["a"], "collection": "c"}
    if path == "/embed":
        del texts["collection"]
    reply = signed_in.post(path, json={**texts, "prompt": "x" * 10_001})
    assert reply.status_code in (400, 422)
    assert "10,000" in reply.text or "10000" in reply.text
    assert signed_in.post(path, json={**texts, "prompt": "x" * 10_000}).status_code < 300
