"""`/v1/embeddings` and `/embeddings`: what the clients of OpenAI's relatives send, value for value.

That every field has values that pass and values that are refused is in
`tests/routes/test_v1_fields.py`.
"""

import base64
import json
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from engine import EmbedRequest
from tests.dialects.test_errors import assert_union

PATHS = [
    "/v1/embeddings", "/embeddings", "/openai/v1/embeddings",
    "/openai/deployments/dense/embeddings", "/openai/deployments/tests/dense/embeddings",
]  # fmt: skip
TEXTS = ["one two three", "four", "five six"]
NUMPY = {"float32": "f4", "float16": "f2", "int8": "i1", "uint8": "u1",
         "binary": "i1", "ubinary": "u1"}  # fmt: skip


def asked(client: FlaskClient, path: str = "/v1/embeddings", **fields: Any) -> Any:
    """Return a reply that must be had."""
    reply = client.post(path, json={"model": "dense", "input": TEXTS, **fields})
    assert reply.status_code == 200, reply.text
    return reply


def rows(client: FlaskClient, path: str = "/v1/embeddings", **fields: Any) -> list[Any]:
    """Return what stands for each vector, in order."""
    data = asked(client, path, **fields).json["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    assert {row["object"] for row in data} == {"embedding"}
    return [row["embedding"] for row in data]


def refused(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    """Return the error of a reply that must be a 400."""
    reply = client.post("/v1/embeddings", json={"model": "dense", "input": TEXTS, **fields})
    assert_union(reply, 400)
    error: dict[str, Any] = reply.json["error"]
    return error


@pytest.mark.parametrize("path", PATHS)
def test_every_path_gives_the_same(kinds: FlaskClient, path: str) -> None:
    assert rows(kinds, path) == rows(kinds)
    got = asked(kinds, path).json
    assert set(got) == {"object", "data", "model", "usage"}
    assert (got["object"], got["model"]) == ("list", "tests/dense" if "tests" in path else "dense")
    assert got["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    native = kinds.post("/embed", json={"texts": TEXTS, "model": "dense"}).json
    assert rows(kinds, path) == native["embeddings"]


def test_azures_deployment_is_the_model(kinds: FlaskClient) -> None:
    path = "/openai/deployments/all/embeddings?api-version=2024-10-21"
    assert rows(kinds, path, model="nonsense") == rows(kinds, model="all")
    reply = kinds.post("/openai/deployments/none/embeddings", json={"input": "a"})
    assert_union(reply, 400)
    assert reply.json["error"]["code"] == "model_not_found"


def test_a_body_without_a_type_is_read_as_litellm_sends_it_for_voyage(kinds: FlaskClient) -> None:
    body = {"model": "dense", "input": TEXTS}
    reply = kinds.post("/v1/embeddings", data=json.dumps(body))
    assert [row["embedding"] for row in reply.json["data"]] == rows(kinds)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert_union(kinds.post("/v1/embeddings", data=json.dumps(body), content_type=kind), 415)


@pytest.mark.parametrize(
    "page",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"},
     {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}],
    ids=str,
)  # fmt: skip
def test_a_page_of_another_origin_has_no_body_without_a_type(
    kinds: FlaskClient, page: dict[str, str]
) -> None:
    """A browser sends bytes without a type unasked, without a preflight that would stop it."""
    for path in ("/v1/embeddings", "/embed"):
        reply = kinds.post(path, data=json.dumps({"input": "a", "texts": ["a"]}), headers=page)
        assert reply.status_code == 415
    typed = kinds.post("/v1/embeddings", json={"model": "dense", "input": TEXTS}, headers=page)
    assert typed.status_code == 200, "with a type a browser asks first, or the reply is not read"


@pytest.mark.parametrize("encoding", ["float", "base64", "bytes", "bytes_only"])
@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("order", ["little", "big", "native"])
def test_bytes_are_of_the_chosen_type_in_the_chosen_order(
    kinds: FlaskClient, encoding: str, dtype: str, order: str
) -> None:
    fields = {"encoding_format": encoding, "output_dtype": dtype, "endianness": order}
    plain = np.array(rows(kinds, output_dtype=dtype))
    kind = np.dtype(NUMPY[dtype]).newbyteorder(">" if order == "big" else "<")
    if encoding.startswith("bytes"):
        reply = asked(kinds, **fields)
        shape = [int(n) for n in reply.headers["X-Embedding-Shape"].split(",")]
        got = np.frombuffer(reply.data, kind).reshape(shape)
    elif encoding == "base64":
        packed = rows(kinds, **fields)
        got = np.array([np.frombuffer(base64.b64decode(row), kind) for row in packed])
    else:
        got = np.array(rows(kinds, **fields)).astype(kind)
    np.testing.assert_array_equal(got, plain.astype(kind))


def test_vllms_type_is_ours(kinds: FlaskClient) -> None:
    given = {"encoding_format": "base64", "endianness": "big"}
    assert rows(kinds, embed_dtype="float16", **given) == rows(
        kinds, output_dtype="float16", **given
    )


@pytest.mark.parametrize(
    "content",
    ["five six", [{"type": "text", "text": "five six"}],
     [{"type": "text", "text": "five"}, {"type": "text", "text": "six"}]],
    ids=str,
)  # fmt: skip
def test_the_text_of_a_message_is_embedded_as_it_is(kinds: FlaskClient, content: object) -> None:
    """As Dify's vision path asks vLLM; parts are joined by line feeds."""
    rest = {"continue_final_message": True, "add_special_tokens": False, "encoding_format": "float"}
    given = {"input": None, "messages": [{"role": "user", "content": content}], **rest}
    text = "five six" if len(content) != 2 else "five\nsix"
    assert rows(kinds, **given) == rows(kinds, input=text)


@pytest.mark.parametrize(
    "content",
    [[{"type": "image_url", "image_url": {"url": "https://secret.example/x.png"}}],
     [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "secret"}}],
     [{"type": "input_audio", "input_audio": {"data": "secret"}}]],
    ids=str,
)  # fmt: skip
def test_an_image_in_a_message_is_refused_as_text_only(kinds: FlaskClient, content: object) -> None:
    error = refused(kinds, input=None, messages=[{"role": "user", "content": content}])
    assert error["param"] == "messages"
    assert "text only" in error["message"] and "secret" not in error["message"]


@pytest.mark.parametrize(
    "messages",
    [[], "hello", [5], ["hello"], [{"role": "user"}], [{"role": "user", "content": 5}],
     [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]],
    ids=str,
)  # fmt: skip
def test_messages_that_a_chat_template_would_join_are_refused(
    kinds: FlaskClient, messages: object
) -> None:
    assert refused(kinds, input=None, messages=messages)["param"] == "messages"


def test_an_input_or_a_message_but_not_both(kinds: FlaskClient) -> None:
    message = [{"role": "user", "content": "a"}]
    assert refused(kinds, messages=message)["param"] == "messages"
    assert refused(kinds, input=None)["param"] == "input"
    assert refused(kinds, input=None, messages=None)["param"] == "input"


@pytest.mark.parametrize("sent", [{"image": "aGk="}, ["a", {"image": "x"}], [{"image": "x"}]])
def test_an_image_in_place_of_a_text_is_refused_as_text_only(
    kinds: FlaskClient, sent: object
) -> None:
    error = refused(kinds, input=sent)
    assert error["param"] == "input" and "text only" in error["message"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, None),
        ({"task": "retrieval.query"}, "query"),
        ({"input_type": "query"}, "query"),
        ({"prompt_name": "query"}, "query"),
        ({"task": "retrieval.passage"}, "none"),
        ({"task": "text-matching"}, "none"),
        ({"task": "classification"}, "none"),
        ({"task": "separation"}, "none"),
        ({"task": "code.query"}, "none"),
        ({"task": "code.passage"}, "none"),
        ({"input_type": "document"}, "none"),
        ({"input_type": "query", "prompt": "about: "}, "text"),
    ],
    ids=str,
)
def test_the_prompt_that_a_role_stood_for_is_told(
    kinds: FlaskClient, fields: dict[str, str], told: str | None
) -> None:
    reply = asked(kinds, **fields)
    assert reply.headers.get("X-Embedding-Prompt") == told
    put_before = {"query": "query: ", "text": "about: "}.get(told or "", "")
    got = [row["embedding"] for row in reply.json["data"]]
    assert got == rows(kinds, input=[put_before + text for text in TEXTS])


@pytest.mark.parametrize(("limit", "kept"), [(2, "a b"), (1, "a"), (16, None), (999, None)])
def test_an_input_is_cut_at_as_many_tokens_as_asked(
    kinds: FlaskClient, limit: int, kept: str | None
) -> None:
    long = "a b c d"
    reply = asked(kinds, input=long, truncate_prompt_tokens=limit)
    assert reply.json["data"][0]["embedding"] == rows(kinds, input=kept or long)[0]
    assert reply.headers["X-Truncated-Inputs"] == ("0" if kept is None else "1")
    side = {"truncate_prompt_tokens": 2, "truncation_side": "left"}
    assert rows(kinds, input=long, **side) == rows(kinds, input="c d")


def test_late_chunking_reads_the_inputs_as_one_text(kinds: FlaskClient) -> None:
    reply = asked(kinds, late_chunking=True)
    got = [row["embedding"] for row in reply.json["data"]]
    engine = kinds.application.extensions["services"].engine
    expected = engine.embed_chunks([TEXTS], EmbedRequest(inputs=(), model="dense", normalize=True))
    np.testing.assert_array_equal(np.array(got, np.float32), expected.vectors)
    usage = reply.json["usage"]
    assert usage["chunk_tokens"] == [3, 1, 2]
    assert usage["prompt_tokens"] == usage["total_tokens"] == 6
    assert "chunk_tokens" not in asked(kinds).json["usage"]
    assert rows(kinds, late_chunking=False) == rows(kinds) != got
    short = rows(kinds, late_chunking=True, dimensions=4, encoding_format="base64")
    cut = np.array(got, np.float32)[:, :4]
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    packed = [np.frombuffer(base64.b64decode(row), "<f4") for row in short]
    np.testing.assert_allclose(packed, cut, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"input": [[1, 2], [3]]}, "late_chunking"),
        ({"return_multivector": True}, "late_chunking"),
        ({"truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"input": ["a " * 10, "b " * 10], "truncate": False}, "input"),
        ({"input": ["a " * 10, "b " * 10]}, "input"),
        ({"input": ["a " * 20, "b " * 10], "truncate": True}, "input"),  # nothing is left of one
    ],
    ids=str,
)
def test_what_cannot_be_chunked_late_is_refused(
    kinds: FlaskClient, fields: dict[str, Any], named: str
) -> None:
    assert refused(kinds, late_chunking=True, **fields)["param"] == named


@pytest.mark.parametrize("model", ["tokens", "all"])
def test_vectors_of_tokens_stand_beside_each_input(kinds: FlaskClient, model: str) -> None:
    fields = {"model": model, "return_multivector": True}
    data = asked(kinds, **fields).json["data"]
    native = kinds.post("/embed", json={"texts": TEXTS, "model": model, "outputs": "multi_vector"})
    assert [row["embeddings"] for row in data] == native.json["multi_vector"]
    assert all(set(row) == {"object", "index", "embeddings"} for row in data)
    for row, matrix in zip(
        asked(kinds, **fields, encoding_format="base64", output_dtype="float16").json["data"],
        native.json["multi_vector"], strict=True,
    ):  # fmt: skip
        halves = np.frombuffer(base64.b64decode(row["embeddings"]), "<f2")
        np.testing.assert_allclose(halves.reshape(-1, 8), matrix, atol=1e-3)
    one = asked(kinds, **fields, input=TEXTS[0], encoding_format="bytes")
    assert one.headers["X-Embedding-Shape"] == "3,8"
    np.testing.assert_array_equal(
        np.frombuffer(one.data, "<f4").reshape(3, 8),
        np.array(native.json["multi_vector"][0], np.float32),
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "tokens", "dimensions": 4}, "dimensions"),
        ({"model": "tokens", "output_dimension": 4}, "output_dimension"),
        ({"model": "dense"}, "return_multivector"),
        ({"model": "tokens", "encoding_format": "bytes"}, "encoding_format"),
    ],
    ids=str,
)
def test_vectors_of_tokens_that_cannot_be_had_are_refused(
    kinds: FlaskClient, fields: dict[str, Any], named: str
) -> None:
    assert refused(kinds, return_multivector=True, **fields)["param"] == named


@pytest.mark.parametrize(
    "fields",
    [
        {"encoding_format": None, "dimensions": None, "user": None},  # LiteLLM
        {"input_type": None, "truncation": True, "output_dtype": None, "output_dimension": None},
        {"drop_params": True, "encoding_format": "float"},  # RAGFlow
        {"truncation_side": None, "truncate_prompt_tokens": -1},  # Haystack's vLLM embedder
        {"prompt": ""},  # Open WebUI with RAG_EMBEDDING_PREFIX_FIELD_NAME=prompt
    ],
    ids=str,
)
def test_what_known_clients_send_changes_nothing(
    kinds: FlaskClient, fields: dict[str, Any]
) -> None:
    assert rows(kinds, **fields) == rows(kinds)


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Bearer 123"},
     {"Authorization": "123"}, {"api-key": "123"}, {"X-OpenWebUI-User-Id": "me"}],
    ids=str,
)  # fmt: skip
def test_any_key_will_do_where_none_is_needed(kinds: FlaskClient, headers: dict[str, str]) -> None:
    body = {"model": "dense", "input": "a"}
    assert kinds.post("/v1/embeddings", json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("agent", ["OpenAI/Python 2.9.0", "AsyncOpenAI/Python 2", "OpenAI/JS 6.1"])
@pytest.mark.parametrize(
    "fields",
    [{"output_dtype": "int8"}, {"embedding_type": "binary"}, {"endianness": "big"},
     {"return_multivector": True, "model": "tokens"}],
    ids=str,
)  # fmt: skip
def test_openais_library_gets_no_base64_that_it_would_read_as_other_numbers(
    kinds: FlaskClient, agent: str, fields: dict[str, Any]
) -> None:
    headers = {"User-Agent": agent}
    body = {"model": "dense", "input": TEXTS, **fields}
    packed = {**body, "encoding_format": "base64"}
    reply = kinds.post("/v1/embeddings", json=packed, headers=headers)
    assert_union(reply, 400)
    assert reply.json["error"]["param"] == "encoding_format"
    assert kinds.post("/v1/embeddings", json=packed).status_code == 200
    assert kinds.post("/v1/embeddings", json=body, headers=headers).status_code == 200
    plain = {"model": "dense", "input": TEXTS, "encoding_format": "base64"}
    assert kinds.post("/v1/embeddings", json=plain, headers=headers).status_code == 200


def test_every_place_for_a_models_name_is_read(kinds: FlaskClient) -> None:
    assert asked(kinds, model=None, model_id="all").json["model"] == "all"
    reply = asked(kinds, "/v1/embeddings?model_id=all&else=1", model=None)
    assert reply.json["model"] == "all"
    assert "name different models" in refused(kinds, model_id="all")["message"]


def test_a_text_beside_a_field_that_is_null_is_that_text(kinds: FlaskClient) -> None:
    assert rows(kinds, input=[{"text": TEXTS[0], "image": None}]) == rows(kinds, input=TEXTS[0])


@pytest.mark.parametrize("field", ["dimensions", "output_dimension"])
def test_a_field_is_refused_by_the_name_that_was_sent(kinds: FlaskClient, field: str) -> None:
    told = refused(kinds, **{field: 99})["message"]
    assert told == f"{field}: 99 is more than the 8 of this model"


def test_only_the_default_model_is_listed_if_asked(kinds: FlaskClient) -> None:
    def listed(query: str) -> list[str]:
        return [row["id"] for row in kinds.get(f"/v1/models?{query}").json["models"]]

    assert listed("default_only=true") == [asked(kinds, model=None).json["model"]]
    assert listed("endpoint=rerank&default_only=true") == ["reranker"]
    assert len(listed("default_only=false")) > 1
