"""`POST /rerank` takes what the clients of other services send, and refuses what it cannot do."""

from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from embedders.base import Encoded
from embedders.fake import FakeEmbedder
from factory import create_app

QUERY = "when does it rain"
DOCUMENTS = ["stocks fell", "it does rain in spring", "when", "cats sleep"]
BODY = {"query": QUERY, "documents": DOCUMENTS}
ORDER = [1, 2]  # the two best; the others share no word with the query


def good(client: FlaskClient, **fields: Any) -> Any:
    reply = client.post("/rerank", json={**BODY, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json


def refused(client: FlaskClient, status: int, **fields: Any) -> str:
    reply = client.post("/rerank", json={**BODY, **fields})
    assert reply.status_code == status, reply.text
    return str(reply.json["error"])


def test_documents_come_the_best_first_with_all_that_clients_read(kinds: FlaskClient) -> None:
    got = good(kinds)
    assert [row["index"] for row in got["results"][:2]] == ORDER
    scores = [row["relevance_score"] for row in got["results"]]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert got["data"] == got["results"]
    assert (got["object"], got["model"]) == ("rerank", "reranker")
    words = sum(len(text.split()) for text in DOCUMENTS) + 4 * len(QUERY.split())
    assert got["usage"] == {"prompt_tokens": words, "total_tokens": words}
    assert got["meta"] == {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    assert got["id"] and all(set(row) == {"index", "relevance_score"} for row in got["results"])
    assert good(kinds, model="tests/reranker+score")["model"] == "tests/reranker+score"


def test_texts_are_answered_as_tei_does(kinds: FlaskClient) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS, "raw_scores": False, "truncate": False,
            "truncation_direction": "Right"}  # fmt: skip
    rows = kinds.post("/rerank", json=body).json
    assert rows == [
        {"index": row["index"], "score": row["relevance_score"]} for row in good(kinds)["results"]
    ]
    rows = kinds.post("/rerank", json={**body, "return_text": True, "top_n": 2}).json
    assert [row["text"] for row in rows] == [DOCUMENTS[i] for i in ORDER]


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({}, None),
        ({"return_documents": True}, {"text": DOCUMENTS[1]}),
        ({"return_documents": "true", "return_len": "true"}, {"text": DOCUMENTS[1]}),
        ({"return_documents": False}, None),
        ({"return_documents": True, "top_k": 3, "truncation": True}, DOCUMENTS[1]),
        ({"return_documents": True, "top_n": 2}, {"text": DOCUMENTS[1]}),
    ],
)
def test_a_result_has_its_document_in_the_form_of_the_caller(
    kinds: FlaskClient, fields: dict[str, Any], first: object
) -> None:
    assert good(kinds, **fields)["results"][0].get("document") == first


@pytest.mark.parametrize(
    ("fields", "count"),
    [({"top_n": 1}, 1), ({"top_k": 3}, 3), ({"top_n": 2, "top_k": 2}, 2), ({"top_n": 0}, 4),
     ({"top_n": None}, 4), ({"top_n": 99}, 4)],
)  # fmt: skip
def test_only_the_best_are_returned_and_none_or_more_than_there_are_means_all(
    kinds: FlaskClient, fields: dict[str, Any], count: int
) -> None:
    assert good(kinds, **fields)["results"] == good(kinds)["results"][:count]


def test_raw_scores_are_what_the_sigmoid_is_made_of(kinds: FlaskClient) -> None:
    plain = good(kinds)["results"]
    for field, value in (("raw_scores", True), ("use_activation", False)):
        raw = good(kinds, **{field: value})["results"]
        assert [row["index"] for row in raw] == [row["index"] for row in plain]
        made = 1 / (1 + np.exp(-np.array([row["relevance_score"] for row in raw])))
        np.testing.assert_allclose(made, [row["relevance_score"] for row in plain], rtol=1e-6)


def test_documents_may_be_objects_with_a_text(kinds: FlaskClient) -> None:
    objects = [{"text": text, "title": "any"} for text in DOCUMENTS]
    mixed = [DOCUMENTS[0], *objects[1:]]
    assert good(kinds, documents=mixed)["results"] == good(kinds)["results"]


def test_a_pair_is_scored_alike_alone_and_among_others(kinds: FlaskClient) -> None:
    among = {row["index"]: row["relevance_score"] for row in good(kinds)["results"]}
    for place, text in enumerate(DOCUMENTS):
        (alone,) = good(kinds, documents=[text])["results"]
        assert alone["relevance_score"] == among[place]


def test_equal_scores_keep_the_order_of_the_documents(kinds: FlaskClient) -> None:
    got = good(kinds, documents=["same words"] * 5)["results"]
    assert [row["index"] for row in got] == [0, 1, 2, 3, 4]
    assert len({row["relevance_score"] for row in got}) == 1


def test_pairs_are_cached_and_a_query_alone_finds_no_other_document(config_of: Any) -> None:
    models = {"r": {"type": "fake", "model_name": "tests/r+score"}}
    client = create_app(config_of(models), wait=True).test_client()

    def cached(query: str, documents: list[str]) -> str:
        body = {"query": query, "documents": documents}
        return client.post("/rerank", json=body).headers["X-Cache"]

    assert cached("a b", ["c", "d"]) == "hits=0, misses=2"
    assert cached("a b", ["d", "c", "e"]) == "hits=2, misses=1"
    assert cached("a", ["b c", "c"]) == "hits=0, misses=2"
    assert cached("c", ["a b"]) == "hits=0, misses=1"


def test_what_is_cut_is_told_or_refused(kinds: FlaskClient) -> None:
    long = ["short", "word " * 200_000]  # 1 MB
    reply = kinds.post("/rerank", json={"query": "a", "documents": long})
    assert (reply.status_code, reply.headers["X-Truncated-Inputs"]) == (200, "1")
    for field, value in (("truncate", False), ("truncation", False), ("truncate", "NONE")):
        told = refused(kinds, 400, query="a", documents=long, **{field: value})
        assert told.startswith("documents.1: ")
    reply = kinds.post("/rerank", json={"query": "a", "texts": long, "truncate": False})
    assert reply.json["param"] == "texts.1" and reply.json["error"].startswith("texts.1: ")


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"query": ""}, 422, "query: it is empty"),
        ({"query": " \n"}, 422, "query: it is empty"),
        ({"query": None}, 422, "query"),
        ({"query": 5}, 422, "query"),
        ({"documents": []}, 422, "documents: "),
        ({"documents": "a"}, 422, "documents: "),
        ({"documents": ["a", 5]}, 422, "documents.1: "),
        ({"documents": ["a", {"title": "b"}]}, 422, "documents.1: "),
        ({"documents": None}, 422, "either documents or texts"),
        ({"texts": ["a"]}, 422, "either documents or texts"),
        ({"documents": [{"image": "x"}]}, 400, "an image cannot be scored"),
        ({"documents": [{"content": []}]}, 400, "an image cannot be scored"),
        ({"documents": ["a"] * 10_001}, 413, "10001 inputs; the limit is 2048"),
        ({"top_n": -1}, 400, "top_n: -1 is refused"),
        ({"top_n": "2"}, 400, 'top_n: "2" is refused'),
        ({"top_n": 1, "top_k": 2}, 400, "top_n 1 and top_k 2 contradict each other"),
        ({"return_documents": True, "return_text": False}, 400, "contradict each other"),
        ({"return_documents": "yes"}, 400, 'return_documents: "yes" is refused'),
        ({"raw_scores": True, "use_activation": True}, 400, "contradict each other"),
        ({"truncation": False, "truncate": True}, 400, "contradict each other"),
        ({"truncation_direction": "middle"}, 400, "truncation_direction: "),
        ({"truncate_prompt_tokens": 3}, 400, "truncate_prompt_tokens: 3 is refused"),
        ({"max_tokens_per_doc": 3}, 400, "max_tokens_per_doc: 3 is refused"),
        ({"max_chunks_per_doc": 10}, 400, "max_chunks_per_doc: 10 is refused"),
        ({"max_chunks_per_doc": True}, 400, "max_chunks_per_doc: true is refused"),
        ({"dimensions": 4}, 400, "dimensions: 4 is refused"),
        ({"outputs": ["dense"]}, 400, "outputs: a list is refused"),
        ({"encoding_format": "base64"}, 400, 'encoding_format: "base64" is refused'),
        ({"normalize": False}, 400, "normalize: false is refused"),
        ({"output_dtype": "int8"}, 400, 'output_dtype: "int8" is refused'),
        ({"input_type": "query"}, 400, 'input_type: "query" is refused'),
        ({"rank_fields": ["title"]}, 400, "rank_fields: a list is refused"),
        ({"prompt": "a", "instruction": "b"}, 400, "contradict each other"),
        ({"prompt": "a", "prompt_name": "b"}, 400, "both choose one"),
        ({"model": "nope"}, 400, "unknown model 'nope'"),
        ({"model": "reranker", "model_id": "dense"}, 400, "name different models"),
    ],
)
@pytest.mark.fault("Malformed requests")
def test_what_cannot_be_done_is_refused_by_its_field(
    kinds: FlaskClient, fields: dict[str, Any], status: int, told: str
) -> None:
    """A query without text, no documents, too many, fields that contradict each other -> a 4xx that
    names the field.
    """
    assert told in refused(kinds, status, **fields)


@pytest.mark.parametrize(
    "fields",
    [{"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": 16}, {"max_tokens_per_doc": 4096},
     {"max_chunks_per_doc": None}, {"rank_fields": ["text"]}, {"priority": 3, "user": "me"},
     {"model_id": "reranker"}, {"nobody": "knows"}],
)  # fmt: skip
def test_what_changes_no_score_passes(kinds: FlaskClient, fields: dict[str, Any]) -> None:
    assert good(kinds, **fields)["results"] == good(kinds)["results"]


class Failing(FakeEmbedder):
    """A reranker whose score of one document is not a number, however it is encoded."""

    def encode(self, items, deadline=None, gone=None):  # type: ignore[no-untyped-def]
        encoded = super().encode(items)
        scores = encoded.columns["score"]
        for place, item in enumerate(items):
            if "poison" in item.payload:
                scores[place] = np.nan
        return Encoded({"score": scores}, encoded.tokens)


@pytest.mark.fault("Models and devices")
def test_a_score_that_is_not_a_number_is_an_error_of_its_request_alone(config_of: Any) -> None:
    """A score that is not a number -> 500 that names the document; other requests are answered."""
    build = lambda spec, settings: Failing("tests/r+score")  # noqa: E731
    client = create_app(config_of(), build=build, wait=True).test_client()
    for _ in range(2):  # and it is not cached
        reply = client.post("/rerank", json={"query": "a", "documents": ["b", "poison"]})
        assert reply.status_code == 500
        assert (
            "documents.1: the model's result for this input is not a number" in reply.json["error"]
        )
        assert client.post("/rerank", json={"query": "a", "documents": ["b"]}).status_code == 200


@pytest.mark.fault("Hostile clients")
def test_documents_that_a_reply_does_not_hold_are_not_returned(config_of: Any) -> None:
    """`return_documents` over `MAX_REPLY_BYTES` -> 413 that says to send `top_n`."""
    models = {"r": {"type": "fake", "model_name": "tests/r+score"}}
    app = create_app(config_of(models, max_reply_bytes=4096), wait=True)
    client, body = app.test_client(), {"query": "a", "documents": ["\x01" * 200] * 4}
    assert client.post("/rerank", json=body).status_code == 200
    reply = client.post("/rerank", json={**body, "return_documents": True})
    assert reply.status_code == 413 and "top_n" in reply.json["error"]
    reply = client.post("/rerank", json={**body, "return_documents": True, "top_n": 1})
    assert reply.status_code == 200 and len(reply.data) < 4096


def test_documents_count_as_texts_of_the_limit(config_of: Any) -> None:
    models = {"r": {"type": "fake", "model_name": "tests/r+score"}}
    config: Config = config_of(models, max_texts=3)
    client = create_app(config, wait=True).test_client()
    body = {"query": "a", "documents": ["b"] * 3}
    assert client.post("/rerank", json=body).status_code == 200
    reply = client.post("/rerank", json={"query": "a", "documents": ["b"] * 4})
    assert (reply.status_code, reply.json["param"]) == (413, "documents")
    reply = client.post("/rerank", json={"query": "a", "texts": ["b"] * 4})
    assert (reply.status_code, reply.json["param"]) == (413, "texts")
