"""`/rerank`, `/v1/rerank`, `/v2/rerank` and `/api/rerank` take what the clients of other services
send, and refuse what cannot be done.
"""

from dataclasses import replace
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
    """Return what is said of a body that is refused; every SDK finds it where it looks."""
    reply = client.post("/rerank", json={**BODY, **fields})
    assert reply.status_code == status, reply.text
    said = reply.json
    assert said["message"] == said["detail"] == said["error"]["message"]
    assert said["code"] == status
    return str(said["detail"])


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
    assert got["id"]
    assert all(set(row) == {"index", "relevance_score", "document"} for row in got["results"])
    assert good(kinds, model="tests/reranker+score")["model"] == "tests/reranker+score"


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_query_string_may_name_the_model(kinds: FlaskClient, path: str) -> None:
    got = kinds.post(f"{path}?model_id=nope", json=BODY)
    assert got.status_code == 400 and "unknown model 'nope'" in got.json["message"]


def test_documents_beside_teis_texts_are_refused(kinds: FlaskClient) -> None:
    reply = kinds.post("/rerank", json={**BODY, "texts": ["a"]})
    assert reply.status_code == 422 and "documents: a list is refused" in reply.json["error"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/api/rerank"])
def test_every_path_scores_alike(kinds: FlaskClient, path: str) -> None:
    got = kinds.post(path, json={**BODY, "return_documents": False, "model": "reranker"})
    assert got.status_code == 200, got.text
    want = good(kinds, return_documents=False)["results"]
    assert got.json["results"] == got.json["data"] == want


TEXT, OBJECT = DOCUMENTS[1], {"text": DOCUMENTS[1]}


@pytest.mark.parametrize(
    ("path", "fields", "first"),
    [
        ("/rerank", {}, OBJECT),  # vLLM, Jina, LocalAI
        ("/v1/rerank", {"top_n": 2}, OBJECT),
        ("/v2/rerank", {}, None),  # Cohere
        ("/api/rerank", {}, None),  # Dify, for Ollama
        ("/v1/rerank", {"top_k": 3, "truncation": True}, None),  # Voyage
        ("/v1/rerank", {"top_k": None, "truncation": True}, None),
        ("/rerank", {"return_documents": True}, OBJECT),
        ("/rerank", {"return_documents": "true", "return_len": "true"}, OBJECT),  # RAGFlow
        ("/rerank", {"return_documents": False}, None),
        ("/rerank", {"return_text": "False"}, None),
        ("/v2/rerank", {"return_documents": True}, OBJECT),
        ("/v1/rerank", {"return_documents": True, "top_k": 3}, TEXT),
        ("/v1/rerank", {"return_documents": True, "top_k": 3, "truncation": True}, TEXT),
        ("/api/rerank", {"return_documents": True}, TEXT),
    ],
)
def test_a_result_has_its_document_in_the_form_of_the_caller(
    kinds: FlaskClient, path: str, fields: dict[str, Any], first: object
) -> None:
    reply = kinds.post(path, json={**BODY, **fields})
    assert reply.status_code == 200, reply.text
    assert reply.json["results"][0].get("document") == first


@pytest.mark.parametrize(
    ("fields", "count"),
    [({"top_n": 1}, 1), ({"top_k": 3}, 3), ({"top_n": 2, "top_k": 2}, 2), ({"top_n": 0}, 4),
     ({"top_n": None}, 4), ({"top_n": 99}, 4)],
)  # fmt: skip
def test_only_the_best_are_returned_and_none_or_more_than_there_are_means_all(
    kinds: FlaskClient, fields: dict[str, Any], count: int
) -> None:
    places = [row["index"] for row in good(kinds)["results"]]
    assert [row["index"] for row in good(kinds, **fields)["results"]] == places[:count]


def test_raw_scores_are_what_the_sigmoid_is_made_of(kinds: FlaskClient) -> None:
    plain = good(kinds)["results"]
    for field, value in (("raw_scores", True), ("use_activation", False)):
        raw = good(kinds, **{field: value})["results"]
        assert [row["index"] for row in raw] == [row["index"] for row in plain]
        made = 1 / (1 + np.exp(-np.array([row["relevance_score"] for row in raw])))
        np.testing.assert_allclose(made, [row["relevance_score"] for row in plain], rtol=1e-6)


def test_documents_may_be_objects_with_a_text(kinds: FlaskClient) -> None:
    objects = [{"text": text, "title": "any"} for text in DOCUMENTS]
    parts = {"content": [{"type": "text", "text": DOCUMENTS[3]}]}
    mixed = [DOCUMENTS[0], *objects[1:3], parts]
    assert good(kinds, documents=mixed)["results"] == good(kinds)["results"]
    assert good(kinds, query={"text": QUERY})["results"] == good(kinds)["results"]


def test_of_objects_the_fields_that_are_named_are_read_in_their_order(kinds: FlaskClient) -> None:
    objects = [{"text": "b c", "title": "a", "year": 7, "image": "x.png"}, {"text": "d"}, "e"]
    got = good(kinds, documents=objects, rank_fields=["year", "title", "text"])
    assert got["results"] == good(kinds, documents=["7\na\nb c", "d", "e"])["results"]


class Raw(FakeEmbedder):
    """A reranker whose own activation leaves its logits as they are, as ms-marco's do."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.facts = replace(self.facts, activation="identity")


def test_logits_that_a_model_leaves_as_they_are_get_a_sigmoid(
    config_of: Any, kinds: FlaskClient
) -> None:
    build = lambda spec, settings: Raw("tests/reranker+score")  # noqa: E731
    client = create_app(config_of(), build=build, wait=True).test_client()
    assert good(client)["results"] == good(kinds)["results"]
    raw = good(client, raw_scores=True)["results"]
    assert raw == good(kinds, raw_scores=True)["results"] != good(kinds)["results"]


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
    assert reply.json["meta"]["warnings"] == [
        "1 of the documents were too long for the model and were cut"
    ]
    assert "warnings" not in good(kinds)["meta"]
    for field, value in (("truncate", False), ("truncation", False), ("truncate", "NONE")):
        told = refused(kinds, 400, query="a", documents=long, **{field: value})
        assert told.startswith("documents.1: ")


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"query": ""}, 400, "query: it is empty"),
        ({"query": " \n"}, 400, "query: it is empty"),
        ({"query": None}, 400, "query"),
        ({"query": 5}, 400, "query"),
        ({"documents": []}, 400, "documents: "),
        ({"documents": "a"}, 400, "documents: "),
        ({"documents": ["a", 5]}, 400, "documents.1: "),
        ({"documents": ["a", {"title": "b"}]}, 400, "documents.1: "),
        ({"documents": None}, 400, "documents: "),
        ({"documents": [{"image": "x"}]}, 400, "documents: this service is text only"),
        ({"documents": [{"content": [{"type": "image_url"}]}]}, 400, "text only"),
        ({"documents": [{"content": []}]}, 400, "documents.0: "),
        ({"query": {"image": "x"}}, 400, "query: this service is text only"),
        ({"documents": ["a"] * 10_001}, 400, "10001 inputs; the limit is 2048"),
        ({"top_n": -1}, 400, "top_n: -1 is refused"),
        ({"top_n": "2"}, 400, 'top_n: "2" is refused'),
        ({"top_n": 1, "top_k": 2}, 400, "top_n 1 and top_k 2 contradict each other"),
        ({"return_documents": True, "return_text": False}, 400, "contradict each other"),
        ({"return_documents": "yes"}, 400, 'return_documents: "yes" is refused'),
        ({"raw_scores": True, "use_activation": True}, 400, "contradict each other"),
        ({"truncation": False, "truncate": True}, 400, "contradict each other"),
        ({"truncation_direction": "middle"}, 400, "truncation_direction: "),
        ({"truncate_prompt_tokens": 0}, 400, "truncate_prompt_tokens: 0 is refused"),
        ({"truncate_prompt_tokens": -2}, 400, "truncate_prompt_tokens: -2 is refused"),
        ({"truncate_prompt_tokens": 5, "truncate": "NONE"}, 400, "contradict each other"),
        ({"max_tokens_per_doc": 0}, 400, "max_tokens_per_doc: 0 is refused"),
        ({"max_tokens_per_doc": 2, "truncate": False}, 400, "documents.1: "),
        ({"max_chunks_per_doc": 0}, 400, "max_chunks_per_doc: 0 is refused"),
        ({"max_chunks_per_doc": True}, 400, "max_chunks_per_doc: true is refused"),
        ({"dimensions": 4}, 400, "dimensions: 4 is refused"),
        ({"outputs": ["dense"]}, 400, "outputs: a list is refused"),
        ({"encoding_format": "base64"}, 400, 'encoding_format: "base64" is refused'),
        ({"normalize": False}, 400, "normalize: false is refused"),
        ({"output_dtype": "int8"}, 400, 'output_dtype: "int8" is refused'),
        ({"input_type": "query"}, 400, 'input_type: "query" is refused'),
        ({"return_embeddings": True}, 400, "return_embeddings: true is refused"),
        ({"max_doc_length": 99}, 400, "max_doc_length: 99 is refused"),
        ({"rank_fields": []}, 400, "rank_fields: a list is refused"),
        ({"rank_fields": "text"}, 400, 'rank_fields: "text" is refused'),
        (
            {"rank_fields": ["title"], "documents": ["a", {"text": "b"}]},
            400,
            "documents.1: it has none of the rank_fields",
        ),
        ({"rank_fields": ["tags"], "documents": [{"tags": ["b"]}]}, 400, "documents.0: "),
        ({"prompt": "a", "instruction": "b"}, 400, "contradict each other"),
        ({"prompt": "a", "prompt_name": "b"}, 400, "both choose one"),
        ({"model": "nope"}, 400, "unknown model 'nope'"),
        ({"model": "reranker", "model_id": "dense"}, 400, "model_id and ?model_id= name different"),
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
     {"max_chunks_per_doc": None}, {"max_chunks_per_doc": 10}, {"rank_fields": ["text"]},
     {"return_embeddings": False}, {"overlap_tokens": 80},
     {"priority": 3, "user": "me"}, {"model_id": "reranker"}, {"nobody": "knows"}],
)  # fmt: skip
def test_what_changes_no_score_passes(kinds: FlaskClient, fields: dict[str, Any]) -> None:
    assert good(kinds, **fields)["results"] == good(kinds)["results"]


def test_who_names_a_limit_wants_documents_cut_at_it(config_of: Any) -> None:
    """Also where the service refuses what is too long."""
    models = {"r": {"type": "fake", "model_name": "tests/r+score"}}
    client = create_app(config_of(models, truncate="error"), wait=True).test_client()
    long = ["a " * 30]
    assert "documents.0" in refused(client, 400, documents=long)
    for field in ("max_tokens_per_doc", "truncate_prompt_tokens"):
        assert good(client, documents=long, **{field: 8})["meta"]["warnings"]


@pytest.mark.parametrize(
    ("fields", "query", "documents"),
    [
        ({"max_tokens_per_doc": 2}, QUERY, ["stocks fell", "it does", "when", "cats sleep"]),
        ({"max_tokens_per_doc": 2, "truncate": "START"}, QUERY,
         ["stocks fell", "in spring", "when", "cats sleep"]),
        ({"truncate_prompt_tokens": 7}, "when does it",
         ["stocks fell", "it does rain in", "when", "cats sleep"]),
    ],
)  # fmt: skip
def test_a_limit_of_tokens_cuts_a_document_or_a_pair(
    kinds: FlaskClient, fields: dict[str, Any], query: str, documents: list[str]
) -> None:
    got = good(kinds, **fields, return_documents=False)
    want = good(kinds, query=query, documents=documents, return_documents=False)
    assert got["results"] == want["results"]


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
        told = "documents.1: the model's result for this input is not a number"
        assert told in reply.json["detail"]
        assert client.post("/rerank", json={"query": "a", "documents": ["b"]}).status_code == 200


@pytest.mark.fault("Hostile clients")
def test_documents_that_a_reply_does_not_hold_are_not_returned(config_of: Any) -> None:
    """`return_documents` over `MAX_REPLY_BYTES` -> 413 that says to send `top_n`."""
    models = {"r": {"type": "fake", "model_name": "tests/r+score"}}
    app = create_app(config_of(models, max_reply_bytes=4096), wait=True)
    client, body = app.test_client(), {"query": "a", "documents": ["\x01" * 200] * 4}
    reply = client.post("/rerank", json={**body, "return_documents": False})
    assert reply.status_code == 200
    reply = client.post("/rerank", json=body)
    assert reply.status_code == 413 and "top_n" in reply.json["detail"]
    reply = client.post("/rerank", json={**body, "top_n": 1})
    assert reply.status_code == 200 and len(reply.data) < 4096


def test_documents_count_as_texts_of_the_limit(config_of: Any) -> None:
    models = {"r": {"type": "fake", "model_name": "tests/r+score"}}
    config: Config = config_of(models, max_texts=3)
    client = create_app(config, wait=True).test_client()
    body = {"query": "a", "documents": ["b"] * 3}
    assert client.post("/rerank", json=body).status_code == 200
    reply = client.post("/rerank", json={"query": "a", "documents": ["b"] * 4})
    assert (reply.status_code, reply.json["error"]["param"]) == (400, "documents")
