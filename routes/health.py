"""Whether the service is healthy: `/health` and `/metrics`, and the gauges of what does not work.

A thread of each worker sets these gauges: looking at the free space of a disk may hang, as on a
network file system.
"""

import contextlib
import importlib.metadata
import platform
import shutil
import threading
from functools import partial
from typing import Literal, cast

from flask import request

from auth import sees_all, shown
from context import Services, services
from observability import metrics
from rate_limits import Throttle, throttle
from routes.table import Reply, Route
from schemas.service import (
    HealthReply,
    IndexReply,
    LiveReply,
    ModelStateReply,
    ReadyReply,
    SumsReply,
)
from serving.health import unhealthy_reason
from serving.model import Model
from store import sqlite_version

SERVICE = "Embedding Service"
LOOK_EVERY_S = 2.0
RETRY = {"Retry-After": "2"}
Probe = partial(Route, access="public", tag="service", any_page=True, counted=False, probe=True)


def index() -> IndexReply:
    """Return the service's name, state, version and models."""
    registry = services().engine.registry
    models = [m for m in registry.models.values() if m.state != "unavailable"]
    return {
        "service": SERVICE,
        "status": _status(registry.default, unhealthy_reason(registry.default)),
        "version": services().version,
        "available_models": [shown(model.spec.model_name) for model in models],
    }


@Probe("GET", "/ping", same=(503,))
@Probe("GET", "/health", same=(503,))
def health() -> Reply[HealthReply]:
    """Say whether the default model can encode, and the state of every model.

    Only admins learn the full reason why one cannot: it may name files and hosts.
    """
    models, default = services().engine.registry.models, services().engine.registry.default
    facts, reason = default.facts, unhealthy_reason(default)
    problems = {part: why for part, why in problems_of(services(), throttle()).items() if why}
    body: HealthReply = {
        "status": _status(default, reason),
        "reason": _for_caller(default, reason),
        "model": shown(default.spec.model_name),
        "device": facts.device if facts else None,
        "embedding_dimension": facts.dimension if facts else None,
        "version": services().version,
        "sqlite": sqlite_version(),
        "degraded": "; ".join(problems.values() if sees_all() else problems) or None,
        "models": {shown(model.spec.id): _row(model) for model in models.values()},
    }
    return Reply(body) if reason is None else Reply(body, 503, RETRY)


@Probe("GET", "/health/live")
def live() -> LiveReply:
    """Say that the process answers."""
    return {"status": "alive"}


@Probe("GET", "/health/ready", same=(503,))
def ready() -> Reply[ReadyReply]:
    """Say whether the service takes requests, and if not, at what stage it is."""
    default = services().engine.registry.default
    reason = unhealthy_reason(default)
    if reason is None:
        return Reply({"status": "ready"})
    why = _for_caller(default, reason)
    return Reply({"status": "not ready", "stage": default.state, "reason": why}, 503, RETRY)


@Route("GET", "/metrics", access="metrics", tag="service", probe=True, other="text/plain")
def show_metrics() -> Reply[SumsReply] | Reply[bytes]:
    """Return the metrics in Prometheus's text format, or their sums as JSON if asked for."""
    kinds = [(kind.partition(";")[0].strip(), wish) for kind, wish in request.accept_mimetypes]
    text = max((wish for kind, wish in kinds if kind in ("text/plain", "text/*", "*/*")), default=0)
    if request.accept_mimetypes["application/json"] > text:
        return Reply(cast(SumsReply, metrics.summary()))
    kind = {"Content-Type": metrics.CONTENT_TYPE}
    return Reply(metrics.exposition(hosts=sees_all()), headers=kind)


def _row(model: Model) -> ModelStateReply:
    """Return whether a model can encode, as its last pass or its model process says."""
    state, reason = model.state, model.reason
    if state == "ready" and (reason := unhealthy_reason(model, trial=False)):
        state = "unavailable"
    return {"status": state, "reason": _for_caller(model, reason)}


def _for_caller(model: Model, reason: str | None) -> str | None:
    """Return as much of the reason why a model cannot encode as the caller may know."""
    if reason is None or sees_all() or model.state == "loading":
        return reason
    return model.public_reason or "it cannot encode just now; the service's log says why"


def _status(default: Model, reason: str | None) -> Literal["healthy", "loading", "unhealthy"]:
    if reason is None:
        return "healthy"
    return "loading" if default.state == "loading" else "unhealthy"


def problems_of(parts: Services, throttle: Throttle) -> dict[str, str | None]:
    """Return for each part why it does not work, None where it does."""
    models = parts.engine.registry.models.values()
    fallen = [model.spec.id for model in models if model.is_without_gpu]
    cuda = f"no NVIDIA device or driver: on the CPU instead of cuda: {', '.join(fallen)}"
    return {
        "device": cuda if fallen else None,
        "settings": parts.settings.degraded,
        "database": parts.accounts.problem,
        "cache": parts.cache.problem if parts.cache else None,
        "provider_keys": parts.provider_keys.problem,
        "store": parts.documents.store.problem,
        "limits": throttle.problem or parts.accounts.throttle_problem,
    }


def show(parts: Services, throttle: Throttle) -> None:
    """Set the gauges of the service itself."""
    torch = importlib.metadata.version("torch")
    metrics.BUILD.labels(parts.version, platform.python_version(), torch).set(1)
    for part, problem in problems_of(parts, throttle).items():
        metrics.DEGRADED.labels(part).set(problem is not None)
    for name in parts.providers.names():
        for host, found in list(parts.providers.get(name).hosts.items()):
            metrics.PROVIDER_OPEN.labels(name, host).set(found.breaker.state == "open")
    for label, folder in (("data", parts.config.data_dir), ("store", parts.config.store_dir)):
        folder = folder.absolute()
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
        with contextlib.suppress(OSError):
            metrics.DISK_FREE.labels(label).set(shutil.disk_usage(nearest).free)


def watch(parts: Services, throttle: Throttle) -> threading.Event:
    """Set the gauges in a thread until the returned event is set."""
    stop = threading.Event()

    def look() -> None:
        show(parts, throttle)
        while not stop.wait(LOOK_EVERY_S):
            show(parts, throttle)

    threading.Thread(target=look, name="vitals", daemon=True).start()
    return stop
