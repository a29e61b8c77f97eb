"""Whether the service is well: what `/` tells a program, and `/health`."""

from typing import Any

from context import services
from routes.table import Reply, route

SERVICE = "Embedding Service"


def index() -> dict[str, Any]:
    """Name the service, its version and its models."""
    registry = services().engine.registry
    models = [m for m in registry.models.values() if m.state != "unavailable"]
    return {
        "service": SERVICE,
        "status": _status(),
        "version": services().version,
        "available_models": [model.spec.model_name for model in models],
    }


@route("GET", "/health", access="public", errors=(503,), tag="service")
def health() -> Reply:
    """Tell whether the default model can encode, and the state of every model."""
    registry = services().engine.registry
    default, facts = registry.default, registry.default.facts
    states = {
        model.spec.id: {"status": model.state, "reason": model.reason}
        for model in registry.models.values()
    }
    body = {
        "status": _status(),
        "reason": default.reason,
        "model": default.spec.model_name,
        "device": facts.device if facts else None,
        "embedding_dimension": facts.dimension if facts else None,
        "version": services().version,
        "degraded": services().settings.degraded,
        "models": states,
    }
    if default.state == "ready":
        return Reply(body)
    return Reply(body, 503, {"Retry-After": "2"})


def _status() -> str:
    state = services().engine.registry.default.state
    return {"ready": "healthy", "loading": "loading"}.get(state, "unhealthy")
