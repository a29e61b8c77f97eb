"""vLLM's own routes give what its clients read, with the values of the other routes."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from serving.encoding import LONGEST
from tests.dialects.test_errors import assert_union
from tests.routes.conftest import KINDS

TEXTS = ["one two three", "four", "five six"]
LONG = " ".join(map(str, range(20)))  # the fake models read 16 words
QUERY = "when does it rain"
DOCUMENTS = ["stocks fell", "it does rain in spring", "when"]


def post(client: FlaskClient, path: str, **body: Any) -> Any:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json


def refused(client: FlaskClient, path: str, status: int = 400, **body: Any) -> str:
    reply = client.post(path, json=body)
    assert_union(reply, status)
    return str(reply.json["message"])


def pooled(client: FlaskClient, **body: Any) -> list[Any]:
    got = post(client, "/pooling", **{"model": "dense", "input": TEXTS, **body})
    assert (got["object"], got["id"][:5]) == ("list", "pool-") and got["created"] > 1_700_000_000
    assert [row["index"] for row in got["data"]] == list(range(len(got["data"])))
    assert {row["object"] for row in got["data"]} == {"pooling"}
    return [row["data"] for row in got["data"]]


def openai(client: FlaskClient, **body: Any) -> list[Any]:
    got = post(client, "/v1/embeddings", **{"model": "dense", "input": TEXTS, **body})
    return [row["embedding"] for row in got["data"]]


def scores(client: FlaskClient, path: str = "/score", **body: Any) -> list[float]:
    got = post(client, path, **body)
    assert (got["object"], got["id"][:6]) == ("list", "score-") and got["created"] > 1_700_000_000
    assert [row["index"] for row in got["data"]] == list(range(len(got["data"])))
    assert {row["object"] for row in got["data"]} == {"score"}
    return [row["score"] for row in got["data"]]


# -- pooling -----------------------------------------------------------------------------------


def test_pooled_vectors_are_those_of_openais_route(kinds: FlaskClient) -> None:
    got = post(kinds, "/pooling", model="dense", input=TEXTS)
    assert got["model"] == "dense" and got["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert pooled(kinds) == pooled(kinds, task="embed", model=None) == openai(kinds)
    assert pooled(kinds, input="four") == openai(kinds, input="four")
    assert pooled(kinds, input=[[4, 5], [6]]) == openai(kinds, input=[[4, 5], [6]])
    assert pooled(kinds, input=[4, 5]) == openai(kinds, input=[4, 5])
    assert pooled(kinds, dimensions=3) == openai(kinds, dimensions=3)
    assert pooled(kinds, use_activation=False) == openai(kinds, normalize=False)
    assert pooled(kinds, input=None, messages=[{"role": "user", "content": "four"}]) == openai(
        kinds, input="four"
    )


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_inputs_are_cut_where_the_caller_says(kinds: FlaskClient, side: str | None) -> None:
    kept = "17 18 19" if side == "left" else "0 1 2"
    fields = {"truncate_prompt_tokens": 3, "truncation_side": side}
    for field in ({}, {"task": "embed"}):
        assert pooled(kinds, input=LONG, **fields, **field) == openai(kinds, input=kept)
    at_limit = openai(kinds, input=LONG)
    for limit in (None, -1, 16, 99):
        assert pooled(kinds, input=LONG, truncate_prompt_tokens=limit) == at_limit


def test_the_states_of_tokens_are_returned(kinds: FlaskClient) -> None:
    got = pooled(kinds, task="token_embed")
    assert [np.shape(rows) for rows in got] == [(3, 8), (1, 8), (2, 8)]
    raw = pooled(kinds, task="token_embed", use_activation=False)
    all_of_tei = post(kinds, "/embed_all", inputs=TEXTS, model="dense")
    assert raw == all_of_tei
    for rows, plain in zip(got, raw, strict=True):
        units = plain / np.linalg.norm(plain, axis=1, keepdims=True)
        np.testing.assert_allclose(rows, units, rtol=1e-6)


def test_a_model_of_tokens_gives_its_own_vectors(kinds: FlaskClient) -> None:
    native = {"texts": TEXTS, "model": "tokens", "outputs": "multi_vector"}
    want = post(kinds, "/embed", **native)["multi_vector"]
    assert pooled(kinds, model="tokens") == want
    assert pooled(kinds, model="tokens", task="token_embed") == want
    assert "use_activation" in refused(
        kinds, "/pooling", input="a", model="tokens", use_activation=False
    )


def test_classes_are_scored(config_of: Callable[..., Config]) -> None:
    models = {"classes": {"type": "fake", "model_name": "tests/classes+score+label"}}
    client = create_app(config_of(models), wait=True).test_client()
    got = np.array(pooled(client, model=None))
    assert got.tolist() == pooled(client, model="classes", task="classify")
    assert got.shape == (3, 2)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    raw = np.exp(pooled(client, model="classes", use_activation=False))
    np.testing.assert_allclose(raw / raw.sum(axis=1, keepdims=True), got, rtol=1e-5)
    assert "token ids" in refused(client, "/pooling", input=[1])
    assert "a classifier" in refused(client, "/score", queries=QUERY, documents=DOCUMENTS)
    assert post(client, "/tokenize", prompt="4 5")["tokens"] == [4, 5]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("endianness", [None, "native", "little", "big"])
@pytest.mark.parametrize("task", ["embed", "token_embed"])
def test_numbers_are_written_in_every_form(
    kinds: FlaskClient, dtype: str, endianness: str | None, task: str
) -> None:
    plain = pooled(kinds, task=task)
    order = ">" if endianness == "big" else "<"
    as_numpy = np.dtype(dtype).newbyteorder(order)  # type: ignore[arg-type]
    fields = {"embed_dtype": dtype, "endianness": endianness, "task": task}
    for row, encoded in zip(plain, pooled(kinds, encoding_format="base64", **fields), strict=True):
        got = np.frombuffer(base64.b64decode(encoded), as_numpy)
        assert got.tobytes() == np.ravel(row).astype(np.float32).astype(as_numpy).tobytes()
    assert pooled(kinds, **fields) == plain, "as JSON they are float32"
    body = {"model": "dense", "input": TEXTS, **fields}
    reply = kinds.post("/pooling", json={**body, "encoding_format": "bytes"})
    assert reply.mimetype == "application/octet-stream"
    told = json.loads(reply.headers["metadata"])
    assert told["usage"]["total_tokens"] == 6 and told["model"] == "dense"
    for row, item in zip(plain, told["data"], strict=True):
        assert item["embed_dtype"] == dtype and item["endianness"] == (endianness or "native")
        got = np.frombuffer(reply.data[item["start"] : item["end"]], as_numpy)
        np.testing.assert_allclose(got.reshape(item["shape"]), row, atol=1e-3)
    only = kinds.post("/pooling", json={**body, "encoding_format": "bytes_only"})
    assert only.data == reply.data and "metadata" not in only.headers


@pytest.mark.parametrize("name", ["модель", "naïve", "🙂"])
def test_a_name_of_any_letters_is_told_in_ascii(
    config_of: Callable[..., Config], name: str
) -> None:
    models = {name: {"type": "fake", "model_name": "tests/m", "aliases": [f"{name}-2"]}}
    client = create_app(config_of(models), wait=True).test_client()
    for asked in (name, f"{name}-2"):
        body = {"model": asked, "input": ["a"], "encoding_format": "bytes"}
        told = client.post("/pooling", json=body).headers["metadata"]
        assert told.isascii() and json.loads(told)["model"] == asked
        told = client.post("/v1/embeddings", json=body).headers["X-Embedding-Model"]
        assert told.isascii() and told.encode().decode("unicode_escape") == name


def test_places_too_long_for_a_header_are_refused(kinds: FlaskClient) -> None:
    body = {"model": "dense", "input": ["a"] * 200}
    said = refused(kinds, "/pooling", **body, encoding_format="bytes")
    assert "bytes_only" in said
    reply = kinds.post("/pooling", json={**body, "encoding_format": "bytes_only"})
    assert len(reply.data) == 200 * 8 * 4


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"normalize": True}, "normalize"), ({"task": "score"}, "task"),
        ({"softmax": False}, "softmax"), ({"activation": False}, "activation"),
        ({"input_type": "query"}, "input_type"),
        ({"task": "encode"}, "task"), ({"task": "token_classify"}, "task"),
        ({"task": "plugin"}, "task"), ({"embed_dtype": "fp8_e4m3"}, "embed_dtype"),
        ({"endianness": "middle"}, "endianness"), ({"encoding_format": "hex"}, "encoding_format"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncation_side": "middle"}, "truncation_side"), ({"padding": "max_length"}, "padding"),
        ({"add_special_tokens": False}, "add_special_tokens"), ({"data": {}}, "data"),
        ({"use_activation": "yes"}, "use_activation"), ({"dimensions": 9}, "dimensions"),
        ({"dimensions": 2, "task": "token_embed"}, "dimensions"),
        ({"messages": [{"role": "user", "content": "a"}]}, "input"), ({"input": None}, "input"),
        ({"input": None, "messages": [{"content": [{"type": "image_url"}]}]}, "messages"),
    ],
)  # fmt: skip
@pytest.mark.fault("Malformed requests")
def test_a_field_that_cannot_be_honoured_is_named(
    kinds: FlaskClient, fields: dict[str, Any], named: str
) -> None:
    """A field of vLLM's that this service does not do -> 400 that names it."""
    reply = kinds.post("/pooling", json={"model": "dense", "input": TEXTS, **fields})
    assert_union(reply, 400)
    assert reply.json["error"]["param"] == named, reply.json
    assert named in reply.json["message"]


def test_what_vllm_removed_is_told_with_what_to_send(kinds: FlaskClient) -> None:
    assert "use_activation" in refused(kinds, "/pooling", input="a", normalize=False)
    assert "classify" in refused(kinds, "/pooling", input="a", task="score")


def test_a_wrong_kind_and_an_unknown_model_are_refused(kinds: FlaskClient) -> None:
    assert "no dense vectors" in refused(
        kinds, "/pooling", input="a", model="reranker", task="embed"
    )
    assert "unknown model" in refused(kinds, "/pooling", input="a", model="none")
    refused(kinds, "/pooling", input="a", model="reranker", task="token_embed")
    refused(kinds, "/pooling", input="a", model="dense", task="classify")


# -- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("first", ["queries", "text_1", "data_1"])
@pytest.mark.parametrize("second", ["documents", "items", "text_2", "data_2"])
def test_a_reranker_scores_as_it_ranks(
    kinds: FlaskClient, path: str, first: str, second: str
) -> None:
    ranked = post(kinds, "/rerank", query=QUERY, documents=DOCUMENTS)["results"]
    want = {row["index"]: row["relevance_score"] for row in ranked}
    got = scores(kinds, path, **{first: QUERY, second: DOCUMENTS})
    assert got == [want[place] for place in range(3)]


def test_pairs_may_be_one_to_one_and_one_to_many(kinds: FlaskClient) -> None:
    many = scores(kinds, queries=QUERY, documents=DOCUMENTS)
    assert scores(kinds, queries=[QUERY], documents=DOCUMENTS) == many
    assert scores(kinds, queries=[QUERY] * 3, documents=DOCUMENTS) == many
    assert scores(kinds, queries=QUERY, documents=DOCUMENTS[1]) == many[1:2]
    queries = ["stocks", QUERY, "cats"]
    alone = [scores(kinds, queries=query, documents=text)[0]
             for query, text in zip(queries, DOCUMENTS, strict=True)]  # fmt: skip
    assert scores(kinds, queries=queries, documents=DOCUMENTS) == alone
    assert len(set(alone)) == 3


def test_objects_with_a_text_are_texts(kinds: FlaskClient) -> None:
    want = scores(kinds, queries=QUERY, documents=DOCUMENTS)
    parts = [{"content": [{"type": "text", "text": text}]} for text in DOCUMENTS]
    assert scores(kinds, queries={"text": QUERY}, documents=parts) == want
    image = {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    said = refused(kinds, "/score", queries=QUERY, documents=[image])
    assert said.startswith("documents: ") and "text only" in said


def test_scores_before_the_activation_are_what_it_is_made_of(kinds: FlaskClient) -> None:
    made = scores(kinds, queries=QUERY, documents=DOCUMENTS, use_activation=True)
    raw = scores(kinds, queries=QUERY, documents=DOCUMENTS, use_activation=False)
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(raw))), made, rtol=1e-6)


def test_an_embedding_model_scores_by_the_cosine(kinds: FlaskClient) -> None:
    query, *documents = (np.array(row) for row in openai(kinds, input=[QUERY, *DOCUMENTS]))
    got = scores(kinds, model="dense", queries=QUERY, documents=DOCUMENTS)
    np.testing.assert_allclose(got, [query @ each for each in documents], atol=1e-6)
    queries = ["one", "two", "three"]
    got = scores(kinds, model="dense", queries=queries, documents=DOCUMENTS)
    rows = np.array(openai(kinds, input=queries)), np.array(documents)
    np.testing.assert_allclose(got, (rows[0] * rows[1]).sum(axis=1), atol=1e-6)
    same = scores(kinds, model="dense", queries="a b", documents=["a b"], use_activation=False)
    np.testing.assert_allclose(same, 1, atol=1e-6)
    cut = scores(kinds, model="dense", queries="0 1", documents=[LONG], truncate_prompt_tokens=2)
    np.testing.assert_allclose(cut, 1, atol=1e-6)


def test_a_model_of_tokens_scores_by_the_most_alike_of_them(kinds: FlaskClient) -> None:
    native = {"model": "tokens", "outputs": "multi_vector"}
    asked = post(kinds, "/embed", **native, texts=[QUERY], input_type="query")
    read = post(kinds, "/embed", **native, texts=DOCUMENTS, input_type="document")
    query = np.array(asked["multi_vector"][0])
    documents = map(np.array, read["multi_vector"])
    got = scores(kinds, model="tokens", queries=QUERY, documents=DOCUMENTS)
    want = [(query @ each.T).max(axis=1).sum() for each in documents]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert got[1] > 2.9  # three of its words


def test_documents_are_cut_where_the_caller_says(kinds: FlaskClient) -> None:
    base = {"model": "reranker", "queries": "0 1"}
    whole = scores(kinds, **base, documents=[LONG])
    for limit in (None, 0, 99):
        assert scores(kinds, **base, documents=[LONG], max_tokens_per_doc=limit) == whole
    assert scores(kinds, **base, documents=[LONG], max_tokens_per_doc=2) == scores(
        kinds, **base, documents=["0 1"]
    )
    assert scores(kinds, **base, documents=[LONG], truncate_prompt_tokens=4) == scores(
        kinds, **base, documents=["0 1"]
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"queries": ["a", "b"]}, "queries"), ({"text_1": "a"}, "queries"),
        ({"queries": None}, "queries"), ({"items": ["a"]}, "documents"),
        ({"normalize": True}, "normalize"), ({"max_tokens_per_query": 5}, "max_tokens_per_query"),
        ({"max_tokens_per_doc": 5, "model": "dense"}, "max_tokens_per_doc"),
        ({"instruction": "x", "model": "dense"}, "instruction"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"), ({"model": "none"}, "model"),
        ({"model": "sparse"}, "model"),
    ],
)  # fmt: skip
def test_a_field_of_scores_that_cannot_be_honoured_is_named(
    kinds: FlaskClient, fields: dict[str, Any], named: str
) -> None:
    body = {"queries": QUERY, "documents": DOCUMENTS, **fields}
    reply = kinds.post("/score", json=body)
    assert_union(reply, 400)
    assert reply.json["error"]["param"] == named, reply.json


@pytest.mark.parametrize(
    "wrong", [{"documents": []}, {"documents": [5]}, {"queries": []}, {"queries": 5}]
)
def test_no_texts_and_wrong_texts_are_refused(kinds: FlaskClient, wrong: dict[str, Any]) -> None:
    reply = kinds.post("/score", json={"queries": QUERY, "documents": DOCUMENTS, **wrong})
    assert reply.status_code in (400, 422), reply.text
    assert reply.json["error"]["param"].startswith(next(iter(wrong)))


def test_the_text_at_fault_is_told_by_its_field(config_of: Callable[..., Config]) -> None:
    models = {name: KINDS[name] for name in ("dense", "reranker", "tokens")}
    client = create_app(config_of(models, truncate="error"), wait=True).test_client()
    for model in models:
        for body, place in (
            ({"queries": "a", "documents": ["a", LONG]}, "documents.1"),
            ({"text_1": ["a", "b"], "items": ["a", LONG]}, "items.1"),
            ({"queries": LONG, "documents": ["a"]}, "queries.0"),
            ({"queries": ["a", LONG], "documents": ["a", "b"]}, "queries.1"),
        ):
            reply = client.post("/score", json={"model": model, **body})
            assert_union(reply, 400)
            assert reply.json["error"]["param"] == place, reply.json
            assert reply.json["message"].startswith(f"{place}: ")
    body = {"model": "dense", "queries": LONG, "documents": LONG, "truncate_prompt_tokens": -1}
    assert scores(client, **body)[0] == pytest.approx(1), "who asks for a cut gets it"


# -- tokens ------------------------------------------------------------------------------------


def test_a_prompt_is_tokenized(kinds: FlaskClient) -> None:
    got = post(kinds, "/tokenize", model="dense", prompt="4 5 4")
    assert got == {"count": 3, "max_model_len": 16, "tokens": [4, 5, 4], "token_strs": None}
    got = post(kinds, "/tokenize", prompt=LONG, return_token_strs=True)
    assert got["count"] == 20 and got["token_strs"] == LONG.split(" "), "nothing is cut"
    messages = [{"role": "user", "content": "4 5"}]
    assert post(kinds, "/tokenize", messages=messages)["tokens"] == [4, 5]
    for model in ("reranker", "sparse", "tokens", "all"):
        assert post(kinds, "/tokenize", model=model, prompt="4 5")["tokens"] == [4, 5]


def test_tokens_are_text_again(kinds: FlaskClient) -> None:
    assert post(kinds, "/detokenize", model="dense", tokens=[4, 5]) == {"prompt": "4 5"}
    assert post(kinds, "/detokenize", tokens=[]) == {"prompt": ""}
    reply = kinds.post("/detokenize", json={"tokens": [5000]})
    assert_union(reply, 400)
    assert reply.json["error"]["param"] == "tokens" and "vocabulary" in reply.json["message"]


def test_a_text_that_would_take_long_to_tokenize_is_refused_first(kinds: FlaskClient) -> None:
    """It is tokenized whole, and no deadline ends that."""
    said = refused(kinds, "/tokenize", 413, prompt="a" * (LONGEST + 1))
    assert said.startswith(f"prompt: it has {LONGEST + 1} characters")
    assert post(kinds, "/tokenize", prompt="a" * LONGEST)["count"] == 1
    said = refused(kinds, "/detokenize", 413, tokens=[4] * (LONGEST + 1))
    assert said.startswith(f"tokens: it has {LONGEST + 1} token ids")
    reply = kinds.post("/tokenize", json={"inputs": ["a", "a" * (LONGEST + 1)]})
    assert reply.json["error"].startswith(f"input 1: it has {LONGEST + 1} characters")


def test_real_tokens_are_those_that_the_model_reads(real_client: FlaskClient) -> None:
    text = "Unbelievable embeddings"
    got = post(real_client, "/tokenize", prompt=text, return_token_strs=True)
    assert got["tokens"][0] == 101 and got["tokens"][-1] == 102, "[CLS] and [SEP]"
    assert got["max_model_len"] == 256 and got["count"] == len(got["tokens"])
    assert "".join(got["token_strs"][1:-1]) == "Unbelievableembeddings"
    bare = post(real_client, "/tokenize", prompt=text, add_special_tokens=False)
    assert bare["tokens"] == got["tokens"][1:-1]
    message = [{"role": "user", "content": text}]
    assert post(real_client, "/tokenize", messages=message)["tokens"] == bare["tokens"]
    back = post(real_client, "/detokenize", tokens=bare["tokens"])
    assert back == {"prompt": "unbelievable embeddings"}
    usage = post(real_client, "/v1/embeddings", input=text)["usage"]
    assert usage["prompt_tokens"] == got["count"]


def test_real_states_are_those_of_every_token(real_client: FlaskClient) -> None:
    (rows,) = pooled(real_client, model="minilm", input="one two", task="token_embed",
                     use_activation=False)  # fmt: skip
    assert np.shape(rows) == (4, 384)
    mean = np.mean(rows, axis=0)
    (want,) = openai(real_client, model="minilm", input="one two")
    np.testing.assert_allclose(mean / np.linalg.norm(mean), want, atol=1e-5)


def test_what_is_no_prompt_is_refused(kinds: FlaskClient) -> None:
    assert refused(kinds, "/tokenize", prompt="a", messages=[{"content": "a"}])
    assert kinds.post("/tokenize", json={"prompt": 5}).status_code in (400, 422)
    assert kinds.post("/detokenize", json={"tokens": [-1]}).status_code in (400, 422)
    assert kinds.post("/detokenize", json={}).status_code in (400, 422)
    assert "tools" in refused(kinds, "/tokenize", prompt="a", tools=[{}])
