"""Builds the embedder for a model's `type`. Each type has a file of its own."""

import time
from collections.abc import Callable

from config import Config, ModelSettings, ModelSpec
from embedders.backends import local
from embedders.base import Embedder, Facts, Prompt
from embedders.cohere import CohereEmbedder
from embedders.fake import FakeEmbedder
from embedders.files import Files, read_files
from embedders.huggingface import HuggingFaceEmbedder
from embedders.openai import OpenAIEmbedder
from embedders.providers import Providers
from embedders.remote import TRIAL_S, RemoteEmbedder
from embedders.remote_replica import RemoteReplica
from embedders.remote_reranker import CohereReranker, RemoteReranker
from embedders.size import weights_of
from errors import BadRequest, ModelUnavailable

# The types of models that run here; "auto" is what a model's files say.
LOCAL_TYPES = ("auto", "sentence_transformer", "reranker", "sparse", "multi_vector")
EMBEDDERS: dict[str, Callable[[ModelSpec, ModelSettings], Embedder]] = {
    **dict.fromkeys(LOCAL_TYPES, local),
    "fake": lambda spec, _: FakeEmbedder(
        spec.model_name, spec.dimensions or 8, spec.max_seq_length or 16
    ),
}
REMOTE: dict[str, type[RemoteEmbedder]] = {
    adapter.provider: adapter for adapter in (OpenAIEmbedder, CohereEmbedder, HuggingFaceEmbedder)
}
# The model of each provider that a key is tried on, if none is configured.
TRIALS = {
    "openai": "text-embedding-3-small",
    "cohere": "embed-english-v3.0",
    "huggingface": "BAAI/bge-small-en-v1.5",
}


def adapter_of(spec: ModelSpec) -> type[RemoteEmbedder] | None:
    """Return what speaks to a model's provider, or None for a model that runs here."""
    if spec.type == "reranker" and (spec.base_url or spec.base_urls) and not spec.devices:
        return RemoteReranker
    if spec.type == "cohere" and "rerank" in spec.model_name:
        return CohereReranker
    return REMOTE.get(spec.type)


def build(spec: ModelSpec, settings: ModelSettings, providers: Providers | None = None) -> Embedder:
    """Return the embedder of `spec`; a local model is loaded. Raises ModelUnavailable."""
    remote = adapter_of(spec)
    elsewhere = spec.base_url or (spec.base_urls and not spec.devices)
    if remote is None and not elsewhere:
        if spec.type not in EMBEDDERS:
            raise ModelUnavailable(f"type {spec.type!r} is not built into this version")
        return EMBEDDERS[spec.type](spec, settings)
    if remote is not None and spec.dtype == "int8":
        raise ModelUnavailable(f'type {spec.type!r} runs at its provider and has no "dtype" int8')
    if remote is not None and spec.devices:
        raise ModelUnavailable(f'type {spec.type!r} runs at its provider and has no "devices"')
    if remote is None and not (spec.devices and spec.base_url in spec.base_urls):
        raise ModelUnavailable(
            f'type {spec.type!r} has "base_urls" only together with "devices", as replicas of the '
            'same model; a model that runs only on another server is of type "openai"'
        )
    if providers is None:
        providers = Providers(settings if isinstance(settings, Config) else Config())
    return (remote or RemoteReplica)(spec, providers)


def size_of(spec: ModelSpec, settings: ModelSettings, facts: Facts | None = None) -> int | None:
    """Return the bytes of a model's weights, or None for a model that runs elsewhere only.

    `facts` are those of the loaded model, once it was loaded. Raises ModelUnavailable.
    """
    urls_only = bool(spec.base_url or spec.base_urls) and not spec.devices
    if adapter_of(spec) is not None or urls_only:
        return None
    return weights_of(spec, settings, facts) if spec.type in LOCAL_TYPES else 0


def files_of(spec: ModelSpec, settings: ModelSettings) -> Files | None:
    """Return the facts of a local model's files; None for a remote model or without files."""
    local = spec.type in LOCAL_TYPES and adapter_of(spec) is None
    return read_files(spec, settings) if local else None


def try_provider(providers: Providers, name: str) -> dict[str, object]:
    """Return the outcome of one tiny real call, as JSON: provider, model, dimension, ms.

    It uses a configured model of the provider if there is one. Raises ModelUnavailable,
    ProviderError, BadRequest or NotFound.
    """
    providers.get(name)
    specs, _ = providers.config.catalogue()
    for spec in specs:
        adapter = adapter_of(spec)
        if adapter is not None and not issubclass(adapter, RemoteReranker):
            embedder = adapter(spec, providers)
            if embedder.key_of == name:
                break
    else:
        if name not in TRIALS:
            raise BadRequest(f"no model of {name} is configured that could try its key")
        embedder = REMOTE[name](ModelSpec(id=name, model_name=TRIALS[name]), providers)
    started = time.monotonic()
    items = embedder.prepare(["ping"], Prompt(), "auto")
    dimension = embedder.encode(items, started + TRIAL_S).vectors.shape[1]
    took_ms, model = round((time.monotonic() - started) * 1000, 1), embedder.spec.model_name
    return {"ok": True, "provider": name, "model": model, "dimension": dimension, "ms": took_ms}
