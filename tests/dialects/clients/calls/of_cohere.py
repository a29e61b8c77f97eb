"""Cohere's own Python client, both generations: it runs with 5.x and with 7.x."""

import asyncio
from types import SimpleNamespace
from typing import Any

import cohere

KINDS = ["float", "int8", "uint8", "binary", "ubinary", "base64"]


def _one(given: SimpleNamespace) -> cohere.Client:
    return cohere.Client(api_key="unused", base_url=given.url)


def _two(given: SimpleNamespace) -> cohere.ClientV2:
    return cohere.ClientV2(api_key="unused", base_url=given.url)


def _kinds(embeddings: Any) -> Any:
    return {kind: getattr(embeddings, f"{kind}_" if kind == "float" else kind) for kind in KINDS}


def embed_1(given: SimpleNamespace) -> Any:
    reply = _one(given).embed(texts=given.texts, model="minilm", input_type="search_document")
    return {"vectors": reply.embeddings, "texts": reply.texts, "kind": reply.response_type}


def embed_1_by_type(given: SimpleNamespace) -> Any:
    reply = _one(given).embed(
        texts=given.texts, model="minilm", input_type="classification", embedding_types=KINDS
    )
    return {**_kinds(reply.embeddings), "kind": reply.response_type}


def embed_1_in_batches(given: SimpleNamespace) -> Any:
    """The client sends 96 texts at a time, all at once, and joins what comes."""
    many = [f"{text} {n}" for n in range(50) for text in given.texts]
    reply = _one(given).embed(texts=many, model="minilm", input_type="clustering")
    return {"texts": many, "vectors": reply.embeddings}


def embed_2(given: SimpleNamespace) -> Any:
    reply = _two(given).embed(
        texts=given.texts, model="minilm", input_type="search_query", embedding_types=KINDS
    )
    return {
        **_kinds(reply.embeddings),
        "texts": reply.texts,
        "tokens": reply.meta.billed_units.input_tokens,
        "version": reply.meta.api_version.version,
    }


def embed_2_contents(given: SimpleNamespace) -> Any:
    inputs = [{"content": [{"type": "text", "text": text}]} for text in given.texts]
    reply = _two(given).embed(
        inputs=inputs, model="minilm", input_type="search_document", output_dimension=64
    )
    return reply.embeddings.float_


def embed_2_in_parallel(given: SimpleNamespace) -> Any:
    async def ask() -> Any:
        client = cohere.AsyncClientV2(api_key="unused", base_url=given.url)
        rows = (
            client.embed(texts=[text], model="minilm", input_type="search_document")
            for text in given.texts
        )
        return [reply.embeddings.float_[0] for reply in await asyncio.gather(*rows)]

    return asyncio.run(ask())


def embed_2_cut(given: SimpleNamespace) -> Any:
    found = {}
    for side in ("START", "END"):
        reply = _two(given).embed(
            texts=[given.long], model="minilm", input_type="search_document", truncate=side
        )
        found[side] = {"vectors": reply.embeddings.float_, "warnings": reply.meta.warnings}
    return found


def embed_2_cut_shorter(given: SimpleNamespace) -> Any:
    reply = _two(given).embed(
        texts=[given.long], model="minilm", input_type="search_document", max_tokens=8
    )
    return reply.embeddings.float_


def prompts(given: SimpleNamespace) -> Any:
    return {
        kind: _two(given)
        .embed(texts=given.texts, model="prompted", input_type=kind)
        .embeddings.float_
        for kind in ("search_query", "search_document", "classification")
    }


def too_long(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: _two(given).embed(
            texts=[given.long], model="minilm", input_type="search_document", truncate="NONE"
        )
    )


def unknown_model(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: _two(given).embed(texts=["hello"], model="no-such-model", input_type="clustering")
    )


def image(given: SimpleNamespace) -> Any:
    picture = "data:image/png;base64,iVBORw0KGgo="
    return given.refusal(
        lambda: _two(given).embed(images=[picture], model="minilm", input_type="image")
    )


def rerank_1(given: SimpleNamespace) -> Any:
    reply = _one(given).rerank(
        query=given.query, documents=[{"text": text} for text in given.texts], model="reranker",
        return_documents=True,
    )  # fmt: skip
    return [[row.index, row.relevance_score, row.document.text] for row in reply.results]


def rerank_2(given: SimpleNamespace) -> Any:
    reply = _two(given).rerank(query=given.query, documents=given.texts, model="reranker")
    return [[row.index, row.relevance_score] for row in reply.results]


def rerank_2_best(given: SimpleNamespace) -> Any:
    reply = _two(given).rerank(query=given.query, documents=given.texts, model="reranker", top_n=2)
    return [[row.index, row.relevance_score] for row in reply.results]


def tokens(given: SimpleNamespace) -> Any:
    client = _one(given)
    reply = client.tokenize(text="hello world", model="minilm", offline=False)
    text = client.detokenize(tokens=reply.tokens, model="minilm", offline=False).text
    return {"tokens": reply.tokens, "strings": reply.token_strings, "text": text}


def models(given: SimpleNamespace) -> Any:
    return {
        kind: [model.name for model in _one(given).models.list(endpoint=kind).models]
        for kind in ("embed", "rerank")
    }


def wrong_key(given: SimpleNamespace) -> Any:
    client = cohere.ClientV2(api_key="wrong", base_url=given.locked)
    return given.refusal(
        lambda: client.embed(texts=["hello"], model="fake", input_type="clustering")
    )


def right_key(given: SimpleNamespace) -> Any:
    client = cohere.ClientV2(api_key=given.key, base_url=given.locked)
    return len(
        client.embed(texts=given.texts, model="fake", input_type="clustering").embeddings.float_
    )


def too_often(given: SimpleNamespace) -> Any:
    client = cohere.ClientV2(api_key="unused", base_url=given.crowded)
    return given.too_often(
        lambda: client.embed(
            texts=given.texts,
            model="fake",
            input_type="clustering",
            request_options={"max_retries": 0},
        )  # fmt: skip
    )
