"""What models there are and what is known of each."""

from typing import Any

from auth import sees_all, shown
from context import services
from routes.table import route
from routes.v1 import find
from schemas import EmbedQuery
from schemas.status import ModelReply, ModelsReply
from serving.registry import Model


@route("GET", "/models", access="embed", any_page=True, reply=ModelsReply, tag="models")
def models() -> dict[str, Any]:
    """List every configured model with its state."""
    registry = services().engine.registry
    rows = [describe(model) for model in registry.models.values()]
    return {"object": "list", "default": shown(registry.default.spec.id), "data": rows}


@route("GET", "/models/<path:model_id>", access="embed", any_page=True, reply=ModelReply,
       errors=(404,), tag="models")  # fmt: skip
def model(model_id: str) -> dict[str, Any]:
    """Describe one model."""
    return describe(find(model_id))


@route("GET", "/model/info", access="embed", any_page=True, query=EmbedQuery, reply=ModelReply,
       errors=(404,), tag="models")  # fmt: skip
def model_info(query: EmbedQuery) -> dict[str, Any]:
    """Describe the default model, or the one of `?model_id=`."""
    registry = services().engine.registry
    return describe(registry.default if query.model_id is None else find(query.model_id))


@route("GET", "/info", access="embed", any_page=True, reply=ModelReply, tag="models")
def info() -> dict[str, Any]:
    """Describe the default model in short."""
    return describe(services().engine.registry.default)


def describe(model: Model) -> dict[str, Any]:
    """Return what is known of a model; what only loading tells is null until then."""
    spec, facts = model.spec, model.facts
    return {
        "id": shown(spec.id),
        "object": "model",
        "model_id": shown(spec.model_name),
        "model_name": shown(spec.model_name),
        "type": spec.type,
        "status": model.state,
        "reason": model.reason if sees_all() else model.trouble,
        "replicas": model.replicas if sees_all() else _unnamed(model.replicas),
        "dimension": (facts.dimension or None) if facts else spec.dimensions,
        "embedding_dimension": (facts.dimension or None) if facts else spec.dimensions,
        "max_seq_length": facts.max_tokens if facts else spec.max_seq_length,
        "max_input_length": facts.max_tokens if facts else spec.max_seq_length,
        "normalize": model.normalize,
        "device": facts.device if facts else spec.device,
        "dtype": facts.dtype if facts else spec.dtype,
        "backend": facts.backend if facts else spec.backend,
        "pooling": facts.pooling if facts else None,
        "notes": list(facts.notes) if facts and sees_all() else [],
        "prompts": dict(facts.prompts) if facts else spec.prompts,
        "revision": spec.revision,
        "fingerprint": facts.fingerprint if facts else None,
        "batch_size": spec.max_batch_size or services().settings.current.max_batch_size,
        "max_client_batch_size": services().settings.current.max_texts,
        "version": services().version,
    }


def _unnamed(replicas: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Leave out which hosts the replicas are on and what is wrong with them."""
    return replicas and [
        {**row, "name": f"#{i}", "reason": row["reason"] and "it is left out for now"}
        for i, row in enumerate(replicas)
    ]
