"""Whether a model can really encode; and the end of a process whose models cannot recover.

A device error that persists makes every later call on the GPU fail, and a pass can hang in the
driver. `watch` sees both and ends the process, and gunicorn starts another.
"""

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

from observability import metrics
from server.memory import exempt_from_collection
from serving.encoder import Encoder
from serving.model import Model
from serving.registry import Registry

log = logging.getLogger("health")

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h; gunicorn ends its master only for 3 and 4
PROBE_S = 1.0  # how long /health waits for a trial
LOOK_EVERY_S = 0.5
TRIAL_EVERY = 20  # looks: a model whose passes fail is tried every ten seconds
_probing = threading.Lock()


def unhealthy_reason(model: Model, *, trial: bool = True) -> str | None:
    """Return why the model cannot encode now, or None. Of several replicas one is enough.

    One that is unloaded can: the next request loads it. Costs nothing while passes succeed. After a
    failed pass the model is tried with one short text; a trial that hangs delays its caller by
    `PROBE_S` at most. Without `trial` the last pass decides.
    """
    loaded, state = model.held, model.state
    if state == "unloaded" or (state == "loading" and model.on_demand and model.reason is None):
        return None
    if loaded is None or state != "ready":
        return model.reason or "the model is still loading"
    reasons = []
    for encoder, name, away in loaded.encoder.places:
        reason = away or _unhealthy_reason(encoder, trial)
        if reason is None:
            return None
        reasons.append(f"{name}: {reason}" if name else reason)
    several = len(loaded.encoder.places) > 1
    return f"no replica can encode ({'; '.join(reasons)})" if several else reasons[0]


def _unhealthy_reason(encoder: Encoder, trial: bool) -> str | None:
    health = encoder.health()
    if reason := health.fatal or health.away:
        return reason
    # One trial at a time, in a thread of its own.
    if health.failing and trial and _probing.acquire(blocking=False):
        done = threading.Event()
        threading.Thread(target=_try, args=(encoder, done), daemon=True).start()
        done.wait(PROBE_S)
    return "the model's last pass failed" if encoder.health().failing else None


def _try(encoder: Encoder, done: threading.Event) -> None:
    try:
        encoder.encode(encoder.embedder.trial(), time.monotonic() + PROBE_S)
    except Exception as exc:
        log.warning("a trial text could not be encoded (%s)", type(exc).__name__)
    finally:
        _probing.release()
        done.set()


def watch(
    registry: Registry,
    end: Callable[[int], object] = os._exit,
    settled: Callable[[], object] = lambda: None,
    ready: Callable[[], object] = lambda: None,
) -> threading.Event:
    """Watch the models in a thread until the returned event is set, and show which are ready.

    `settled` is called once each of them is loaded or unavailable, `ready` when the default one can
    encode; both again and again. What is alive once they are settled is left out of garbage
    collections.
    """
    stop = threading.Event()

    def look() -> None:
        exempted = False
        for looks in itertools.count():
            trial, models = looks % TRIAL_EVERY == 0, registry.models
            able = {name: unhealthy_reason(m, trial=trial) is None for name, m in models.items()}
            metrics.show_ready(able, registry.default.spec.id)
            # Wait for the models to settle at first: a reload just after has to know it.
            (stop if exempted else registry.tried).wait(LOOK_EVERY_S)
            if stop.is_set():
                return
            fatal = ((id_, encoder.health().fatal) for id_, encoder in _encoders(registry))
            if reason := registry.lost or next((f"{id_}: {why}" for id_, why in fatal if why), ""):
                log.critical("%s; this worker ends so that a new one takes its place", reason)
                stop.wait(LOOK_EVERY_S)  # waiting requests get their 503 first
                end(EXIT_CODE)
                return
            if registry.tried.is_set():
                settled()
                if not exempted:
                    exempt_from_collection()
                    exempted = True
            if registry.default.state in ("ready", "unloaded"):
                ready()

    threading.Thread(target=look, name="health", daemon=True).start()
    return stop


def drain(registry: Registry) -> None:
    """Answer waiting requests with 503, since the process is about to end."""
    registry.stop()
    for _, encoder in _encoders(registry):
        encoder.stop()


def _encoders(registry: Registry) -> Iterator[tuple[str, Encoder]]:
    for model in registry.models.values():
        held = model.held
        for place in held.encoder.places if held else ():
            yield model.spec.id, place.encoder
