"""Voyage's own Python client."""

import asyncio
from types import SimpleNamespace
from typing import Any

import voyageai


def _client(given: SimpleNamespace) -> voyageai.Client:
    return voyageai.Client(api_key="unused", base_url=f"{given.url}/v1")


def embed(given: SimpleNamespace) -> Any:
    reply = _client(given).embed(given.texts, model="minilm")
    return {"vectors": reply.embeddings, "tokens": reply.total_tokens}


def by_type(given: SimpleNamespace) -> Any:
    kinds = ("float", "int8", "uint8", "binary", "ubinary")
    return {
        kind: _client(given).embed(given.texts, model="minilm", output_dtype=kind).embeddings
        for kind in kinds
    }


def dimensions(given: SimpleNamespace) -> Any:
    return _client(given).embed(given.texts, model="minilm", output_dimension=64).embeddings


def prompts(given: SimpleNamespace) -> Any:
    return {
        str(kind): _client(given).embed(given.texts, model="prompted", input_type=kind).embeddings
        for kind in ("query", "document")
    }


def in_parallel(given: SimpleNamespace) -> Any:
    async def ask() -> Any:
        client = voyageai.AsyncClient(api_key="unused", base_url=f"{given.url}/v1")
        rows = (client.embed([text], model="minilm") for text in given.texts)
        return [reply.embeddings[0] for reply in await asyncio.gather(*rows)]

    return asyncio.run(ask())


def rerank(given: SimpleNamespace) -> Any:
    reply = _client(given).rerank(given.query, given.texts, model="reranker")
    rows = [[row.index, row.relevance_score, row.document] for row in reply.results]
    return {"rows": rows, "tokens": reply.total_tokens}


def rerank_best(given: SimpleNamespace) -> Any:
    reply = _client(given).rerank(given.query, given.texts, model="reranker", top_k=2)
    return [[row.index, row.relevance_score, row.document] for row in reply.results]


def chunks(given: SimpleNamespace) -> Any:
    documents = [given.texts[:3], given.texts[3:]]
    reply = _client(given).contextualized_embed(documents, model="minilm", input_type="document")
    return {
        "vectors": [row.embeddings for row in reply.results],
        "order": [row.index for row in reply.results],
        "tokens": reply.total_tokens,
    }


def chunks_by_function(given: SimpleNamespace) -> Any:
    text = ". ".join(given.texts)
    reply = _client(given).contextualized_embed(
        [[text]], model="minilm", input_type="document", chunk_fn=lambda text: text.split(". ")
    )
    row = reply.results[0]
    return {"vectors": row.embeddings, "texts": row.chunk_texts}


def multimodal_text(given: SimpleNamespace) -> Any:
    reply = _client(given).multimodal_embed([[text] for text in given.texts], model="minilm")
    return {"vectors": reply.embeddings, "tokens": reply.total_tokens}


def multimodal_image(given: SimpleNamespace) -> Any:
    content = [{"type": "image_url", "image_url": "https://example.org/cat.png"}]
    return given.refusal(
        lambda: _client(given).multimodal_embed([{"content": content}], model="minilm")
    )


def too_long(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: _client(given).embed([given.long], model="minilm", truncation=False)
    )


def unknown_model(given: SimpleNamespace) -> Any:
    return given.refusal(lambda: _client(given).embed(["hello"], model="no-such-model"))


def wrong_key(given: SimpleNamespace) -> Any:
    client = voyageai.Client(api_key="wrong", base_url=f"{given.locked}/v1")
    return given.refusal(lambda: client.embed(["hello"], model="fake"))


def right_key(given: SimpleNamespace) -> Any:
    client = voyageai.Client(api_key=given.key, base_url=f"{given.locked}/v1")
    return len(client.embed(given.texts, model="fake").embeddings)


def too_often(given: SimpleNamespace) -> Any:
    client = voyageai.Client(api_key="unused", base_url=f"{given.crowded}/v1")
    return given.too_often(lambda: client.embed(given.texts, model="fake"))


def chunks_refused(given: SimpleNamespace) -> Any:
    client = _client(given)
    return {
        "auto": given.refusal(
            lambda: client.contextualized_embed(
                [given.long], model="minilm", input_type="document", enable_auto_chunking=True
            )
        ),
        "long": given.refusal(
            lambda: client.contextualized_embed([[given.long, given.long]], model="minilm")
        ),
    }
