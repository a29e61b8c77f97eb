"""Each path's errors have the body that the clients of that path read."""

import pytest
from flask.testing import FlaskClient

MESSAGES = ("message", "detail")
UNION = ["/v1/nothing", "/v2/nothing", "/embeddings/nothing", "/openai/nothing", "/v1/embeddings/x"]


def assert_union(reply, status: int) -> None:
    """Assert the one body that the SDKs of OpenAI, Cohere, Voyage and Jina all read."""
    assert reply.status_code == status, reply.text
    body = reply.json
    assert set(body) == {"error", "message", "detail", "code", "type"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert (body["code"], body["type"]) == (status, body["error"]["type"])


@pytest.mark.parametrize("path", UNION)
def test_an_unknown_path_is_answered_in_the_words_of_its_neighbours(
    fake_client: FlaskClient, path: str
) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert_union(fake_client.open(path, method=method), 404)
    reply = fake_client.get("/nothing")
    assert set(reply.json) == {"error", "error_type", "request_id"}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_every_error_of_a_path_has_its_body(fake_client: FlaskClient, path: str) -> None:
    json = {"Content-Type": "application/json"}
    for status, data, headers in (
        (400, b"{}", json),
        (400, b"{", json),
        (400, b"", json),
        (400, b'{"input": 5}', json),
        (400, b'{"input": "a", "model": "none"}', json),
        (400, b'{"input": "a", "dimensions": 900}', json),
        (415, b'{"input": "a"}', {"Content-Type": "text/plain"}),
        (415, b"x", {**json, "Content-Encoding": "gzip"}),
    ):
        assert_union(fake_client.post(path, data=data, headers=headers), status)
    assert_union(fake_client.delete(path), 405)


def test_a_wrong_value_is_422_on_our_own_routes(fake_client: FlaskClient) -> None:
    reply = fake_client.post("/embed", json={"texts": 5})
    assert reply.status_code == 422
    assert set(reply.json) == {"error", "error_type", "request_id", "param"}


def test_too_many_inputs_are_400_as_at_openai(fake_client: FlaskClient) -> None:
    for path in ("/v1/embeddings", "/embeddings"):
        reply = fake_client.post(path, json={"input": ["x"] * 2049})
        assert_union(reply, 400)
        assert reply.json["error"]["param"] == "input"
        assert "2048" in reply.json["message"]


def test_the_field_at_fault_and_the_kind_of_error_are_told(fake_client: FlaskClient) -> None:
    reply = fake_client.post("/v1/embeddings", json={"input": ["a", 5]})
    assert_union(reply, 400)
    assert reply.json["error"]["param"] == "input.1"
    assert reply.json["error"]["code"] == "invalid_input"
    reply = fake_client.post("/v1/embeddings", json={"input": "a", "model": "none"})
    assert reply.json["error"]["code"] == "model_not_found"
    reply = fake_client.post(
        "/v1/embeddings", json={"input": "a", "model": "fake", "return_multivector": True}
    )
    assert_union(reply, 400)
    assert (reply.json["error"]["param"], reply.json["error"]["code"]) == (
        "return_multivector", "wrong_kind"
    )  # fmt: skip
