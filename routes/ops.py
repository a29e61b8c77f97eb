"""Whether the service is well, and its numbers: `/health` and its parts, `/metrics`."""

from typing import Any

from flask import request

import metrics
from context import services
from routes.table import Reply, route
from schemas.status import HealthReply, LiveReply, ReadyReply, SumsReply
from serving.watchdog import ailment
from store.late import problem_of
from throttle import throttle

SERVICE = "Embedding Service"
RETRY = {"Retry-After": "2"}


def index() -> dict[str, Any]:
    """Name the service, its version and its models."""
    registry = services().engine.registry
    models = [m for m in registry.models.values() if m.state != "unavailable"]
    return {
        "service": SERVICE,
        "status": _status(ailment(registry.default)),
        "version": services().version,
        "available_models": [model.spec.model_name for model in models],
    }


@route("GET", "/health", access="public", reply=HealthReply, same=(503,), tag="service")
def health() -> Reply:
    """Tell whether the default model can encode, and the state of every model."""
    registry = services().engine.registry
    default, facts = registry.default, registry.default.facts
    reason = ailment(default)
    states = {
        model.spec.id: {"status": model.state, "reason": model.reason}
        for model in registry.models.values()
    }
    body = {
        "status": _status(reason),
        "reason": reason,
        "model": default.spec.model_name,
        "device": facts.device if facts else None,
        "embedding_dimension": facts.dimension if facts else None,
        "version": services().version,
        "degraded": _degraded(),
        "models": states,
    }
    return Reply(body) if reason is None else Reply(body, 503, RETRY)


@route("GET", "/health/live", access="public", reply=LiveReply, tag="service")
def live() -> dict[str, str]:
    """Tell that the process answers."""
    return {"status": "alive"}


@route("GET", "/health/ready", access="public", reply=ReadyReply, same=(503,), tag="service")
def ready() -> Reply:
    """Tell whether requests may be sent here, and if not, at what stage the service is."""
    default = services().engine.registry.default
    reason = ailment(default)
    if reason is None:
        return Reply({"status": "ready"})
    return Reply({"status": "not ready", "stage": default.state, "reason": reason}, 503, RETRY)


@route("GET", "/metrics", access="embed", reply=SumsReply, other="text/plain", tag="service")
def show_metrics() -> Reply:
    """Show the numbers in Prometheus's text format, or their sums as JSON where that is asked."""
    wants_json = request.accept_mimetypes.best_match(["text/plain", "application/json"])
    if wants_json == "application/json":
        return Reply(metrics.summary())
    return Reply(metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _degraded() -> str | None:
    """Tell what is missing although requests are served."""
    cache = services().cache
    reasons = (
        services().settings.degraded,
        cache.problem if cache else None,
        services().vault.problem,
        problem_of(services().library.store),
        throttle().problem,
    )
    return "; ".join(reason for reason in reasons if reason) or None


def _status(reason: str | None) -> str:
    if reason is None:
        return "healthy"
    loading = services().engine.registry.default.state == "loading"
    return "loading" if loading else "unhealthy"
