"""`/v1` is OpenAI's API: by its reference, and by its official client."""

import base64
import threading
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from tests.conftest import free_port

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
FOX = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def client(real_app: Flask) -> Iterator[openai.OpenAI]:
    """The official client, talking to a real server."""
    server = make_server("127.0.0.1", free_port(), real_app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{server.port}/v1", api_key="unused", max_retries=0
    ) as made:
        yield made
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_gives_the_documented_reply(real_client: FlaskClient) -> None:
    body = {"input": [FOX], "model": MINILM}
    reply = real_client.post("/v1/embeddings", json=body).json
    assert set(reply) == {"object", "data", "model", "usage"}
    assert (reply["object"], reply["model"]) == ("list", MINILM)
    assert reply["data"][0]["object"] == "embedding"
    assert reply["data"][0]["index"] == 0
    assert len(reply["data"][0]["embedding"]) == 384
    assert reply["usage"] == {"prompt_tokens": 12, "total_tokens": 12}


def test_the_client_works_with_its_defaults(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model="minilm", input=FOX)  # asks for base64 by itself
    assert len(reply.data[0].embedding) == 384
    assert reply.usage.total_tokens == 12


def test_base64_and_float_are_the_same_numbers(
    client: openai.OpenAI, real_client: FlaskClient
) -> None:
    texts = [FOX, "another"]
    floats = client.embeddings.create(model=MINILM, input=texts, encoding_format="float")
    body = {"model": MINILM, "input": texts, "encoding_format": "base64"}
    raw = real_client.post("/v1/embeddings", json=body).json["data"]
    for given, item in zip(floats.data, raw, strict=True):
        decoded = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        np.testing.assert_allclose(decoded, given.embedding, atol=1e-7)
    assert [item.index for item in floats.data] == [0, 1]


def test_null_encoding_format_means_float(real_client: FlaskClient) -> None:
    body = {"model": MINILM, "input": "x", "encoding_format": None, "user": "u-1"}
    reply = real_client.post("/v1/embeddings", json=body).json
    assert isinstance(reply["data"][0]["embedding"], list)


def test_dimensions_cut_and_normalise(client: openai.OpenAI) -> None:
    vector = client.embeddings.create(model="minilm", input=FOX, dimensions=16).data[0].embedding
    assert len(vector) == 16
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_token_ids_are_taken_in_both_forms(client: openai.OpenAI) -> None:
    hello = [7592, 2088]  # "hello world" in the model's own vocabulary
    text = client.embeddings.create(model="minilm", input="hello world").data[0].embedding
    one = client.embeddings.create(model="minilm", input=hello).data[0].embedding
    many = client.embeddings.create(model="minilm", input=[hello, [101, *hello, 102]])
    for vector in (one, *(item.embedding for item in many.data)):
        np.testing.assert_allclose(vector, text, atol=1e-6)
    assert many.usage.prompt_tokens == 8


def test_an_unknown_model_is_openais_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="gpt-none", input="x")
    body = refused.value.body
    assert set(body) == {"message", "type", "param", "code"}
    assert body["code"] == "model_not_found"
    assert body["type"] == "invalid_request_error"
    assert body["param"] == "model"
    assert "minilm" in body["message"]


@pytest.mark.parametrize("empty", [[], [[]]])
def test_an_empty_input_is_refused(client: openai.OpenAI, empty: list) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="minilm", input=empty)
    assert refused.value.body["param"].startswith("input")


@pytest.mark.fault("Malformed requests")
def test_an_empty_string_is_embedded_as_the_model_does(client: openai.OpenAI) -> None:
    """An empty text -> the vector that the model gives it."""
    assert len(client.embeddings.create(model="minilm", input="").data[0].embedding) == 384


@pytest.mark.fault("Malformed requests")
@pytest.mark.parametrize("ids", [[-1], [30522], [2**40], [[1, 2], [10**30]]])
def test_a_token_id_out_of_range_is_refused(real_client: FlaskClient, ids: list) -> None:
    """A token id that the model does not have -> 400, before any pass."""
    reply = real_client.post("/v1/embeddings", json={"model": "minilm", "input": ids})
    assert reply.status_code in (400, 422)
    assert reply.json["error"]["type"] == "invalid_request_error"


def test_foreign_token_ids_name_the_remedy(real_client: FlaskClient) -> None:
    reply = real_client.post("/v1/embeddings", json={"model": "minilm", "input": [[99999]]})
    assert "check_embedding_ctx_length=False" in reply.json["error"]["message"]


@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]]])
def test_token_ids_are_refused_where_they_are_not_wanted(
    fake_client: FlaskClient, ids: list
) -> None:
    given = {"model": "fake", "input": ids}
    assert fake_client.post("/v1/embeddings", json=given).status_code == 200
    fake_client.post("/settings", json={"key": "token_ids", "value": "refuse"})
    reply = fake_client.post("/v1/embeddings", json=given)
    assert reply.status_code == 400
    assert "check_embedding_ctx_length=False" in reply.json["error"]["message"]
    assert reply.json["error"]["param"] == "input"
    for texts in ("a", ["a", "b"]):
        reply = fake_client.post("/v1/embeddings", json={"model": "fake", "input": texts})
        assert reply.status_code == 200


@pytest.mark.parametrize("ids", [[True, False], [1.5], [1, "a"], [[1], "a"], ["a", 1], [None]])
def test_mixed_inputs_are_refused(real_client: FlaskClient, ids: list) -> None:
    reply = real_client.post("/v1/embeddings", json={"model": "minilm", "input": ids})
    assert reply.status_code == 400


def test_too_long_is_400_when_truncation_is_refused(real_client: FlaskClient) -> None:
    body = {"model": "minilm", "input": "long " * 400, "truncate": "error"}
    reply = real_client.post("/v1/embeddings", json=body)
    assert reply.status_code == 400
    assert reply.json["error"]["code"] == "input_too_long"


@pytest.mark.fault("Malformed requests")
def test_too_many_inputs_is_400_here_and_413_on_the_native_route(
    fake_client: FlaskClient,
) -> None:
    """More texts than `MAX_TEXTS_PER_REQUEST` -> 413; 400 in OpenAI's form on `/v1`."""
    texts = ["x"] * 2049
    reply = fake_client.post("/v1/embeddings", json={"model": "fake", "input": texts})
    assert reply.status_code == 400
    assert "2048" in reply.json["error"]["message"]
    assert fake_client.post("/embed", json={"texts": texts}).status_code == 413


def test_prompts_work_here_too(real_client: FlaskClient) -> None:
    body = {"model": "minilm", "input": "cats", "input_type": "search_query"}
    assert real_client.post("/v1/embeddings", json=body).status_code == 200
    body["prompt_name"] = "nonsense"
    reply = real_client.post("/v1/embeddings", json=body)
    assert reply.status_code == 400
    assert reply.json["error"]["param"] == "prompt_name"


def test_the_client_lists_and_describes_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["minilm"]
    assert client.models.retrieve("minilm").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")
