"""Whether the service is well, and its numbers: `/health` and its parts, `/metrics`."""

from typing import Any

from flask import request

from auth import sees_all, shown
from context import services
from observability import metrics
from rate_limits import throttle
from routes.health import problems
from routes.table import Reply, route
from schemas.status import HealthReply, LiveReply, ReadyReply, SumsReply
from serving.health import ailment
from serving.registry import Model

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
        "available_models": [shown(model.spec.model_name) for model in models],
    }


@route("GET", "/health", access="public", any_page=True, reply=HealthReply, same=(503,),
       tag="service")  # fmt: skip
def health() -> Reply:
    """Tell whether the default model can encode, and the state of every model.

    Why one cannot is told in full to admins only: it may name files and hosts.
    """
    registry = services().engine.registry
    default, facts = registry.default, registry.default.facts
    reason = ailment(default)
    states = {
        shown(model.spec.id): {
            "status": model.state,
            "reason": model.reason if sees_all() else model.trouble,
        }
        for model in registry.models.values()
    }
    body = {
        "status": _status(reason),
        "reason": _told(default, reason),
        "model": shown(default.spec.model_name),
        "device": facts.device if facts else None,
        "embedding_dimension": facts.dimension if facts else None,
        "version": services().version,
        "degraded": _degraded(),
        "models": states,
    }
    return Reply(body) if reason is None else Reply(body, 503, RETRY)


@route("GET", "/health/live", access="public", any_page=True, reply=LiveReply, tag="service")
def live() -> dict[str, str]:
    """Tell that the process answers."""
    return {"status": "alive"}


@route("GET", "/health/ready", access="public", any_page=True, reply=ReadyReply, same=(503,),
       tag="service")  # fmt: skip
def ready() -> Reply:
    """Tell whether requests may be sent here, and if not, at what stage the service is."""
    default = services().engine.registry.default
    reason = ailment(default)
    if reason is None:
        return Reply({"status": "ready"})
    told = _told(default, reason)
    return Reply({"status": "not ready", "stage": default.state, "reason": told}, 503, RETRY)


@route("GET", "/metrics", access="embed", reply=SumsReply, other="text/plain", tag="service")
def show_metrics() -> Reply:
    """Show the numbers in Prometheus's text format, or their sums as JSON where that is asked."""
    kinds = [(kind.partition(";")[0].strip(), wish) for kind, wish in request.accept_mimetypes]
    text = max((wish for kind, wish in kinds if kind in ("text/plain", "text/*", "*/*")), default=0)
    if request.accept_mimetypes["application/json"] > text:
        return Reply(metrics.summary())
    return Reply(
        metrics.exposition(hosts=sees_all()), headers={"Content-Type": metrics.CONTENT_TYPE}
    )


def _degraded() -> str | None:
    """Tell what is missing although requests are served."""
    away = {part: why for part, why in problems(services(), throttle()).items() if why}
    return "; ".join(away.values() if sees_all() else away) or None


def _told(model: Model, reason: str | None) -> str | None:
    """Return why a model cannot encode, as the caller may know it."""
    if reason is None or sees_all() or model.state == "loading":
        return reason
    return model.trouble or "it cannot encode just now; the service's log says why"


def _status(reason: str | None) -> str:
    if reason is None:
        return "healthy"
    loading = services().engine.registry.default.state == "loading"
    return "loading" if loading else "unhealthy"
