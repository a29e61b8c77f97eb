"""LangChain, LlamaIndex, Haystack and LiteLLM, by each of their ways to a service like this."""

import numpy as np
import pytest

from tests.dialects.clients.answers import (
    LONG,
    QUERY,
    TEXTS,
    Answers,
    Raw,
    ranked,
    refused,
    same,
    unlike,
)

LITELLM_EMBEDS = ["openai", "lm_studio", "xinference", "hosted_vllm", "infinity", "jina", "cohere",
                  "ollama", "huggingface"]  # fmt: skip
LITELLM_RANKS = ["cohere", "jina", "voyage", "hosted_vllm", "infinity"]


@pytest.mark.parametrize("way", ["openai", "ollama", "cohere"])
def test_langchain_gets_the_vectors(python: Answers, raw: Raw, way: str) -> None:
    same(python[f"of_langchain.{way}_documents"], raw.floats())
    same([python[f"of_langchain.{way}_query"]], raw.floats(TEXTS[:1]))


def test_langchain_reranks_by_cohere(python: Answers, raw: Raw) -> None:
    ranked(python["of_langchain.cohere_rerank"], raw.ranks())


def test_langchain_raises_openais_error(python: Answers) -> None:
    got = python["of_langchain.openai_unknown_model"]
    refused(got, "openai.BadRequestError", says="no-such-model", status=400)


@pytest.mark.parametrize("way", ["openai", "tei", "ollama", "cohere"])
def test_llamaindex_gets_the_vectors(python: Answers, raw: Raw, way: str) -> None:
    same(python[f"of_llamaindex.{way}_texts"], raw.floats())


def test_llamaindex_gets_one_vector_of_tei(python: Answers, raw: Raw) -> None:
    same([python["of_llamaindex.tei_query"]], raw.floats(TEXTS[:1]))


def test_llamaindex_takes_no_refusal_for_a_vector(python: Answers) -> None:
    assert python["of_llamaindex.tei_refused"]["kinds"], "a refusal was taken for vectors"


@pytest.mark.parametrize("way", ["tei", "cohere", "jina"])
def test_llamaindex_reranks(python: Answers, raw: Raw, way: str) -> None:
    ranked(python[f"of_llamaindex.{way}_rerank"], raw.ranks())


def test_llamaindex_sends_a_key_in_both_forms(python: Answers) -> None:
    assert python["of_llamaindex.tei_keys"] == [len(TEXTS), 2]


@pytest.mark.parametrize("way", ["openai", "cohere", "jina", "ollama", "vllm"])
def test_haystack_gets_the_vectors(python: Answers, raw: Raw, way: str) -> None:
    same(python[f"of_haystack.{way}_documents"], raw.floats())
    same([python[f"of_haystack.{way}_text"]], raw.floats(TEXTS[:1]))


def test_haystack_sends_the_cut_of_vllm(python: Answers, raw: Raw) -> None:
    same([python["of_haystack.vllm_text_cut"]], raw.floats(" ".join(LONG.split()[:6])))


def test_haystack_gets_vectors_of_tei(python: Answers, raw: Raw) -> None:
    got = python["of_haystack.tei_documents"]
    same(got, raw.floats(normalize=False))  # as it asks, if not told otherwise
    unlike(got, raw.floats())
    same([python["of_haystack.tei_text"]], raw.floats(TEXTS[:1]))


def test_haystack_gets_sparse_vectors_of_tei(python: Answers, raw: Raw) -> None:
    rows = raw.ask("/embed", {"texts": TEXTS, "model": "sparse", "outputs": ["sparse"]})["sparse"]
    expected = [dict(zip(row["indices"], np.float32(row["values"]), strict=True)) for row in rows]
    got = python["of_haystack.sparse_documents"]
    for (indices, values), row in zip(got, expected, strict=True):
        assert dict(zip(indices, np.float32(values), strict=True)) == row
    assert python["of_haystack.sparse_text"] == got[0]


@pytest.mark.parametrize("way", ["tei", "cohere", "jina", "vllm"])
def test_haystack_reranks(python: Answers, raw: Raw, way: str) -> None:
    ranked(python[f"of_haystack.{way}_rerank"], raw.ranks())


def test_haystack_raises_hugging_faces_error(python: Answers) -> None:
    got = python["of_haystack.tei_refused"]
    refused(got, "huggingface_hub.HfHubHTTPError", says="tokens")


@pytest.mark.parametrize("provider", LITELLM_EMBEDS)
def test_litellm_gets_the_vectors(python: Answers, raw: Raw, provider: str) -> None:
    same(python[f"of_litellm.embed_{provider}"], raw.floats())


def test_litellm_gets_the_vectors_of_voyage(python: Answers, raw: Raw) -> None:
    same(python["of_litellm.embed_voyage"], raw.floats(dimensions=64))


def test_litellm_gets_similarities_of_hugging_face(python: Answers, raw: Raw) -> None:
    one, many = raw.floats([QUERY])[0], raw.floats()
    got = python["of_litellm.similarity_huggingface"]
    np.testing.assert_allclose(np.ravel(got), many @ one, atol=1e-5)


@pytest.mark.parametrize("provider", LITELLM_RANKS)
def test_litellm_reranks(python: Answers, raw: Raw, provider: str) -> None:
    ranked(python[f"of_litellm.rerank_{provider}"], raw.ranks())


def test_litellm_cannot_read_documents_as_infinity(python: Answers) -> None:
    """It sends the body that it sends to vLLM, and wants other documents; the page says so."""
    got = python["of_litellm.rerank_infinity_with_documents"]
    refused(got, "litellm.APIConnectionError", says="validation error")


def test_litellm_reranks_by_tei(python: Answers, raw: Raw) -> None:
    ranked(python["of_litellm.rerank_huggingface"], raw.ranks()[:2])


def test_litellm_raises_its_own_error_with_our_words(python: Answers) -> None:
    got = python["of_litellm.unknown_model"]
    refused(got, "litellm.BadRequestError", says="no-such-model", status=400)
