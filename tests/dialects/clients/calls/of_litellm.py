"""LiteLLM, by every provider whose server the service can stand in for."""

import os
from types import SimpleNamespace
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network when imported

import litellm  # noqa: E402

litellm.num_retries = 0


def _embed(given: SimpleNamespace, provider: str, path: str, **how: Any) -> Any:
    how = {"input": given.texts, "api_key": "unused", "max_retries": 0, **how}
    reply = litellm.embedding(model=f"{provider}/minilm", api_base=f"{given.url}{path}", **how)
    return [row["embedding"] for row in reply.data]


def _rerank(given: SimpleNamespace, provider: str, path: str, **how: Any) -> Any:
    reply = litellm.rerank(
        model=f"{provider}/reranker", query=given.query, documents=given.texts,
        api_base=f"{given.url}{path}", api_key="unused", **how,
    )  # fmt: skip
    return [[row["index"], row["relevance_score"]] for row in reply.results]


def embed_openai(given: SimpleNamespace) -> Any:
    return _embed(given, "openai", "/v1")


def embed_lm_studio(given: SimpleNamespace) -> Any:
    return _embed(given, "lm_studio", "/v1")


def embed_xinference(given: SimpleNamespace) -> Any:
    return _embed(given, "xinference", "/v1")


def embed_hosted_vllm(given: SimpleNamespace) -> Any:
    return _embed(given, "hosted_vllm", "/v1")


def embed_infinity(given: SimpleNamespace) -> Any:
    return _embed(given, "infinity", "")


def embed_voyage(given: SimpleNamespace) -> Any:
    """It sends JSON and does not say so."""
    return _embed(given, "voyage", "/v1", dimensions=64)


def embed_jina(given: SimpleNamespace) -> Any:
    return _embed(given, "jina_ai", "/v1")


def embed_cohere(given: SimpleNamespace) -> Any:
    return _embed(given, "cohere", "/v2/embed", encoding_format="float")


def embed_ollama(given: SimpleNamespace) -> Any:
    return _embed(given, "ollama", "")


def embed_huggingface(given: SimpleNamespace) -> Any:
    """With `input_type` it does not ask the hub what the model is for."""
    return _embed(given, "huggingface", "/embed", input_type="embed")


def similarity_huggingface(given: SimpleNamespace) -> Any:
    """A name that holds "sentence-transformers" sends the first text against the others."""
    reply = litellm.embedding(
        model="huggingface/sentence-transformers/all-MiniLM-L6-v2", api_base=given.url,
        input=[given.query, *given.texts], api_key="unused", input_type="similarity",
    )  # fmt: skip
    return [row["embedding"] for row in reply.data]


def rerank_cohere(given: SimpleNamespace) -> Any:
    return _rerank(given, "cohere", "")


def rerank_jina(given: SimpleNamespace) -> Any:
    return _rerank(given, "jina_ai", "/v1")


def rerank_voyage(given: SimpleNamespace) -> Any:
    return _rerank(given, "voyage", "/v1")


def rerank_hosted_vllm(given: SimpleNamespace) -> Any:
    return _rerank(given, "hosted_vllm", "")


def rerank_infinity(given: SimpleNamespace) -> Any:
    """It wants texts as strings where vLLM has objects, and the service cannot tell them apart."""
    return _rerank(given, "infinity", "", return_documents=False)


def rerank_infinity_with_documents(given: SimpleNamespace) -> Any:
    return given.refusal(lambda: _rerank(given, "infinity", ""))


def rerank_huggingface(given: SimpleNamespace) -> Any:
    """It sends `top_n` beside `texts`."""
    return _rerank(given, "huggingface", "", top_n=2)


def unknown_model(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: litellm.embedding(
            model="openai/no-such-model",
            input=["hello"],
            api_base=f"{given.url}/v1",
            api_key="unused",
            max_retries=0,
        )  # fmt: skip
    )
