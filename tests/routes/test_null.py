"""Null is the same as leaving a field out, for every field of every body that may be left out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import BaseModel, ValidationError

from errors import BadRequest
from routes import ROUTES
from routes.openapi import description, examples
from schemas.records import AddBody


def fields() -> Iterator[Any]:
    seen = set()
    for row in ROUTES:
        model = row.body or row.optional_body
        if model is None or model in seen:
            continue
        seen.add(model)
        base = examples().get(f"{row.method} {row.path}", {}).get("body", {})
        for name, field in model.model_fields.items():
            if not field.is_required():
                yield pytest.param(model, base, name, id=f"{model.__name__}.{name}")


def read(model: type[BaseModel], body: dict[str, Any]) -> BaseModel | None:
    try:
        return model.model_validate_json(json.dumps(body))
    except (ValidationError, BadRequest):
        return None


@pytest.mark.parametrize(("model", "base", "name"), list(fields()))
@pytest.mark.fault("Malformed requests")
def test_null_is_unset(model: type[BaseModel], base: dict[str, Any], name: str) -> None:
    """Null for an optional field -> the same as leaving it out, in every body."""
    without = {key: value for key, value in base.items() if key != name}
    assert read(model, {**without, name: None}) == read(model, without)


@pytest.mark.parametrize("name", ["id", "vector", "text", "metadata"])
def test_null_is_unset_in_an_item_too(name: str) -> None:
    item = {"id": "a", "vector": [1.0, 2.0], "text": "b"}
    without = {key: value for key, value in item.items() if key != name}
    bare = AddBody.model_validate({"vectors": [without]})
    assert AddBody.model_validate({"vectors": [{**without, name: None}]}) == bare


def test_null_is_not_taken_for_a_field_that_is_needed(signed_in: FlaskClient) -> None:
    reply = signed_in.post("/settings", json={"key": None, "value": 1})
    assert reply.status_code == 422
    assert reply.json["param"] == "key"


def test_what_null_means_is_in_the_description() -> None:
    parts = description("")["components"]["schemas"]["RotateBody"]["properties"]["overlap_s"]
    assert {"type": "null"} in parts["anyOf"]
    assert parts["default"] == 3600
