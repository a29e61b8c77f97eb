"""Jina's callers find what they send and read: its embeddings are those of OpenAI's route."""

from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

TEXTS = ["stocks fell", "it does rain in spring", "cats sleep"]
QUERY = "when does it rain"


def embeddings(client: FlaskClient, path: str = "/v1/embeddings", **fields: Any) -> Any:
    reply = client.post(path, json={"input": TEXTS, "model": "dense", **fields})
    assert reply.status_code == 200, reply.text
    return reply.json


def vectors(client: FlaskClient, **fields: Any) -> list[Any]:
    return [row["embedding"] for row in embeddings(client, **fields)["data"]]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_objects_with_a_text_are_texts(kinds: FlaskClient, path: str) -> None:
    """RAGFlow sends all of these fields."""
    objects = [{"text": text} for text in TEXTS]
    got = embeddings(
        kinds, path, input=objects, task="retrieval.passage", truncate=True, late_chunking=False,
        return_multivector=False, embedding_type="float",
    )  # fmt: skip
    assert [row["embedding"] for row in got["data"]] == vectors(kinds)
    assert [row["index"] for row in got["data"]] == [0, 1, 2]
    words = sum(len(text.split()) for text in TEXTS)
    assert got["model"] == "dense" and got["usage"]["total_tokens"] == words


@pytest.mark.parametrize(
    ("task", "role"),
    [("retrieval.query", "query"), ("retrieval.passage", "document"), ("text-matching", None),
     ("classification", None), ("separation", None), ("code.query", None)],
)  # fmt: skip
def test_a_task_is_a_prompt_where_the_model_has_one(
    kinds: FlaskClient, task: str, role: str | None
) -> None:
    assert vectors(kinds, task=task) == vectors(kinds, input_type=role)
    assert (vectors(kinds, task=task) == vectors(kinds, task="retrieval.query")) == (
        role == "query"
    )


@pytest.mark.parametrize(
    ("embedding_type", "fields"),
    [("float", {}), ("base64", {"encoding_format": "base64"}),
     ("binary", {"output_dtype": "binary"}), ("ubinary", {"output_dtype": "ubinary"})],
)  # fmt: skip
def test_a_type_of_embeddings_is_written_as_elsewhere(
    kinds: FlaskClient, embedding_type: str, fields: dict[str, str]
) -> None:
    assert vectors(kinds, embedding_type=embedding_type) == vectors(kinds, **fields)


def test_late_chunks_are_those_of_one_document(kinds: FlaskClient) -> None:
    late = vectors(kinds, late_chunking=True)
    body = {"inputs": [TEXTS], "model": "dense"}
    reply = kinds.post("/v1/contextualizedembeddings", json=body)
    want = [row["embedding"] for row in reply.json["data"][0]["data"]]
    np.testing.assert_allclose(late, want, atol=1e-6)
    assert late != vectors(kinds)


def test_a_result_has_its_document_unless_the_caller_wants_none(kinds: FlaskClient) -> None:
    body = {"model": "reranker", "query": QUERY, "documents": TEXTS}
    reply = kinds.post("/v1/rerank", json=body).json
    assert [row["document"] for row in reply["results"]] == [
        {"text": TEXTS[row["index"]]} for row in reply["results"]
    ]
    assert reply["model"] == "reranker" and reply["usage"]["total_tokens"] > 0
    objects = {**body, "documents": [{"text": text} for text in TEXTS], "top_n": 2}
    again = kinds.post("/rerank", json={**objects, "return_documents": False}).json
    scores = [{k: row[k] for k in ("index", "relevance_score")} for row in reply["results"]]
    assert again["results"] == scores[:2]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": [{"image": "aGk="}]}),
        ("/v1/embeddings", {"input": TEXTS, "model": "jina-clip-v2"}),
        ("/v1/embeddings", {"input": TEXTS, "embedding_type": "int4"}),
        ("/v1/rerank", {"query": QUERY, "documents": [{"image": "aGk="}]}),
        ("/v1/rerank", {"query": QUERY, "documents": []}),
        ("/v1/rerank", {"query": QUERY, "documents": TEXTS, "model": "jina-reranker-m0"}),
    ],
)
def test_what_is_refused_is_told_as_its_callers_read_it(
    kinds: FlaskClient, path: str, body: dict[str, Any]
) -> None:
    reply = kinds.post(path, json=body)
    assert reply.status_code == 400
    assert reply.json["detail"] == reply.json["error"]["message"] != ""
