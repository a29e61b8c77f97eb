"""Programs that rerank without a client library: their requests, byte for byte."""

from typing import Any

import pytest

from tests.dialects.clients.answers import QUERY, TEXTS, Raw, ranked

ASKED = {"model": "reranker", "query": QUERY, "documents": TEXTS}


def pairs(rows: list[dict[str, Any]], score: str = "relevance_score") -> list[list[Any]]:
    """Return indices and scores of a reply's rows."""
    return [[row["index"], row[score]] for row in rows]


def texts(rows: list[dict[str, Any]]) -> list[str]:
    """Return the texts of rows whose `document` is an object."""
    return [row["document"]["text"] for row in rows]


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    """Return what the texts of rows must be."""
    return [TEXTS[row["index"]] for row in rows]


def test_dify_openai_compatible(raw: Raw) -> None:
    reply = raw.ask("/v1/rerank", {**ASKED, "top_n": 3}, Authorization="")
    ranked(pairs(reply["results"]), raw.ranks()[:3])


def test_dify_cohere(raw: Raw) -> None:
    """It reads `document.text` without looking whether it is there."""
    documents = [{"text": text} for text in TEXTS]
    body = {**ASKED, "documents": documents, "return_documents": True, "top_n": 6}
    for path in ("/v1/rerank", "/v2/rerank"):
        rows = raw.ask(path, body)["results"]
        ranked(pairs(rows), raw.ranks())
        assert texts(rows) == in_order(rows)


def test_dify_voyage(raw: Raw) -> None:
    """It reads `data`, with texts that are strings."""
    body = {**ASKED, "top_k": 4, "return_documents": True, "truncation": True}
    reply = raw.ask("/v1/rerank", body)
    ranked(pairs(reply["data"]), raw.ranks()[:4])
    assert [row["document"] for row in reply["data"]] == in_order(reply["data"])
    assert reply["usage"]["total_tokens"] > 0


def test_dify_jina(raw: Raw) -> None:
    body = {**ASKED, "top_n": 6, "return_documents": True}
    for path in ("/v1/rerank", "/rerank"):
        reply = raw.ask(path, body)
        ranked(pairs(reply["results"]), raw.ranks())
        assert texts(reply["results"]) == in_order(reply["results"])
        assert reply["usage"]["total_tokens"] > 0 and reply["model"]
    status, reply = raw.send("/v1/rerank", {**body, "model": "no-such-model"})
    assert status == 400 and "no-such-model" in reply["detail"]


@pytest.mark.parametrize("wanted", [True, "true"], ids=["dify", "ragflow"])
def test_xinference(raw: Raw, wanted: object) -> None:
    """Dify sends nulls, RAGFlow booleans that are strings."""
    body = {**ASKED, "top_n": None, "max_chunks_per_doc": None, "return_documents": wanted,
            "return_len": wanted if wanted == "true" else None}  # fmt: skip
    rows = raw.ask("/v1/rerank", body)["results"]
    ranked(pairs(rows), raw.ranks())
    assert texts(rows) == in_order(rows)


def test_gpustack(raw: Raw) -> None:
    ranked(pairs(raw.ask("/v1/rerank", {**ASKED, "top_n": 6})["results"]), raw.ranks())


def test_localai(raw: Raw) -> None:
    reply = raw.ask("/rerank", {**ASKED, "top_n": None}, Authorization="Bearer 123")
    ranked(pairs(reply["results"]), raw.ranks())


def test_dify_ollama(raw: Raw) -> None:
    rows = raw.ask("/api/rerank", {**ASKED, "model": "reranker:latest", "top_n": 3})["results"]
    ranked(pairs(rows), raw.ranks()[:3])
    assert all(isinstance(row.get("document", ""), str) for row in rows)


def test_open_webui(raw: Raw) -> None:
    reply = raw.ask("/v1/rerank", {**ASKED, "top_n": len(TEXTS)})
    ranked(pairs(reply["results"]), raw.ranks())
    assert all(0 <= row["relevance_score"] <= 1 for row in reply["results"])


def test_dify_tei(raw: Raw) -> None:
    rows = raw.ask("/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True})
    ranked(pairs(rows, "score"), raw.ranks())
    assert [row["text"] for row in rows] == in_order(rows)


def test_ragflow_tei(raw: Raw) -> None:
    body = {"query": QUERY, "texts": TEXTS, "raw_scores": False, "truncate": True}
    ranked(pairs(raw.ask("/rerank", body), "score"), raw.ranks())


def test_infinity(raw: Raw) -> None:
    body = {**ASKED, "return_documents": False, "raw_scores": False, "top_n": 2}
    ranked(pairs(raw.ask("/rerank", body)["results"]), raw.ranks()[:2])


def test_vllm_rerank(raw: Raw) -> None:
    """No `top_n`, or 0, is all."""
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        reply = raw.ask(path, {**ASKED, "top_n": 0})
        ranked(pairs(reply["results"]), raw.ranks())
        assert reply["usage"]["total_tokens"] > 0 and reply["id"]


def test_vllm_score(raw: Raw) -> None:
    scores = dict(raw.ranks())
    for one, many in (("text_1", "text_2"), ("queries", "documents"), ("data_1", "items")):
        for path in ("/score", "/v1/score"):
            rows = raw.ask(path, {"model": "reranker", one: QUERY, many: TEXTS})["data"]
            assert [row["index"] for row in rows] == list(range(len(TEXTS)))
            expected = [[i, scores[i]] for i in range(len(TEXTS))]
            ranked(pairs(rows, "score"), [(i, score) for i, score in expected])


def test_what_is_no_reranker_is_refused_in_each_dialect(raw: Raw) -> None:
    status, reply = raw.send("/v1/rerank", {**ASKED, "model": "minilm"})
    assert status == 400 and reply["detail"] == reply["message"] == reply["error"]["message"]
    status, reply = raw.send("/rerank", {"query": QUERY, "texts": TEXTS, "model": "minilm"})
    assert status == 424 and reply["error_type"] == "Backend"
    status, reply = raw.send("/v1/rerank", {**ASKED, "documents": [{"image": "aGk="}]})
    assert status == 400 and "text" in reply["detail"]
