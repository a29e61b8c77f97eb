"""Cohere's clients find what they send and read: vectors are those of `/v1/embeddings`."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from factory import create_app

TEXTS = ["the first text", "another", "and a third one"]
MEANT = {"model": "dense", "input_type": "search_document"}
KINDS = ("float", "int8", "uint8", "binary", "ubinary", "base64")
BITS_FROM = {"binary": -128, "ubinary": 0}


def good(client: FlaskClient, path: str = "/v2/embed", **fields: Any) -> Any:
    reply = client.post(path, json={"texts": TEXTS, **MEANT, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json


def refused(client: FlaskClient, path: str = "/v2/embed", **fields: Any) -> Any:
    """Return the body of a 400, in which every SDK finds what it reads."""
    reply = client.post(path, json={"texts": TEXTS, **MEANT, **fields})
    assert reply.status_code == 400, reply.text
    said = reply.json
    assert said["message"] == said["detail"] == said["error"]["message"]
    return said["error"]


def openai(client: FlaskClient, texts: list[str] | None = None, **fields: Any) -> list[Any]:
    """Return the same vectors as OpenAI's clients get them."""
    body = {"input": texts or TEXTS, "model": "dense", "input_type": "document", **fields}
    reply = client.post("/v1/embeddings", json=body)
    assert reply.status_code == 200, reply.text
    return [row["embedding"] for row in reply.json["data"]]


def test_version_2_answers_in_its_form(kinds: FlaskClient) -> None:
    got = good(kinds)
    assert got["embeddings"] == {"float": openai(kinds)}
    assert got["texts"] == TEXTS and got["images"] == []
    assert got["response_type"] == "embeddings_by_type" and got["id"]
    words = sum(len(text.split()) for text in TEXTS)
    assert got["meta"] == {
        "api_version": {"version": "2"}, "billed_units": {"input_tokens": words}
    }  # fmt: skip


def test_all_types_at_once_are_of_one_encoding(
    config_of: Callable[..., Config], kinds: FlaskClient
) -> None:
    got = good(kinds, embedding_types=list(KINDS))["embeddings"]
    assert list(got) == list(KINDS)
    vectors = np.array(openai(kinds), np.float32)
    assert got["float"] == vectors.astype(float).tolist() or np.array_equal(
        np.array(got["float"], np.float32), vectors
    )
    for text, row in zip(got["base64"], vectors, strict=True):
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(text), "<f4"), row)
    scaled = np.rint(vectors * 127).astype(int)
    assert got["int8"] == scaled.tolist()
    assert got["uint8"] == (scaled + 128).tolist()
    for kind, least in BITS_FROM.items():
        assert got[kind] == (np.packbits(vectors > 0, axis=1).astype(int) + least).tolist()
    client = create_app(config_of(), wait=True).test_client()
    reply = client.post("/v2/embed", json={"texts": TEXTS, "embedding_types": list(KINDS)})
    assert reply.headers["X-Cache"] == "hits=0, misses=3"
    reply = client.post("/v2/embed", json={"texts": TEXTS, "embedding_types": ["int8"]})
    assert reply.headers["X-Cache"] == "hits=3, misses=0"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_types_asked_for_are_there(kinds: FlaskClient, kind: str) -> None:
    """Haystack takes the first that is there."""
    got = good(kinds, embedding_types=[kind, kind])["embeddings"]
    assert list(got) == [kind] and len(got[kind]) == len(TEXTS)


def test_each_type_is_what_openais_route_gives(kinds: FlaskClient) -> None:
    for kind in ("int8", "uint8", "binary", "ubinary"):
        got = good(kinds, embedding_types=[kind])["embeddings"][kind]
        assert got == openai(kinds, output_dtype=kind)
    got = good(kinds, embedding_types=["base64"])["embeddings"]["base64"]
    assert got == openai(kinds, encoding_format="base64")


def test_version_1_without_types_has_the_vectors_alone(kinds: FlaskClient) -> None:
    got = good(kinds, "/v1/embed")
    assert got["response_type"] == "embeddings_floats"
    assert got["embeddings"] == openai(kinds)
    assert got["texts"] == TEXTS
    assert got["meta"]["api_version"] == {"version": "1"}
    assert got["meta"]["billed_units"] == {"input_tokens": 8}


def test_version_1_with_types_has_them_by_type(kinds: FlaskClient) -> None:
    got = good(kinds, "/v1/embed", embedding_types=["float", "int8"])
    assert got["response_type"] == "embeddings_by_type"
    assert got["embeddings"]["float"] == openai(kinds)
    assert got["embeddings"]["int8"] == openai(kinds, output_dtype="int8")


def test_inputs_are_texts_in_parts(kinds: FlaskClient) -> None:
    parts = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    got = good(kinds, texts=None, inputs=parts)
    assert got["embeddings"]["float"] == openai(kinds)
    two = [{"content": [{"type": "text", "text": "a b"}, {"type": "text", "text": "c"}]}]
    got = good(kinds, texts=None, inputs=two)
    assert got["texts"] == ["a b\nc"]
    assert got["embeddings"]["float"] == openai(kinds, ["a b\nc"])


@pytest.mark.parametrize(
    ("role", "of"),
    [("search_query", "query"), ("search_document", "document"), ("classification", None),
     ("clustering", None), ("image", None), (None, None)],
)  # fmt: skip
def test_what_the_texts_are_for_chooses_the_prompt(
    kinds: FlaskClient, role: str | None, of: str | None
) -> None:
    got = good(kinds, input_type=role)["embeddings"]["float"]
    assert got == openai(kinds, input_type=of)
    assert (got == openai(kinds, input_type="query")) == (of == "query")


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
def test_a_shorter_vector_is_cut_and_normalised_in_every_type(
    kinds: FlaskClient, path: str
) -> None:
    got = good(kinds, path, output_dimension=4, embedding_types=["float", "int8"])["embeddings"]
    assert got["float"] == openai(kinds, dimensions=4)
    assert got["int8"] == openai(kinds, dimensions=4, output_dtype="int8")
    np.testing.assert_allclose(np.linalg.norm(got["float"], axis=1), 1, atol=1e-6)
    assert all(len(row) == 4 for row in got["int8"])


LONG = " ".join(f"w{i}" for i in range(20))  # the fake model reads 16 words


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, slice(16)),
        ({"truncate": "END"}, slice(16)),
        ({"truncate": "START"}, slice(4, None)),
        ({"truncate": "END", "max_tokens": 5}, slice(5)),
        ({"truncate": "START", "max_tokens": 5}, slice(15, None)),
        ({"max_tokens": 99}, slice(16)),
    ],
)
def test_a_long_text_is_cut_and_told(
    kinds: FlaskClient, fields: dict[str, Any], kept: slice
) -> None:
    words = " ".join(LONG.split(" ")[kept])
    expected = openai(kinds, [words, "short"])
    assert good(kinds, "/v1/embed", texts=[LONG, "short"], **fields)["embeddings"] == expected
    got = good(kinds, texts=[LONG, "short"], **fields)
    assert got["embeddings"]["float"] == expected
    assert got["meta"]["warnings"] == ["1 of the texts were too long and were cut"]


def test_a_long_text_is_refused_if_asked(kinds: FlaskClient) -> None:
    error = refused(kinds, texts=["a", LONG], truncate="NONE")
    assert (error["code"], error["param"]) == ("input_too_long", "texts.1")
    assert error["message"].startswith("texts.1: it has 20 tokens")
    error = refused(kinds, texts=["a", "b c d"], truncate="NONE", max_tokens=2)
    assert error["code"] == "input_too_long"


def test_who_names_a_limit_wants_texts_cut_at_it(config_of: Callable[..., Config]) -> None:
    """Also where the service refuses what is too long."""
    client = create_app(config_of(truncate="error"), wait=True).test_client()
    assert client.post("/v2/embed", json={"texts": [LONG]}).status_code == 400
    reply = client.post("/v2/embed", json={"texts": [LONG], "max_tokens": 5})
    assert reply.status_code == 200 and reply.json["meta"]["warnings"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"texts": None}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": "a"}, "texts"),
        ({"texts": ["a", 5]}, "texts.1"),
        ({"inputs": [{"content": [{"type": "text", "text": "a"}]}]}, "texts"),
        ({"texts": None, "inputs": [{"content": [{"type": "image_url"}]}]}, "inputs"),
        ({"texts": None, "inputs": [{"content": []}]}, "inputs.0"),
        ({"texts": None, "images": ["data:image/png;base64,aa"]}, "images"),
        ({"images": ["data:image/png;base64,aa"]}, "images"),
        ({"model": "nope"}, "model"),
        ({"model": "reranker"}, "model"),
        ({"input_type": "nonsense"}, "input_type"),
        ({"embedding_types": ["int4"]}, "embedding_types"),
        ({"embedding_types": "float"}, "embedding_types"),
        ({"output_dimension": 99}, "output_dimension"),
        ({"output_dimension": 0}, "output_dimension"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"truncate": "MIDDLE"}, "truncate"),
        ({"truncate": True}, "truncate"),
        ({"dimensions": 4}, "dimensions"),
        ({"encoding_format": "base64"}, "encoding_format"),
        ({"normalize": False}, "normalize"),
        ({"normalized": False}, "normalized"),
        ({"embedding_type": "int8"}, "embedding_type"),
        ({"late_chunking": True}, "late_chunking"),
        ({"return_multivector": True}, "return_multivector"),
        ({"truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"prompt": "a"}, "prompt"),
    ],
)
def test_what_cannot_be_done_is_a_400_that_names_the_field(
    kinds: FlaskClient, fields: dict[str, Any], field: str
) -> None:
    for path in ("/v1/embed", "/v2/embed"):
        error = refused(kinds, path, **fields)
        named = error["param"] or error["message"]
        assert named.startswith(field) or field in error["message"]


def test_a_field_is_named_once(kinds: FlaskClient) -> None:
    told = refused(kinds, output_dimension=99)["message"]
    assert told == "output_dimension: 99 is more than the 8 of this model"


def test_images_are_refused_as_what_they_are(kinds: FlaskClient) -> None:
    for path in ("/v1/embed", "/v2/embed"):
        error = refused(kinds, path, texts=None, images=["data:image/png;base64,aa"])
        assert "text only" in error["message"]
    parts = [{"type": "image_url", "image_url": {"url": "data:secret"}}]
    error = refused(kinds, texts=None, inputs=[{"content": parts}])
    assert "text only" in error["message"] and "secret" not in error["message"]


@pytest.mark.parametrize(
    "fields",
    [{"images": []}, {"images": None, "inputs": None}, {"embedding_types": None},
     {"embedding_types": []}, {"priority": 3}, {"nobody": "knows"}, {"truncate": None},
     {"max_tokens": None, "output_dimension": None}],
)  # fmt: skip
def test_what_changes_no_vector_passes(kinds: FlaskClient, fields: dict[str, Any]) -> None:
    assert good(kinds, **fields)["embeddings"] == good(kinds)["embeddings"]


@pytest.mark.fault("Hostile clients")
def test_texts_are_counted_and_replies_limited(config_of: Callable[..., Config]) -> None:
    """`/v2/embed` for more types of numbers, or with longer texts, than `MAX_REPLY_BYTES` holds ->
    413.
    """
    config = config_of(max_texts=3, max_reply_bytes=1024)
    client = create_app(config, wait=True).test_client()
    reply = client.post("/v2/embed", json={"texts": ["a"] * 4})
    assert (reply.status_code, reply.json["error"]["param"]) == (400, "texts")
    one = {"texts": ["a" * 100] * 3, "embedding_types": ["float"]}
    assert client.post("/v2/embed", json=one).status_code == 200
    reply = client.post("/v2/embed", json={**one, "embedding_types": list(KINDS)})
    assert reply.status_code == 413 and reply.json["error"]["code"] == "too_large"
    reply = client.post("/v2/embed", json={"texts": ["x" * 1000]})
    assert reply.status_code == 413


def test_tokens_are_those_of_the_text_alone_and_make_it_again(real_client: FlaskClient) -> None:
    reply = real_client.post("/v1/tokenize", json={"text": "Hello, wörld!", "model": "minilm"})
    assert reply.status_code == 200, reply.text
    got = reply.json
    assert got["token_strings"] == ["Hello", ",", "wörld", "!"]
    assert len(got["tokens"]) == 4 and all(isinstance(each, int) for each in got["tokens"])
    assert got["meta"]["api_version"] == {"version": "1"}
    reply = real_client.post("/v1/detokenize", json={"tokens": got["tokens"], "model": "minilm"})
    assert reply.json["text"] == "hello, world!"  # as this vocabulary has it


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/tokenize", {"text": ""}, "text"),
        ("/v1/tokenize", {"text": "x" * 65_537}, "text"),
        ("/v1/tokenize", {"model": "minilm"}, "text"),
        ("/v1/tokenize", {"text": ["a"]}, "text"),
        ("/v1/tokenize", {"text": "a", "model": "nope"}, "model"),
        ("/v1/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/v1/detokenize", {"tokens": [99_999_999]}, "token"),
        ("/v1/detokenize", {"tokens": [-1]}, "tokens: "),
        ("/v1/detokenize", {"tokens": [10**30]}, "tokens"),
        ("/v1/detokenize", {"tokens": [True]}, "tokens.0"),
    ],
)
def test_what_has_no_tokens_is_refused(
    real_client: FlaskClient, path: str, body: dict[str, Any], told: str
) -> None:
    reply = real_client.post(path, json=body)
    assert reply.status_code == 400, reply.text
    assert told in reply.json["message"]


def test_a_key_is_valid_if_it_signs_in(kinds: FlaskClient, signed_in: FlaskClient) -> None:
    reply = kinds.post("/v1/check-api-key")
    assert (reply.status_code, reply.json) == (200, {"valid": True})
    assert signed_in.post("/v1/check-api-key").json == {"valid": True}
    reply = signed_in.post("/v1/check-api-key", headers={"Authorization": "Bearer wrong"})
    assert reply.status_code == 401 and reply.json["message"]
