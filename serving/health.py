"""Tells whether a model can really encode, and ends a process that no longer can.

`ailment` is what `/health` says; `watch` is the thread that looks for what cannot heal inside the
process: a device error that sticks (every later call on the GPU fails too) and a pass that hangs in
the driver. Both end the process, and gunicorn starts another. `wind_up` is for an end that somebody
asked for. Knows the registry; no HTTP.
"""

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable

from embedders.base import Embedder, Prompt
from observability import metrics
from serving.batcher import Batcher
from serving.registry import Model, Registry
from serving.replicas import Replicas
from serving.retire import spare_collections

log = logging.getLogger("watchdog")

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h; gunicorn ends its master only for 3 and 4
PROBE_S = 1.0  # how long /health waits for a trial
LOOK_EVERY_S = 0.5
TRIAL_EVERY = 20  # looks: a model whose passes fail is tried each ten seconds, unasked
_probing = threading.Lock()


def ailment(model: Model, *, trial: bool = True) -> str | None:
    """Return why the model cannot encode now, on no replica if it has several; None if it can.

    Costs nothing while passes succeed. After a failed one the model is tried with one short text;
    the trial runs aside, so that one that hangs delays its asker by `PROBE_S` and no more. Without
    `trial` the last pass decides.
    """
    loaded = model.held
    if loaded is None or model.state != "ready":
        return model.reason or "the model is still loading"
    if not isinstance(loaded.lane, Replicas):
        return _ailment(loaded.embedder, loaded.lane, trial)
    reasons = []
    for each in loaded.lane.replicas:
        away = None if each.state == "up" else each.reason or each.state
        reason = away or _ailment(each.embedder, each.lane, trial)
        if reason is None:
            return None
        reasons.append(f"{each.name}: {reason}")
    return f"no replica can encode ({'; '.join(reasons)})"


def _ailment(embedder: Embedder, lane: object, trial: bool) -> str | None:
    if not isinstance(lane, Batcher):
        return None
    pulse = lane.pulse()
    if pulse.broken:
        return pulse.broken
    if pulse.hung:
        return f"a pass through the model has taken {pulse.busy_s:.0f} s so far"
    if pulse.failing and trial:
        _try_now(embedder, lane)
    return "the model's last pass failed" if lane.pulse().failing else None


def _try_now(embedder: Embedder, lane: Batcher) -> None:
    """Try a text, unless somebody is at it already, and wait for `PROBE_S` at most."""
    if _probing.acquire(blocking=False):
        done = threading.Event()
        threading.Thread(target=_try, args=(embedder, lane, done), daemon=True).start()
        done.wait(PROBE_S)


def _try(embedder: Embedder, lane: Batcher, done: threading.Event) -> None:
    try:
        items = embedder.prepare(["ok"], Prompt(), "right")
        lane.encode(items, time.monotonic() + PROBE_S)
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
    """Look after the models in a thread until the returned event is set, and show which are ready.

    `settled` is called when each of them has been loaded or found unavailable, `ready` when the
    default one can encode; both again and again. What is alive when they are settled is left out of
    garbage collections.
    """
    stop = threading.Event()

    def look() -> None:
        spared = False
        for looks in itertools.count():
            _show(registry, trial=looks % TRIAL_EVERY == 0)
            # Until they are settled, that is waited for: a reload just after has to know it.
            (stop if spared else registry.tried).wait(LOOK_EVERY_S)
            if stop.is_set():
                return
            reason = _hopeless(registry)
            if reason:
                log.critical("%s; this worker ends so that a new one can take its place", reason)
                stop.wait(LOOK_EVERY_S)  # waiting requests get their 503 first
                end(EXIT_CODE)
                return
            if registry.tried.is_set():
                settled()
                if not spared:
                    spare_collections()
                    spared = True
            if registry.default.state == "ready":
                ready()

    threading.Thread(target=look, name="watchdog", daemon=True).start()
    return stop


def wind_up(registry: Registry) -> None:
    """Answer what still waits with 503, as the end of the process is near."""
    for model in registry.models.values():
        for lane in model.held.lanes if model.held else ():
            if isinstance(lane, Batcher):
                lane.stop()


def _show(registry: Registry, *, trial: bool) -> None:
    models, default = registry.models, registry.default
    ready = {name: ailment(model, trial=trial) is None for name, model in models.items()}
    metrics.show_ready(ready, default.spec.id)


def _hopeless(registry: Registry) -> str | None:
    if registry.lost:
        return registry.lost
    for model in registry.models.values():
        for lane in model.held.lanes if model.held else ():
            pulse = lane.pulse() if isinstance(lane, Batcher) else None
            if pulse and pulse.broken:
                return f"{model.spec.id}: {pulse.broken}"
            if pulse and pulse.hung:
                return f"{model.spec.id}: a pass hangs since {pulse.busy_s:.0f} s"
    return None
