"""Which models are in memory: each is loaded when it is needed and unloaded when it is not.

A model that is unloaded comes back with the next request for it, which waits. It leaves as an
exchanged model does: what uses it ends first. With a budget loads come one after the other, and
what was used least recently makes room. In a worker whose local models are in another process that
process decides (`model_process/models.py`), and nothing is unloaded here.
"""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from config import ModelSettings, ModelSpec
from embedders.base import Facts
from errors import ModelLoading, ModelUnavailable, NoRoom, ServiceError
from observability import metrics
from observability.names import public_name
from server import slots
from server.memory import exempting_nothing
from serving.checks import check
from serving.encoder import Encoder
from serving.leaving import DRAIN_S, Leaving, free
from serving.loader import Build, build_model
from serving.model import Load, Loaded, Model

log = logging.getLogger("models")

# A request waits so long for a model that is being loaded, if its own deadline lets it.
LOAD_WAIT_S = 60.0
# So many may wait: each takes a thread, and the other models need some of them.
WAITERS = 64
# A model stays so long after its load: where more models are in use than there is room for, it
# serves what comes meanwhile before the next one takes its place.
STAY_S = 1.0
LOOK_EVERY_S = 0.5
MB = 1 << 20


class Size(Protocol):
    """What tells the bytes of a model's weights; None for one that takes no memory here."""

    def __call__(
        self, spec: ModelSpec, settings: ModelSettings, facts: Facts | None = None
    ) -> int | None:
        """Return them, more exactly with the facts of the loaded model. Raises ModelUnavailable."""


class Residency:
    """Loads models into memory and unloads them. Safe from many threads."""

    def __init__(
        self, build: Build, load: Callable[[Model], Loaded | None], size: Size | None = None
    ) -> None:
        """Take what builds a model, and what loads one that a request needs, by `place` and `put`.

        What that raises is for those who wait; None means that the model says why not. Without
        `size` no model is unloaded.
        """
        self._build, self._load, self._size = build, load, size
        self._lock = threading.Lock()
        self._placing = threading.Lock()  # with a budget one is loaded after the other
        self._sizes: weakref.WeakKeyDictionary[Encoder, int] = weakref.WeakKeyDictionary()
        self._models: weakref.WeakSet[Model] = weakref.WeakSet()  # those that may be unloaded
        self._under_way: set[Load] = set()
        self._waiting = 0
        self._watching = False
        self._stop = threading.Event()

    def stop(self) -> None:
        """Unload nothing any more, and send away those who wait: the process ends."""
        self._stop.set()
        with self._lock:
            for load in self._under_way:
                load.ended.set()

    # -- for a request ---------------------------------------------------------------------------

    def take(
        self, model: Model, deadline: float | None = None, patience_s: float | None = LOAD_WAIT_S
    ) -> Loaded:
        """Return what encodes on a model. Where it is unloaded, have it loaded, once for all.

        Whoever refers to it keeps it open. `deadline` is a `time.monotonic()` value. Raises
        ModelLoading where the wait is too long, ModelUnavailable, NoRoom.
        """
        model.used_at = time.monotonic()
        held = model.held
        if held is not None:
            return model.usable(held)
        with self._lock:
            held, load = model.held, model.load
            if held is None and load is None and model.is_to_be_loaded and not self._stop.is_set():
                load = model.load = Load()
                self._under_way.add(load)
                work = threading.Thread(
                    target=self._work, args=(model, load), name="model-loader", daemon=True
                )
                work.start()
            if held is not None or load is None:
                return model.usable(held)
            if patience_s is not None and self._waiting >= WAITERS:
                raise ModelLoading(f"model {public_name(model.spec.id)!r} is being loaded")
            self._waiting += 1
        try:
            self._wait(model, load, deadline, patience_s)
        finally:
            with self._lock:
                self._waiting -= 1
        if load.error is not None:
            raise load.error
        model.used_at = time.monotonic()
        return model.usable(load.loaded)

    @staticmethod
    def _wait(model: Model, load: Load, deadline: float | None, patience_s: float | None) -> None:
        now = time.monotonic()
        ends = [end for end in (deadline, patience_s and now + patience_s) if end is not None]
        with slots.away():
            ended = load.ended.wait(max(0.0, min(ends) - now) if ends else None)
        if not ended:
            raise ModelLoading(
                f"model {public_name(model.spec.id)!r} is still being loaded; send this again"
            )

    def _work(self, model: Model, load: Load) -> None:
        try:
            load.loaded = self._load(model)
        except ServiceError as exc:
            exc.__traceback__ = exc.__cause__ = exc.__context__ = None  # they hold what was loaded
            load.error = exc
        finally:
            with self._lock:
                model.load = None
                self._under_way.discard(load)
            load.ended.set()

    # -- loading ---------------------------------------------------------------------------------

    def place(self, model: Model, *, evict: bool = True) -> Loaded:
        """Load a model and check that it encodes, after others made room for it.

        Raises why it cannot, and then keeps nothing. Without `evict` it raises NoRoom where another
        model would have to leave.
        """
        if self._size is None or model.settings.models_memory_mb is None:
            return self._checked(model, evict)
        with self._placing:
            size = model.memory_bytes
            if size is None:
                size = self._size(model.spec, model.settings)
            if size is not None:
                self._make_room(model, size, model.settings.models_memory_mb * MB, evict)
            return self._checked(model, evict)

    def put(self, model: Model, loaded: Loaded) -> None:
        """Let a model serve from what was loaded, until it is unloaded."""
        with self._lock:  # it may be unloaded at once, and the gauge says what was last
            model.put(loaded)
            if self._size is None or model.memory_bytes is None:
                return
            metrics.MODEL_BYTES.labels(model.spec.id).set(model.memory_bytes)
            self._models.add(model)
        self.watch()

    def _checked(self, model: Model, evict: bool) -> Loaded:
        loaded: Loaded | None = None
        spec, known = model.spec, model.facts
        if evict and self._size is None:  # tell the process that decides
            spec = spec.model_copy(update={"load": "first_use"})
        try:
            loaded = build_model(spec, model.settings, self._build)
            check(loaded.embedder)
            facts = loaded.facts
            if known is not None and facts.fingerprint != known.fingerprint:
                raise ModelUnavailable(
                    f"its files changed: its fingerprint was {known.fingerprint} and is now "
                    f"{facts.fingerprint}; restart the service to serve it as it is now"
                )
            if self._size is not None:
                size = self._size_of(model, facts)
                loaded.embedder.memory_bytes = size
                self._sizes[loaded.encoder] = size or 0
            return loaded
        except BaseException:
            if loaded is not None:
                loaded.encoder.close()
                loaded = None
            raise
        finally:
            if self._size is not None:  # else that process counts it
                outcome = "failed" if loaded is None else "loaded"
                metrics.MODEL_LOADS.labels(spec.id, outcome).inc()

    def _size_of(self, model: Model, facts: Facts) -> int | None:
        """Return the size of a model that was loaded; a hub that is away does not matter now."""
        assert self._size is not None
        try:
            return self._size(model.spec, model.settings, facts)
        except ServiceError as exc:
            log.warning("%s: its size is not known: %s", model.spec.id, exc.message)
            return model.memory_bytes or 0

    def _make_room(self, model: Model, size: int, budget: int, evict: bool) -> None:
        """Unload what was used least recently until there is room. Raises ModelUnavailable."""
        if size > budget:
            raise ModelUnavailable(
                f"its weights take {-(-size // MB)} MB, and MODELS_MEMORY_MB allows "
                f"{budget // MB} MB for all models"
            )
        while self._used() + size > budget:
            others = [each for each in list(self._models) if each.held and each.memory_bytes]
            if not evict:
                raise NoRoom(
                    f"MODELS_MEMORY_MB={budget // MB} has no room for it beside the others"
                )
            if not others:
                raise ModelLoading(
                    f"model {public_name(model.spec.id)!r} waits for the memory of one that is in "
                    "use",
                    retry_after_s=5,
                )
            least = min(others, key=lambda each: (each.is_in_use, each.used_at))
            others.clear()
            self._stop.wait(max(0.0, least.loaded_at + STAY_S - time.monotonic()))
            self._unload(least, "budget")

    def _used(self) -> int:
        return sum(list(self._sizes.values()))

    # -- unloading -------------------------------------------------------------------------------

    def unload_idle(self) -> None:
        """Unload each model that no request used for as long as it says."""
        for model in list(self._models):
            idle_s = model.idle_unload_s
            if idle_s is None or time.monotonic() - model.used_at < idle_s:
                continue
            if model.is_in_use:
                with exempting_nothing():
                    gc.collect()  # the exception of a failed request may hold it
            if model.is_in_use:
                model.used_at = time.monotonic()
            else:
                self._unload(model, "idle")

    def _unload(self, model: Model, reason: str) -> None:
        """Unload a model, and wait for what uses it, but not for ever."""
        with self._lock:
            held = model.unload()
            if held is None:
                return
            metrics.MODEL_BYTES.labels(model.spec.id).set(0)
        leaving = Leaving.of(held)
        del held
        metrics.MODEL_UNLOADS.labels(model.spec.id, reason).inc()
        why = "nothing used it" if reason == "idle" else "another model needs its memory"
        log.info("unloading %s until its next use: %s", model.spec.id, why)
        free([leaving], DRAIN_S)

    def watch(self) -> None:
        """Watch for idle models in a thread, while there are any that may be unloaded so."""
        with self._lock:
            if self._watching or not self._some_may_idle():
                return
            self._watching = True
        threading.Thread(target=self._watch, name="model-idle", daemon=True).start()

    def _some_may_idle(self) -> bool:
        models = list(self._models)
        return any(model.held and model.idle_unload_s is not None for model in models)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self.unload_idle()
            except Exception:
                log.exception("an idle model could not be unloaded")
            with self._lock:
                self._watching = self._some_may_idle()
                if not self._watching:
                    return
