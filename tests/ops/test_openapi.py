"""The API's description is valid and complete, and its examples are what the service answers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from openapi_spec_validator import validate

from documents.map_files import STATE
from factory import create_app
from routes.openapi import EXAMPLES, described, described_path, description
from routes.table import by_endpoint
from tests.routes.examples import STEPS, service, walked

SHOWN: dict[str, dict[str, Any]] = json.loads(EXAMPLES.read_text())
# What differs from run to run or from machine to machine; its type is compared.
VARIES = {
    "created", "updated", "expires", "revoked", "last_used", "at", "id", "uuid", "source", "ms",
    "processing_time_ms", "access_token", "api_key", "backend", "dtype", "fingerprint", "breaker",
    "average_request_ms", "memory_bytes", "cpu_seconds", "requests_total", "errors_total",
    "texts_total", "tokens_total", "truncated_inputs_total", "cache_hits_total", "cursor",
    "version", "x", "y", "explained", "max_batch_size", "batch_size", "threads", "description",
    "id_", "deleted", "hosts", "modified_at", "expires_at", "size", "size_vram", "digest",
    "total_duration", "load_duration", "rate", "left_s",
}  # fmt: skip


def test_the_description_is_valid_openapi() -> None:
    for auth in (False, True):
        validate(description("1", auth))


def test_every_route_of_the_table_is_described() -> None:
    there = {
        (method.upper(), path)
        for path, methods in description("1")["paths"].items()
        for method in methods
    }
    assert there == {(row.method, described_path(row.path)) for row in described()}


def test_operations_have_names_of_their_own() -> None:
    paths = description("1")["paths"].values()
    ids = [operation["operationId"] for methods in paths for operation in methods.values()]
    assert len(ids) == len(set(ids))


def test_who_must_sign_in_is_said() -> None:
    def security(auth: bool) -> list[dict]:
        return description("1", auth)["paths"]["/embed"]["post"]["security"]

    assert {} in security(False) and {} not in security(True)
    assert "security" not in description("1", True)["paths"]["/health"]["get"]


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    paths = description("1")["paths"]
    for name, (*_, row) in by_endpoint(described()).items():
        yield name, paths[described_path(row.path)][row.method.lower()]


def shown_in(content: dict[str, Any]) -> list[Any]:
    """Return the examples of a body: one, or one of each row of a path."""
    named = [each["value"] for each in content.get("examples", {}).values()]
    return [content["example"]] if "example" in content else named


def test_every_operation_has_examples_of_what_it_takes_and_answers() -> None:
    rows = by_endpoint(described())
    for name, operation in operations():
        examples = [
            example
            for status, answer in operation["responses"].items()
            for content in answer["content"].values()
            if status < "3"
            for example in shown_in(content)
        ]
        assert len(examples) == len(rows[name]), name
        for parameter in operation.get("parameters", ()):
            assert "example" in parameter or not parameter["required"], name
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            if content["schema"].get("format") != "binary":  # a file
                assert len(shown_in(content)) == len(rows[name]), name


def check(example: object, schema: dict[str, Any]) -> None:
    """Raise ValidationError unless an example has a schema of the description."""
    Draft202012Validator({**schema, "components": description("1")["components"]}).validate(example)


def test_every_example_has_the_described_schema() -> None:
    checked = 0
    for _, operation in operations():
        contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
        contents += [answer["content"] for answer in operation["responses"].values()]
        for content in (each for part in contents for each in part.values()):
            for example in shown_in(content):
                check(example, content["schema"])
                checked += 1
    assert checked > len(STEPS)
    with pytest.raises(ValidationError):
        check({"status": "dying"}, {"$ref": "#/components/schemas/LiveReply"})


def like(got: Any, shown: Any, name: str = "") -> None:
    """Assert that an answer is the shown one, but for what varies."""
    if name in VARIES or (name == "state" and STATE.fullmatch(shown)):  # of a map
        assert isinstance(got, type(shown)) or {type(got), type(shown)} <= {int, float}, name
    elif isinstance(shown, dict):
        assert got.keys() == shown.keys(), name
        for key in shown:
            like(got[key], shown[key], key)
    elif isinstance(shown, list):
        assert len(got) == len(shown), name
        for one, other in zip(got, shown, strict=True):
            like(one, other)
    elif isinstance(shown, float):
        assert got == pytest.approx(shown, abs=2e-3), name
    else:
        assert got == shown, name


def test_the_service_answers_as_its_examples_show(tmp_path) -> None:
    with service(tmp_path) as app:
        calls = walked(app)
    assert set(calls) == set(SHOWN) == {row.name for row in described()}
    for name, call in calls.items():
        try:
            like(call, SHOWN[name])
        except AssertionError as exc:
            raise AssertionError(
                f"{name}: {exc}; if it should: python -m tests.routes.examples"
            ) from exc


@pytest.mark.parametrize("wrong", [{"a": 2}, {"b": 1}, {"a": [1.0, 1.0]}, {"a": [1.1]}])
def test_another_answer_would_be_seen(wrong: dict) -> None:
    """The control of the comparison."""
    like({"a": [1.001], "created": 3.5}, {"a": [1.0], "created": 7})
    with pytest.raises((AssertionError, TypeError)):
        like(wrong, {"a": [1.0]})


def test_an_array_of_bytes_is_described_with_its_headers() -> None:
    paths = description("1")["paths"]
    for path in ("/embed", "/batch-embed", "/embed/single", "/v1/embeddings"):
        good = paths[path]["post"]["responses"]["200"]
        schema = good["content"]["application/octet-stream"]["schema"]
        assert schema == {"type": "string", "format": "binary"}
        assert set(good["headers"]) == {
            "X-Embedding-Shape", "X-Embedding-Dtype", "X-Embedding-Tokens"
        }  # fmt: skip
    assert "headers" not in paths["/metrics"]["get"]["responses"]["200"]


@pytest.mark.parametrize(
    "body",
    [{"documents": ["a"]}, {"texts": ["a"], "return_text": True, "truncate": True},
     {"documents": ["a"], "return_documents": "True", "truncate": "END"},
     {"documents": [{"text": "a", "title": "b"}], "other": 1}],
)  # fmt: skip
def test_the_description_of_rerank_takes_what_the_service_takes(body: dict, config_of: Any) -> None:
    sent = {"query": "q", **body}
    models = {"r": {"type": "fake", "model_name": "tests/r+score"}}
    client = create_app(config_of(models), wait=True).test_client()
    assert client.post("/rerank", json=sent).status_code == 200
    given = description("1")["paths"]["/rerank"]["post"]["requestBody"]["content"]
    check(sent, given["application/json"]["schema"])
