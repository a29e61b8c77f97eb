"""Builds the embedder that a model's `type` asks for. The list of types is the list of files."""

import time
from collections.abc import Callable

from config import Config, ModelSettings, ModelSpec
from embedders.base import Embedder, Prompt
from embedders.cohere import CohereEmbedder
from embedders.fake import FakeEmbedder
from embedders.huggingface import HuggingFaceEmbedder
from embedders.openai import OpenAIEmbedder
from embedders.providers import Providers
from embedders.remote import RemoteEmbedder
from embedders.remote_replica import TwinEmbedder
from embedders.ways import local
from errors import BadRequest, ModelUnavailable

Builder = Callable[[ModelSpec, ModelSettings], Embedder]


def _fake(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    return FakeEmbedder(spec.model_name, spec.dimensions or 8, spec.max_seq_length or 16)


EMBEDDERS: dict[str, Builder] = {
    "sentence_transformer": local,
    "fake": _fake,
}
REMOTE: dict[str, type[RemoteEmbedder]] = {
    "openai": OpenAIEmbedder,
    "cohere": CohereEmbedder,
    "huggingface": HuggingFaceEmbedder,
}
# A model of each provider to try a key on, if none is configured.
TRIALS = {
    "openai": "text-embedding-3-small",
    "cohere": "embed-english-v3.0",
    "huggingface": "BAAI/bge-small-en-v1.5",
}
TRIAL_S = 15.0


def build(spec: ModelSpec, settings: ModelSettings, providers: Providers | None = None) -> Embedder:
    """Build (for a local model: load) the embedder of `spec`. Raises ModelUnavailable."""
    remote = REMOTE.get(spec.type)
    if remote is not None:
        if spec.devices:
            raise ModelUnavailable(f'type {spec.type!r} runs at its provider and has no "devices"')
        return remote(spec, providers or _providers(settings))
    if spec.base_url or (spec.base_urls and not spec.devices):
        return _twin(spec, providers or _providers(settings))
    builder = EMBEDDERS.get(spec.type)
    if builder is None:
        raise ModelUnavailable(f"type {spec.type!r} is not built into this version")
    return builder(spec, settings)


def _providers(settings: ModelSettings) -> Providers:
    return Providers(settings if isinstance(settings, Config) else Config())


def _twin(spec: ModelSpec, providers: Providers) -> Embedder:
    if spec.devices and spec.base_url in spec.base_urls:
        return TwinEmbedder(spec, providers)
    raise ModelUnavailable(
        f'type {spec.type!r} has "base_urls" only beside "devices", as further copies of the same '
        'model; a model that only another server has is of type "openai"'
    )


def try_provider(providers: Providers, name: str) -> dict[str, object]:
    """Make one tiny real call, on a configured model of the provider if there is one.

    Returns its facts as JSON. Raises ModelUnavailable, ProviderError, BadRequest, NotFound.
    """
    providers.get(name)
    specs, _ = providers.config.catalogue()
    for spec in specs:
        if spec.type in REMOTE:
            embedder = REMOTE[spec.type](spec, providers)
            if embedder.key_of == name:
                break
    else:
        if name not in TRIALS:
            raise BadRequest(f"no model of {name} is configured to try its key on")
        embedder = REMOTE[name](ModelSpec(id=name, model_name=TRIALS[name]), providers)
    started = time.monotonic()
    items = embedder.prepare(["ping"], Prompt(), "auto")
    encoded = embedder.encode(items, started + TRIAL_S)
    took_ms = round((time.monotonic() - started) * 1000, 1)
    model, dimension = embedder.spec.model_name, int(encoded.vectors.shape[1])
    return {"ok": True, "provider": name, "model": model, "dimension": dimension, "ms": took_ms}
