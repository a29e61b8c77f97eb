"""LlamaIndex's classes, by each service whose base URL they take."""

import asyncio
from types import SimpleNamespace
from typing import Any

from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.embeddings.cohere import CohereEmbedding
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference


def _ranked(given: SimpleNamespace, ranker: Any) -> Any:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in given.texts]
    found = ranker.postprocess_nodes(nodes, QueryBundle(given.query))
    return [[given.texts.index(one.node.text), one.score] for one in found]


def openai_texts(given: SimpleNamespace) -> Any:
    model = OpenAIEmbedding(
        model_name="minilm", api_base=f"{given.url}/v1", api_key="unused", max_retries=0
    )
    return model.get_text_embedding_batch(given.texts)


def tei_texts(given: SimpleNamespace) -> Any:
    model = TextEmbeddingsInference(model_name="minilm", base_url=given.url)
    return model.get_text_embedding_batch(given.texts)


def tei_query(given: SimpleNamespace) -> Any:
    model = TextEmbeddingsInference(model_name="minilm", base_url=given.url)
    return asyncio.run(model.aget_query_embedding(given.texts[0]))


def tei_refused(given: SimpleNamespace) -> Any:
    """It looks at no status: what it takes for vectors must not be one."""
    model = TextEmbeddingsInference(model_name="minilm", base_url=given.url, truncate_text=False)
    return given.refusal(lambda: model.get_text_embedding(given.long))


def cohere_texts(given: SimpleNamespace) -> Any:
    """It takes the names of Cohere's models only."""
    model = CohereEmbedding(
        api_key="unused", model_name="embed-english-v3.0", base_url=given.url,
        input_type="search_document",
    )  # fmt: skip
    return model.get_text_embedding_batch(given.texts)


def tei_rerank(given: SimpleNamespace) -> Any:
    return _ranked(given, TextEmbeddingInference(base_url=given.url, top_n=len(given.texts)))


def cohere_rerank(given: SimpleNamespace) -> Any:
    how = {"model": "reranker", "api_key": "unused", "base_url": given.url}
    return _ranked(given, CohereRerank(top_n=len(given.texts), **how))


def jina_rerank(given: SimpleNamespace) -> Any:
    how = {"model": "reranker", "api_key": "unused", "base_url": f"{given.url}/v1"}
    return _ranked(given, JinaRerank(top_n=len(given.texts), **how))


def tei_keys(given: SimpleNamespace) -> Any:
    """The embedder puts `Bearer` before the token, the reranker does not."""
    model = TextEmbeddingsInference(model_name="fake", base_url=given.locked, auth_token=given.key)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in given.texts]
    ranker = TextEmbeddingInference(base_url=given.locked, top_n=2, auth_token=given.key)
    return [
        len(model.get_text_embedding_batch(given.texts)),
        len(ranker.postprocess_nodes(nodes, QueryBundle(given.query))),
    ]


def ollama_texts(given: SimpleNamespace) -> Any:
    model = OllamaEmbedding(model_name="minilm", base_url=given.url)
    return model.get_text_embedding_batch(given.texts)
