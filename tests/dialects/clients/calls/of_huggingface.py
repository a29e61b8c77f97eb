"""Hugging Face's InferenceClient, as a caller of TEI uses it."""

import asyncio
from types import SimpleNamespace
from typing import Any

from huggingface_hub import AsyncInferenceClient, InferenceClient


def _client(given: SimpleNamespace, path: str = "") -> InferenceClient:
    return InferenceClient(model=f"{given.url}{path}")


def one_text(given: SimpleNamespace) -> Any:
    return _client(given).feature_extraction(given.texts[0])


def many_texts(given: SimpleNamespace) -> Any:
    return _client(given).feature_extraction(given.texts, truncate=True)


def exact_path(given: SimpleNamespace) -> Any:
    return _client(given, "/embed").feature_extraction(given.texts)


def not_normalised(given: SimpleNamespace) -> Any:
    return _client(given).feature_extraction(given.texts, normalize=False)


def dimensions(given: SimpleNamespace) -> Any:
    return _client(given).feature_extraction(given.texts, dimensions=64)


def cut(given: SimpleNamespace) -> Any:
    return {
        side: _client(given).feature_extraction(
            given.long, truncate=True, truncation_direction=side
        )
        for side in ("left", "right")
    }


def in_parallel(given: SimpleNamespace) -> Any:
    async def ask() -> Any:
        client = AsyncInferenceClient(model=given.url)
        rows = (client.feature_extraction(text) for text in given.texts)
        return [reply[0].tolist() for reply in await asyncio.gather(*rows)]

    return asyncio.run(ask())


def similarity(given: SimpleNamespace) -> Any:
    return _client(given).sentence_similarity(given.query, other_sentences=given.texts)


def classes(given: SimpleNamespace) -> Any:
    rows = _client(given, "/predict").text_classification(given.texts[0])
    return [[row.label, row.score] for row in rows]


def info(given: SimpleNamespace) -> Any:
    return InferenceClient(model=given.url, provider="hf-inference").get_endpoint_info()


def health(given: SimpleNamespace) -> Any:
    return InferenceClient(model=given.url, provider="hf-inference").health_check()


def too_long(given: SimpleNamespace) -> Any:
    return given.refusal(lambda: _client(given).feature_extraction(given.long, truncate=False))


def unknown_prompt(given: SimpleNamespace) -> Any:
    return given.refusal(
        lambda: _client(given).feature_extraction("hello", prompt_name="no-such-prompt")
    )


def wrong_key(given: SimpleNamespace) -> Any:
    client = InferenceClient(model=given.locked, token="wrong")
    return given.refusal(lambda: client.feature_extraction("hello"))


def right_key(given: SimpleNamespace) -> Any:
    return len(InferenceClient(model=given.locked, token=given.key).feature_extraction("hello"))


def too_often(given: SimpleNamespace) -> Any:
    client = InferenceClient(model=given.crowded)
    return given.too_often(lambda: client.feature_extraction(given.texts))


def base64(given: SimpleNamespace) -> Any:
    """The library itself could not read it."""
    return given.refusal(
        lambda: _client(given).feature_extraction("hello", encoding_format="base64")
    )
