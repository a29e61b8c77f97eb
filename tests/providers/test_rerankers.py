"""Rerankers behind an API: each form of request and reply, and what goes wrong with them."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import embedders
from config import ModelSpec
from embedders.base import Encoded, Pair, Prompt
from embedders.providers import Providers
from embedders.remote import RemoteEmbedder
from errors import BadRequest, ModelUnavailable, ProviderError
from tests.providers.conftest import loopback
from tests.providers.server import KEY, FakeProvider, Handler, relevance

DOCUMENTS = [f"document {n}" for n in range(7)]
PAIRS = [Pair("what is it", each) for each in DOCUMENTS]
Make = Callable[..., RemoteEmbedder]


@pytest.fixture
def reranker(provider: FakeProvider) -> Iterator[Make]:
    """Make a remote reranker on the fake provider."""
    providers = Providers(loopback(), lambda name: KEY)

    def make(kind: str = "reranker", path: str = "/v1", **entry: object) -> RemoteEmbedder:
        given = {"model_name": "rerank-m", "base_url": provider.url + path, "provider": "jina"}
        spec = ModelSpec.model_validate({"id": kind, "type": kind, **given, **entry})
        made = embedders.build(spec, providers.config, providers)
        assert isinstance(made, RemoteEmbedder)
        return made

    yield make
    providers.close()


def run(embedder: RemoteEmbedder, pairs: list[Pair], truncate: str = "auto") -> Encoded:
    return embedder.encode(embedder.prepare_pairs(pairs, Prompt(), truncate))  # type: ignore[arg-type]


def expected(pairs: list[Pair]) -> np.ndarray:
    return np.array([[relevance(*pair)] for pair in pairs], np.float32)


@pytest.mark.parametrize("form", ["jina", "voyage"])
def test_scores_come_back_in_the_order_of_the_documents(
    form: str, provider: FakeProvider, reranker: Make
) -> None:
    provider.form, embedder = form, reranker()
    found = run(embedder, PAIRS)
    np.testing.assert_array_equal(found.columns["score"], expected(PAIRS))
    assert sum(found.tokens) == 14
    path, headers, body = provider.seen[0]
    assert (path, headers["Authorization"]) == ("/v1/rerank", f"Bearer {KEY}")
    assert body == {"model": "rerank-m", "query": "what is it", "documents": DOCUMENTS,
                    "return_documents": False}  # fmt: skip
    facts = embedder.facts
    assert (facts.kind, facts.activation, facts.dimension) == ("reranker", "identity", 0)


def test_a_server_that_wants_texts_is_asked_as_tei_from_then_on(
    provider: FakeProvider, reranker: Make
) -> None:
    def tei(handler: Handler, body: dict[str, object]) -> None:
        if "texts" not in body:
            return handler.reply(b'{"error": "missing field `texts`", "error_type": "x"}', 422)
        return handler.reply(json.dumps(handler.good(body)).encode())

    provider.form, provider.always, embedder = "tei", tei, reranker(path="")
    for _ in range(2):
        np.testing.assert_array_equal(run(embedder, PAIRS).columns["score"], expected(PAIRS))
    bodies = [body for _, _, body in provider.seen]
    assert ["documents" in body for body in bodies] == [True, False, False]
    assert (bodies[1]["raw_scores"], bodies[1]["truncate"]) == (False, True)
    run(embedder, PAIRS, "error")
    assert provider.seen[-1][2]["truncate"] is False


def test_cohere_s_rerank_models_are_asked_at_v2_and_else_at_v1(
    provider: FakeProvider, reranker: Make
) -> None:
    embedder = reranker("cohere", "", provider="cohere", model_name="rerank-v3.5")
    np.testing.assert_array_equal(run(embedder, PAIRS).columns["score"], expected(PAIRS))
    assert provider.seen[0][0] == "/v2/rerank"
    assert provider.seen[0][2] == {"model": "rerank-v3.5", "query": "what is it",
                                   "documents": DOCUMENTS}  # fmt: skip
    provider.script.append((404, {}))
    run(embedder, PAIRS)
    run(embedder, PAIRS)
    assert [path for path, _, _ in provider.seen[1:]] == ["/v2/rerank", "/v1/rerank", "/v1/rerank"]


def test_each_query_is_sent_once_with_its_own_documents(
    provider: FakeProvider, reranker: Make
) -> None:
    pairs = [Pair(query, each) for each in DOCUMENTS for query in ("first", "second")]
    np.testing.assert_array_equal(run(reranker(), pairs).columns["score"], expected(pairs))
    assert sorted(body["query"] for _, _, body in provider.seen) == ["first", "second"]
    assert all(body["documents"] == DOCUMENTS for _, _, body in provider.seen)


def test_an_address_that_ends_in_rerank_is_used_as_it_is(
    provider: FakeProvider, reranker: Make
) -> None:
    run(reranker(path="/gateway/rerank"), PAIRS)
    assert provider.seen[0][0] == "/gateway/rerank"


@pytest.mark.parametrize(
    "answer",
    [
        {"results": [{"index": 0, "relevance_score": 0.5}]},  # the others are missing
        {"results": [{"index": 9, "relevance_score": 0.5}]},
        {"results": [{"index": -1, "relevance_score": 0.5}]},
        {"results": [{"index": i, "relevance_score": float("nan")} for i in range(7)]},
        {"results": [{"index": i} for i in range(7)]},
        {"answers": []},
        [],
    ],
)
def test_a_reply_without_a_score_for_each_document_is_an_error(
    answer: object, provider: FakeProvider, reranker: Make
) -> None:
    provider.always = lambda handler, body: handler.reply(json.dumps(answer).encode())
    with pytest.raises(ProviderError):
        run(reranker(), PAIRS)


def test_a_refusal_of_both_forms_is_told_by_the_first(
    provider: FakeProvider, reranker: Make
) -> None:
    provider.script += [(404, {}), (422, {})]
    embedder = reranker()
    with pytest.raises(ProviderError, match="no such model or path"):
        run(embedder, PAIRS)
    run(embedder, PAIRS)
    provider.always = (422, {})
    with pytest.raises(BadRequest, match="an input is empty or too long"):
        run(embedder, PAIRS)
    assert len(provider.seen) == 4, "once its form is known, a refusal is about the request"


def test_texts_alone_and_cutting_the_start_are_refused(reranker: Make) -> None:
    embedder = reranker()
    with pytest.raises(BadRequest, match="send them to /rerank"):
        embedder.prepare(["a text"], Prompt(), "auto")
    with pytest.raises(BadRequest, match="cannot be asked for 'left'"):
        embedder.prepare_pairs(PAIRS, Prompt(), "left")


def test_not_to_cut_is_asked_for_where_there_is_a_word_for_it(
    provider: FakeProvider, reranker: Make
) -> None:
    embedder = reranker()
    run(embedder, PAIRS)
    provider.always = (422, {})  # it takes documents only
    with pytest.raises(BadRequest, match="cannot be asked not to cut"):
        run(embedder, PAIRS, "error")
    body = provider.seen[-1][2]
    assert (body["truncate"], body["model"], "documents" in body) == (False, "rerank-m", False)
    cohere = reranker("cohere", "", provider="cohere", model_name="rerank-v3.5")
    with pytest.raises(BadRequest, match="cannot be asked for 'error'"):
        run(cohere, PAIRS, "error")


def test_no_documents_are_not_sent(provider: FakeProvider, reranker: Make) -> None:
    scores = run(reranker(), []).columns["score"]
    assert isinstance(scores, np.ndarray) and scores.shape == (0, 1)
    assert not provider.seen


def test_a_remote_reranker_has_no_devices(reranker: Make) -> None:
    with pytest.raises(ModelUnavailable, match="devices"):
        reranker("cohere", "", provider="cohere", model_name="rerank-v3.5", devices=["cpu"])
