"""Ollama's own Python client."""

import asyncio
from types import SimpleNamespace
from typing import Any

import ollama


def _client(given: SimpleNamespace) -> ollama.Client:
    return ollama.Client(host=given.url)


def embed(given: SimpleNamespace) -> Any:
    reply = _client(given).embed(model="minilm:latest", input=given.texts, keep_alive="5m")
    return {
        "vectors": reply.embeddings,
        "tokens": reply.prompt_eval_count,
        "took": reply.total_duration,
        "model": reply.model,
    }


def one_text(given: SimpleNamespace) -> Any:
    reply = _client(given).embed(model="minilm", input=given.texts[0], keep_alive=-1)
    return reply.embeddings


def old_route(given: SimpleNamespace) -> Any:
    return _client(given).embeddings(model="minilm", prompt=given.texts[0], keep_alive=0).embedding


def nothing(given: SimpleNamespace) -> Any:
    return _client(given).embed(model="minilm", input="").embeddings


def dimensions(given: SimpleNamespace) -> Any:
    return _client(given).embed(model="minilm", input=given.texts, dimensions=64).embeddings


def short_context(given: SimpleNamespace) -> Any:
    reply = _client(given).embed(model="minilm", input=given.long, options={"num_ctx": 8})
    return reply.embeddings


def in_parallel(given: SimpleNamespace) -> Any:
    async def ask() -> Any:
        client = ollama.AsyncClient(host=given.url)
        rows = (client.embed(model="minilm", input=text) for text in given.texts)
        return [reply.embeddings[0] for reply in await asyncio.gather(*rows)]

    return asyncio.run(ask())


def listed(given: SimpleNamespace) -> Any:
    client = _client(given)
    return {
        "tags": [model.model for model in client.list().models],
        "ps": [model.model for model in client.ps().models],
    }


def shown(given: SimpleNamespace) -> Any:
    reply = _client(given).show("minilm")
    return {"info": reply.modelinfo, "can": reply.capabilities, "family": reply.details.family}


def too_long(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: _client(given).embed(model="minilm", input=given.long, truncate=False)
    )


def unknown_model(given: SimpleNamespace) -> Any:
    return given.refusal(lambda: _client(given).embed(model="no-such-model", input="hello"))


def wrong_key(given: SimpleNamespace) -> Any:
    client = ollama.Client(host=given.locked, headers={"Authorization": "Bearer wrong"})
    return given.refusal(lambda: client.embed(model="fake", input="hello"))


def right_key(given: SimpleNamespace) -> Any:
    client = ollama.Client(host=given.locked, headers={"Authorization": f"Bearer {given.key}"})
    return len(client.embed(model="fake", input=given.texts).embeddings)


def too_often(given: SimpleNamespace) -> Any:
    client = ollama.Client(host=given.crowded)
    return given.too_often(lambda: client.embed(model="fake", input=given.texts))


def not_here(given: SimpleNamespace) -> Any:
    client = _client(given)
    return [
        given.refusal(lambda: client.generate(model="minilm", prompt="hello")),
        given.refusal(lambda: client.chat(model="minilm", messages=[])),
        given.refusal(lambda: client.create(model="mine", from_="minilm")),
    ]


def pulled(given: SimpleNamespace) -> Any:
    """What programs do before they use a model."""
    return [_client(given).pull("minilm").status, *_statuses(_client(given))]


def _statuses(client: ollama.Client) -> list[str | None]:
    return [part.status for part in client.pull("minilm:latest", stream=True)]
