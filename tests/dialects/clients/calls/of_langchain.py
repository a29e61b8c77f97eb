"""LangChain's classes for OpenAI, Ollama and Cohere."""

from types import SimpleNamespace
from typing import Any

from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document
from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings


def _openai(given: SimpleNamespace, model: str = "minilm") -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model=model, base_url=f"{given.url}/v1", api_key="unused", max_retries=0,
        check_embedding_ctx_length=False,
    )  # fmt: skip


def openai_documents(given: SimpleNamespace) -> Any:
    return _openai(given).embed_documents(given.texts)


def openai_query(given: SimpleNamespace) -> Any:
    return _openai(given).embed_query(given.texts[0])


def openai_unknown_model(given: SimpleNamespace) -> Any:
    return given.refusal(lambda: _openai(given, "no-such-model").embed_query("hello"))


def ollama_documents(given: SimpleNamespace) -> Any:
    return OllamaEmbeddings(model="minilm", base_url=given.url).embed_documents(given.texts)


def ollama_query(given: SimpleNamespace) -> Any:
    """With a look whether the model is there, as LangChain does when asked."""
    model = OllamaEmbeddings(model="minilm", base_url=given.url, validate_model_on_init=True)
    return model.embed_query(given.texts[0])


def cohere_documents(given: SimpleNamespace) -> Any:
    model = CohereEmbeddings(model="minilm", base_url=given.url, cohere_api_key="unused")
    return model.embed_documents(given.texts)


def cohere_query(given: SimpleNamespace) -> Any:
    model = CohereEmbeddings(model="minilm", base_url=given.url, cohere_api_key="unused")
    return model.embed_query(given.texts[0])


def cohere_rerank(given: SimpleNamespace) -> Any:
    ranker = CohereRerank(
        model="reranker", base_url=given.url, cohere_api_key="unused", top_n=len(given.texts)
    )
    found = ranker.compress_documents([Document(text) for text in given.texts], given.query)
    return [[given.texts.index(one.page_content), one.metadata["relevance_score"]] for one in found]
