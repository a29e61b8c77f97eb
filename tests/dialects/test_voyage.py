"""Voyage's client finds what it sends and reads on the routes that are its own."""

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

MINILM = "minilm"
CHUNKS = [["The cat sat on the mat.", "It was black."], ["Stocks fell.", "They rose.", "Nobody."]]
# What voyageai 0.5 sends.
SENT = {"model": MINILM, "input_type": None, "output_dtype": None, "output_dimension": None,
        "encoding_format": "base64"}  # fmt: skip


def contextual(client: FlaskClient, inputs: object, **fields: Any) -> Any:
    body = {"inputs": inputs, "model": MINILM, **fields}
    reply = client.post("/v1/contextualizedembeddings", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json


def multimodal(client: FlaskClient, texts: list[str], **fields: Any) -> Any:
    inputs = [{"content": [{"type": "text", "text": text}]} for text in texts]
    reply = client.post("/v1/multimodalembeddings", json={"inputs": inputs, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json


def openai(client: FlaskClient, texts: list[str], **fields: Any) -> list[Any]:
    reply = client.post("/v1/embeddings", json={"input": texts, **fields})
    assert reply.status_code == 200, reply.text
    return [row["embedding"] for row in reply.json["data"]]


def vectors_of(reply: Any) -> list[np.ndarray]:
    return [np.array([row["embedding"] for row in each["data"]]) for each in reply["data"]]


def test_chunks_are_answered_by_document_and_in_order(real_client: FlaskClient) -> None:
    got = contextual(real_client, CHUNKS)
    assert got["object"] == "list" and got["model"] == MINILM
    assert [each["index"] for each in got["data"]] == [0, 1]
    assert [[row["index"] for row in each["data"]] for each in got["data"]] == [[0, 1], [0, 1, 2]]
    assert all(not {"text"} & set(row) for each in got["data"] for row in each["data"])
    assert got["usage"]["total_tokens"] > 20
    for document, vectors in zip(CHUNKS, vectors_of(got), strict=True):
        assert vectors.shape == (len(document), 384)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_chunk_is_read_in_the_light_of_its_document(real_client: FlaskClient) -> None:
    with_cat = vectors_of(contextual(real_client, CHUNKS))[0][1]
    alone = np.array(openai(real_client, [CHUNKS[0][1]])[0])
    cat = np.array(openai(real_client, ["The cat is black."])[0])
    assert with_cat @ cat > alone @ cat + 0.1
    (late,) = vectors_of(contextual(real_client, [CHUNKS[0]]))
    flat = openai(real_client, CHUNKS[0], late_chunking=True)
    np.testing.assert_allclose(flat, late, atol=1e-5)


@pytest.mark.parametrize(
    "inputs", [["a question", "another one"], [["a question"], ["another one"]]]
)
def test_texts_alone_are_what_they_are_everywhere(
    real_client: FlaskClient, inputs: list[Any]
) -> None:
    got = vectors_of(contextual(real_client, inputs, input_type="query"))
    want = openai(real_client, ["a question", "another one"], input_type="query")
    np.testing.assert_allclose([rows[0] for rows in got], want, atol=1e-5)


def test_voyages_client_reads_the_bytes_as_the_type_it_asked_for(real_client: FlaskClient) -> None:
    plain = vectors_of(contextual(real_client, CHUNKS))
    packed = contextual(real_client, CHUNKS, **SENT)
    for want, each in zip(plain, packed["data"], strict=True):
        got = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in each["data"]]
        np.testing.assert_allclose(got, want, atol=1e-6)
    small = contextual(real_client, CHUNKS, **{**SENT, "output_dtype": "int8"})
    for want, each in zip(plain, small["data"], strict=True):
        got = [np.frombuffer(base64.b64decode(row["embedding"]), "i1") for row in each["data"]]
        np.testing.assert_allclose(got, np.rint(want * 127), atol=1)
    numbers = contextual(real_client, CHUNKS, output_dtype="int8", output_dimension=64)
    assert all(len(row["embedding"]) == 64 for each in numbers["data"] for row in each["data"])


def test_inputs_of_text_parts_are_texts(kinds: FlaskClient) -> None:
    texts = ["the first", "the second"]
    got = multimodal(kinds, texts, input_type="query", truncation=True)
    assert [row["embedding"] for row in got["data"]] == openai(kinds, texts, input_type="query")
    assert [row["index"] for row in got["data"]] == [0, 1]
    tokens = got["usage"]["total_tokens"]
    assert got["usage"] == {"text_tokens": tokens, "image_pixels": 0, "video_pixels": 0,
                            "total_tokens": tokens}  # fmt: skip
    packed = multimodal(kinds, texts, encoding_format="base64", output_dtype="int8",
                        output_dimension=None)  # fmt: skip
    got = [row["embedding"] for row in packed["data"]]
    assert got == openai(kinds, texts, encoding_format="base64", output_dtype="int8")
    whole = kinds.post(
        "/v1/multimodalembeddings",
        json={
            "inputs": [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
        },
    ).json
    assert [row["embedding"] for row in whole["data"]] == openai(kinds, ["a\nb"])


def refused(client: FlaskClient, path: str, **body: Any) -> str:
    """Return what Voyage's client shows of a 400."""
    reply = client.post(path, json=body)
    assert reply.status_code == 400, reply.text
    return str(reply.json["detail"])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"inputs": []}, "inputs: "),
        ({"inputs": [[]]}, "inputs.0: "),
        ({"inputs": [["a", ""]]}, "inputs.0.1: "),
        ({"inputs": [["a", 5]]}, "inputs.0.1: "),
        ({"inputs": "a"}, "inputs: "),
        ({"inputs": None}, "inputs"),
        ({"inputs": None, "input": ["a"]}, "inputs"),
        ({"enable_auto_chunking": True}, "enable_auto_chunking: true is refused"),
        ({"chunk_size": 100}, "chunk_size: 100 is refused"),
        ({"output_dtype": "int4"}, "output_dtype: "),
        ({"output_dimension": 100_000}, "output_dimension: "),
        ({"dimensions": 4}, "dimensions: 4 is refused"),
        ({"encoding_format": "bytes"}, "encoding_format: "),
        ({"input_type": "nonsense"}, "unknown prompt 'nonsense'"),
        ({"model": "nope"}, "unknown model 'nope'"),
    ],
)
def test_what_cannot_be_done_is_a_400_that_names_the_field(
    real_client: FlaskClient, fields: dict[str, Any], told: str
) -> None:
    body = {"inputs": CHUNKS, "model": MINILM, **fields}
    assert told in refused(real_client, "/v1/contextualizedembeddings", **body)


def test_a_document_over_the_models_limit_is_refused(real_client: FlaskClient) -> None:
    inputs = [["short"], ["word " * 200, "word " * 200]]
    told = refused(real_client, "/v1/contextualizedembeddings", inputs=inputs, model=MINILM)
    assert told.startswith("inputs.1.1: ") and "256" in told
    told = refused(real_client, "/v1/contextualizedembeddings", inputs=["short", "word " * 300])
    assert told.startswith("inputs.1.0: ") and "256" in told
    got = vectors_of(contextual(real_client, inputs, truncation=True))
    assert [len(vectors) for vectors in got] == [1, 2]


def test_a_reply_is_limited_with_what_stands_around_its_documents(kinds: FlaskClient) -> None:
    services = kinds.application.extensions["services"]
    inputs = [["a"]] * 50
    body = {"inputs": inputs, "model": "dense", "encoding_format": "base64"}
    reply = kinds.post("/v1/contextualizedembeddings", json=body)
    assert reply.status_code == 200
    smaller = services.config.model_copy(update={"max_reply_bytes": len(reply.data) - 1})
    kinds.application.extensions["services"] = replace(services, config=smaller)
    try:
        reply = kinds.post("/v1/contextualizedembeddings", json=body)
    finally:
        kinds.application.extensions["services"] = services
    assert reply.status_code == 413


@pytest.mark.parametrize(
    "part",
    [{"type": "image_url", "image_url": "http://secret"}, {"type": "image_base64"},
     {"type": "video_url"}, {"image_url": "http://secret"}],
)  # fmt: skip
def test_images_are_refused_as_what_they_are(kinds: FlaskClient, part: dict[str, str]) -> None:
    inputs = [{"content": [{"type": "text", "text": "a"}, part]}]
    told = refused(kinds, "/v1/multimodalembeddings", inputs=inputs)
    assert "text only" in told and "secret" not in told
