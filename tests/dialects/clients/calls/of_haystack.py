"""Haystack's components, by each service whose base URL they take."""

from types import SimpleNamespace
from typing import Any

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.cohere import (
    CohereDocumentEmbedder,
    CohereTextEmbedder,
)
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
    HuggingFaceTEISparseDocumentEmbedder,
    HuggingFaceTEISparseTextEmbedder,
)
from haystack_integrations.components.embedders.jina import JinaDocumentEmbedder, JinaTextEmbedder
from haystack_integrations.components.embedders.ollama import (
    OllamaDocumentEmbedder,
    OllamaTextEmbedder,
)
from haystack_integrations.components.embedders.vllm import VLLMDocumentEmbedder, VLLMTextEmbedder
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker

TEI = "text_embeddings_inference"
KEY = Secret.from_token("unused")


def _documents(given: SimpleNamespace) -> list[Document]:
    return [Document(content=text) for text in given.texts]


def _vectors(found: dict[str, Any]) -> Any:
    return [one.embedding for one in found["documents"]]


def _ranked(given: SimpleNamespace, ranker: Any) -> Any:
    found = ranker.run(given.query, _documents(given))["documents"]
    return [[given.texts.index(one.content), one.score] for one in found]


def openai_documents(given: SimpleNamespace) -> Any:
    model = OpenAIDocumentEmbedder(
        api_key=KEY, model="minilm", api_base_url=f"{given.url}/v1", progress_bar=False
    )
    return _vectors(model.run(_documents(given)))


def openai_text(given: SimpleNamespace) -> Any:
    model = OpenAITextEmbedder(api_key=KEY, model="minilm", api_base_url=f"{given.url}/v1")
    return model.run(given.texts[0])["embedding"]


def tei_documents(given: SimpleNamespace) -> Any:
    """As it comes: Haystack asks for vectors that are not normalised."""
    model = HuggingFaceAPIDocumentEmbedder(TEI, {"url": given.url}, progress_bar=False)
    return _vectors(model.run(_documents(given)))


def tei_text(given: SimpleNamespace) -> Any:
    model = HuggingFaceAPITextEmbedder(TEI, {"url": given.url}, normalize=True)
    return model.run(given.texts[0])["embedding"]


def cohere_documents(given: SimpleNamespace) -> Any:
    how = {"api_key": KEY, "model": "minilm", "api_base_url": given.url}
    return _vectors(CohereDocumentEmbedder(**how, progress_bar=False).run(_documents(given)))


def cohere_text(given: SimpleNamespace) -> Any:
    how = {"api_key": KEY, "model": "minilm", "api_base_url": given.url}
    return CohereTextEmbedder(**how).run(given.texts[0])["embedding"]


def jina_documents(given: SimpleNamespace) -> Any:
    how = {"api_key": KEY, "model": "minilm", "base_url": f"{given.url}/v1/embeddings"}
    return _vectors(JinaDocumentEmbedder(**how, progress_bar=False).run(_documents(given)))


def jina_text(given: SimpleNamespace) -> Any:
    how = {"api_key": KEY, "model": "minilm", "base_url": f"{given.url}/v1/embeddings"}
    return JinaTextEmbedder(**how).run(given.texts[0])["embedding"]


def ollama_documents(given: SimpleNamespace) -> Any:
    model = OllamaDocumentEmbedder(model="minilm", url=given.url, progress_bar=False)
    return _vectors(model.run(_documents(given)))


def ollama_text(given: SimpleNamespace) -> Any:
    return OllamaTextEmbedder(model="minilm", url=given.url).run(given.texts[0])["embedding"]


def vllm_documents(given: SimpleNamespace) -> Any:
    how = {"api_key": KEY, "model": "minilm", "api_base_url": f"{given.url}/v1"}
    return _vectors(VLLMDocumentEmbedder(**how, progress_bar=False).run(_documents(given)))


def vllm_text(given: SimpleNamespace) -> Any:
    how = {"api_key": KEY, "model": "minilm", "api_base_url": f"{given.url}/v1"}
    return VLLMTextEmbedder(**how).run(given.texts[0])["embedding"]


def vllm_text_cut(given: SimpleNamespace) -> Any:
    cut = {"truncate_prompt_tokens": 8, "truncation_side": "right"}
    how = {"api_key": KEY, "model": "minilm", "api_base_url": f"{given.url}/v1"}
    return VLLMTextEmbedder(**how, extra_parameters=cut).run(given.long)["embedding"]


def tei_rerank(given: SimpleNamespace) -> Any:
    return _ranked(given, HuggingFaceTEIRanker(url=given.url))


def cohere_rerank(given: SimpleNamespace) -> Any:
    return _ranked(given, CohereRanker("reranker", api_key=KEY, api_base_url=given.url))


def jina_rerank(given: SimpleNamespace) -> Any:
    return _ranked(given, JinaRanker("reranker", KEY, base_url=f"{given.url}/v1/rerank"))


def vllm_rerank(given: SimpleNamespace) -> Any:
    how = {"api_key": KEY, "model": "reranker", "api_base_url": f"{given.url}/v1"}
    return _ranked(given, VLLMRanker(**how))


def sparse_documents(given: SimpleNamespace) -> Any:
    model = HuggingFaceTEISparseDocumentEmbedder(api_base_url=given.url, progress_bar=False)
    found = [one.sparse_embedding for one in model.run(_documents(given))["documents"]]
    return [[one.indices, one.values] for one in found]


def sparse_text(given: SimpleNamespace) -> Any:
    model = HuggingFaceTEISparseTextEmbedder(api_base_url=given.url)
    found = model.run(given.texts[0])["sparse_embedding"]
    return [found.indices, found.values]


def tei_refused(given: SimpleNamespace) -> Any:
    model = HuggingFaceAPITextEmbedder(TEI, {"url": given.url}, truncate=False)
    return given.refusal(lambda: model.run(given.long))
