"""The configured models and what is known of each."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from auth import sees_all, shown
from context import services
from embedders.base import Kind, Small
from errors import NotFound
from routes.table import Route
from schemas.embed import EmbedQuery
from schemas.service import CohereModelReply, ModelProviderReply, ModelReply, ModelsReply
from serving.model import Loaded, Model

# Cohere's names of what a model is for.
ENDPOINTS: Mapping[Kind, str] = {"sentence_transformer": "embed", "reranker": "rerank"}
ModelsRoute = partial(Route, access="embed", tag="models", any_page=True)


@ModelsRoute("GET", "/models")
def models() -> ModelsReply:
    """List every configured model with its state."""
    registry = services().engine.registry
    rows = [describe(model) for model in registry.models.values()]
    return {
        "object": "list",
        "default": shown(registry.default.spec.id),
        "data": rows,
        "models": [cohere_model(model) for model in registry.models.values()],
    }


@ModelsRoute("GET", "/models/<path:model_id>", errors=(404,))
def model(model_id: str) -> ModelReply:
    """Describe one model."""
    return describe(find(model_id))


@ModelsRoute("GET", "/model/info", errors=(404,))
def model_info(query: EmbedQuery) -> ModelReply:
    """Describe the default model, or the one of `?model_id=`."""
    registry = services().engine.registry
    return describe(registry.default if query.model_id is None else find(query.model_id))


def find(name: str) -> Model:
    """Return the model that a path names. Raises NotFound."""
    registry = services().engine.registry
    if found := registry.find(name):
        return found
    known = ", ".join(map(shown, registry.models))
    raise NotFound(f"unknown model {name[:128]!r}; available: {known}", param="model")


def cohere_model(model: Model) -> CohereModelReply:
    """Return a model as Cohere's clients read it."""
    facts = model.facts
    return {
        "name": shown(model.spec.id),
        "endpoints": [ENDPOINTS[facts.kind]] if facts and facts.kind in ENDPOINTS else [],
        "finetuned": False,
        "context_length": facts.max_tokens if facts else model.spec.max_seq_length,
    }


def describe(model: Model) -> ModelReply:
    """Return what is known of a model; what only loading shows is null until then."""
    spec, facts, settings = model.spec, model.facts, services().settings.current
    held = model.held
    dimension = (facts.dimension or None) if facts else spec.dimensions
    prompts = facts.prompts if facts else spec.prompts
    longest = facts.max_tokens if facts else spec.max_seq_length
    return {
        "id": shown(spec.id),
        "object": "model",
        "model_id": shown(spec.model_name),
        "model_name": shown(spec.model_name),
        "aliases": list(spec.aliases),
        "type": facts.kind if facts and spec.type == "auto" else spec.type,
        "kind": facts.kind if facts else None,
        "outputs": list(facts.outputs) if facts else [],
        "labels": list(facts.labels) if facts else [],
        "status": model.state,
        "reason": model.reason if sees_all() else model.public_reason,
        "provider": _provider(held),
        "replicas": model.replicas if sees_all() else _unnamed(model.replicas),
        "dimension": dimension,
        "embedding_dimension": dimension,
        "max_seq_length": longest,
        "max_input_length": longest,
        "normalize": model.normalize,
        "device": facts.device if facts else spec.device,
        "dtype": facts.dtype if facts else spec.dtype,
        "backend": facts.backend if facts else spec.backend,
        "small_passes": [Small(*each)._asdict() for each in facts.small_passes] if facts else [],
        "pooling": facts.pooling if facts else None,
        "notes": list(facts.notes) if facts and sees_all() else [],
        "prompts": {name: text for name, text in prompts.items() if text},
        "revision": spec.revision,
        "fingerprint": facts.fingerprint if facts else None,
        "memory_bytes": model.memory_bytes,
        "batch_size": spec.max_batch_size
        or settings.max_batch_size
        or (held.embedder.pass_items if held else None),
        "max_client_batch_size": settings.max_texts,
        "version": services().version,
    }


def _provider(held: Loaded | None) -> ModelProviderReply | None:
    """Return the state of a remote model's provider, as its first replica sees it."""
    found = held.embedder.provider_state() if held else None
    return {"name": found[0], "state": found[1]} if found else None


def _unnamed(replicas: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Leave out the hosts of the replicas and what is wrong with them."""
    return replicas and [
        {**row, "name": f"#{i}", "reason": row["reason"] and "it is left out for now"}
        for i, row in enumerate(replicas)
    ]
