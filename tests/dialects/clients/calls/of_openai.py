"""openai's own Python client."""

import asyncio
from types import SimpleNamespace
from typing import Any

import openai


def _client(given: SimpleNamespace, **how: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{given.url}/v1", api_key="unused", max_retries=0, **how)


def floats(given: SimpleNamespace) -> Any:
    reply = _client(given).embeddings.create(model="minilm", input=given.texts)
    return {
        "vectors": [row.embedding for row in reply.data],
        "order": [row.index for row in reply.data],
        "tokens": reply.usage.total_tokens,
        "model": reply.model,
    }


def one_text(given: SimpleNamespace) -> Any:
    reply = _client(given).embeddings.create(
        model="minilm", input=given.texts[0], encoding_format="float"
    )
    return [row.embedding for row in reply.data]


def dimensions(given: SimpleNamespace) -> Any:
    reply = _client(given).embeddings.create(model="minilm", input=given.texts, dimensions=64)
    return [row.embedding for row in reply.data]


def another_name(given: SimpleNamespace) -> Any:
    reply = _client(given).embeddings.create(model="text-embedding-3-small", input=given.texts)
    return [row.embedding for row in reply.data]


def in_parallel(given: SimpleNamespace) -> Any:
    async def ask() -> Any:
        base, key = f"{given.url}/v1", "unused"
        async with openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as client:
            rows = (client.embeddings.create(model="minilm", input=text) for text in given.texts)
            return [reply.data[0].embedding for reply in await asyncio.gather(*rows)]

    return asyncio.run(ask())


def cut_as_vllm_does(given: SimpleNamespace) -> Any:
    """What Haystack's VLLM embedders send."""
    how = {"truncate_prompt_tokens": 8, "truncation_side": "right"}
    reply = _client(given).embeddings.create(model="minilm", input=given.long, extra_body=how)
    return [row.embedding for row in reply.data]


def models(given: SimpleNamespace) -> Any:
    return [model.id for model in _client(given).models.list()]


def unknown_model(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: _client(given).embeddings.create(model="no-such-model", input="hello")
    )


def too_long(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: _client(given).embeddings.create(
            model="minilm", input=given.long, extra_body={"truncate": "error"}
        )
    )


def too_wide(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: _client(given).embeddings.create(model="minilm", input="hello", dimensions=9999)
    )


def wrong_key(given: SimpleNamespace) -> Any:
    client = openai.OpenAI(base_url=f"{given.locked}/v1", api_key="wrong", max_retries=0)
    return given.refusal(lambda: client.embeddings.create(model="fake", input="hello"))


def right_key(given: SimpleNamespace) -> Any:
    client = openai.OpenAI(base_url=f"{given.locked}/v1", api_key=given.key, max_retries=0)
    return len(client.embeddings.create(model="fake", input=given.texts).data)


def azure_key(given: SimpleNamespace) -> Any:
    """Azure's client sends `api-key`, and names the model in the path."""
    client = openai.AzureOpenAI(
        azure_endpoint=given.locked, api_key=given.key, api_version="2024-10-21", max_retries=0
    )
    return len(client.embeddings.create(model="fake", input=given.texts).data)


def too_often(given: SimpleNamespace) -> Any:
    client = openai.OpenAI(base_url=f"{given.crowded}/v1", api_key="unused", max_retries=0)
    return given.too_often(lambda: client.embeddings.create(model="fake", input=given.texts))


def azure_base(given: SimpleNamespace) -> Any:
    """What a person tries who does not know that this client adds the deployment to a base URL."""
    client = openai.AzureOpenAI(
        base_url=f"{given.url}/v1", api_key="unused", api_version="2024-10-21", max_retries=0
    )
    return given.refusal(lambda: client.embeddings.create(model="minilm", input="hello"))
