"""The configured models: the thread that loads them, and their exchange while they serve.

The service starts at once and the models load meanwhile, the default one first. One that fails is
`unavailable` with its reason and is tried again later; it never stops the others.
"""

import gc
import itertools
import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuit_breaker import backoff
from config import ModelSettings, ModelSpec
from embedders.base import DeviceBroken
from embedders.device import meaning
from errors import Conflict, Invalid, ServiceError, UnknownModel
from server.memory import exempting_nothing, give_back_memory
from serving.encoder import Encoder
from serving.loader import Build, build_model, check, reason_of
from serving.model import Loaded, Model, ModelSet, public_name

log = logging.getLogger("models")

# Before each retry of a model that failed (no network yet, a gated repository), the last forever.
RETRY_AFTER_S = (30, 120, 600)
# A request may wait this long for its turn; an old model is given as long to become idle.
DRAIN_S = 30.0
# How often cyclic garbage, which a failed request leaves behind, is collected while waiting.
COLLECT_EVERY_S = 0.5
DIED = (
    "the process before this one died while it loaded its models, perhaps out of memory (see the "
    "kernel's log); they are loaded {:.0f} s after the start"
)


class Registry:
    """Every configured model by every name it answers to."""

    def __init__(
        self, specs: Sequence[ModelSpec], default: str, settings: ModelSettings, build: Build
    ) -> None:
        self._build = build
        self._serving = ModelSet.of([Model(spec, settings) for spec in specs], default)
        self._exchanging = threading.Lock()
        self._putting = threading.Lock()  # so that only a model that still serves is put
        self._stop = threading.Event()
        self.lost: str | None = None  # the device that broke while a model was loaded
        self.tried = threading.Event()  # each model is loaded, or unavailable

    @property
    def models(self) -> Mapping[str, Model]:
        """The models by id."""
        return self._serving.models

    @property
    def default(self) -> Model:
        """The model of a request that names none."""
        return self._serving.default

    @property
    def names(self) -> Mapping[str, Model]:
        """The models by every name they answer to."""
        return self._serving.names

    def get(self, name: str | None) -> Model:
        """Return the model a request asks for; None means the default. Raises UnknownModel."""
        serving = self._serving
        if name is None:
            return serving.default
        if found := serving.names.get(name):
            return found
        known = ", ".join(map(public_name, serving.models))
        raise UnknownModel(f"unknown model {name[:128]!r}; available: {known}", param="model")

    # -- loading --------------------------------------------------------------------------------

    def start(self, pause_s: float = 0.0) -> None:
        """Load every model in a thread of its own, the default first, `pause_s` from now."""
        if pause_s:
            log.warning(DIED.format(pause_s))
            for model in self.models.values():
                model.fail(DIED.format(pause_s))
        self._start_loading(self._default_first(), pause_s)

    def load_now(self) -> None:
        """Load every model before returning (for tests and scripts)."""
        for model in self._default_first():
            self._load(model)

    def stop(self) -> None:
        """End the retries."""
        self._stop.set()

    def _default_first(self) -> list[Model]:
        return sorted(self.models.values(), key=lambda model: model is not self.default)

    def _start_loading(self, models: list[Model], pause_s: float = 0.0) -> None:
        threading.Thread(
            target=self._load_all, args=(models, pause_s), name="model-loader", daemon=True
        ).start()

    def _load_all(self, models: list[Model], pause_s: float) -> None:
        for pause in itertools.chain([pause_s], backoff(RETRY_AFTER_S)):
            if self._stop.wait(pause):
                return
            for model in models:
                self._load(model)
            self.tried.set()
            models = [m for m in models if m.held is None and self._serves(m)]
            if not models:
                return

    def _serves(self, model: Model) -> bool:
        return self._serving.models.get(model.spec.id) is model

    def _load(self, model: Model) -> None:
        if not self._serves(model):
            return
        spec = model.spec
        log.info("loading %s (%s)", spec.id, spec.model_name)
        try:
            loaded = self._checked(model)
        except Exception as exc:
            known, reason = model.reason, reason_of(exc)
            model.fail(reason)
            if reason != known:  # it is tried again and again: log each new reason once
                log.warning("model %s is unavailable: %s", spec.id, reason)
                if not isinstance(exc, ServiceError):
                    log.exception("model %s failed to load", spec.id)
            loaded = None
        if loaded is None:  # not inside `except`: there the exception holds what was loaded
            give_back_memory()
            return
        with self._putting:
            if serves := self._serves(model):
                model.put(loaded)
        if serves:
            _log_loaded(model, loaded)
        else:
            loaded.encoder.close()

    def _checked(self, model: Model) -> Loaded:
        """Load a model and check that it encodes. Raises why it cannot, and then keeps nothing."""
        loaded: Loaded | None = None
        try:
            loaded = build_model(model.spec, model.settings, self._build)
            check(loaded.embedder)
            return loaded
        except Exception as exc:
            failure = meaning(exc)
            if isinstance(failure, DeviceBroken):  # no other call on that device succeeds either
                self.lost = f"{model.spec.id}: the model's device is lost: {failure}"
            del failure
            if loaded is not None:
                loaded.encoder.close()
            raise

    # -- exchanging -----------------------------------------------------------------------------

    def prepare(
        self, specs: Sequence[ModelSpec], default: str, settings: ModelSettings
    ) -> "Exchange":
        """Load the models of these settings beside those that serve; return their exchange.

        Models that stay the same stay loaded. Raises Conflict until the exchange before is
        committed or aborted, Invalid with the reason if a model does not load or is wrong.
        """
        if not self._exchanging.acquire(blocking=False):
            raise Conflict("the models are already being changed; send this again afterwards")
        try:
            return Exchange(self, self._load_beside(specs, default, settings), specs, settings)
        except BaseException:
            self._exchanging.release()
            raise

    def _load_beside(
        self, specs: Sequence[ModelSpec], default: str, settings: ModelSettings
    ) -> ModelSet:
        """Load and check what these settings newly need. Raises Invalid and then keeps nothing."""
        now = self._serving
        needed = {m.spec.id for m in now.models.values() if m.state == "ready"} | {default}
        models = [self._same(spec, settings, spec.id == default) for spec in specs]
        for model in models:
            if model.spec.id not in needed or model.state == "ready":
                continue
            if reason := self._try(model):
                name, leaving = model.spec.id, _leaving([m for m in models if not self._serves(m)])
                models.clear()
                del model  # whoever still refers to a model keeps it open
                free(leaving)
                raise Invalid(f"model {name!r} cannot be used: {reason}. Nothing was changed")
        return ModelSet.of(models, default)

    def _same(self, spec: ModelSpec, settings: ModelSettings, must_be_ready: bool) -> Model:
        """Return the model that serves under this id, if these would load the same."""
        old = self._serving.models.get(spec.id)
        if old is None or not old.loads_as(spec, settings):
            return Model(spec, settings)
        return old if old.state == "ready" or not must_be_ready else Model(spec, settings)

    def _try(self, model: Model) -> str | None:
        """Load and check a model that does not serve yet; return why it cannot be used."""
        try:
            loaded = self._checked(model)
        except Exception as exc:
            return reason_of(exc)
        model.put(loaded)
        _log_loaded(model, loaded)
        return None

    def _switch_to(
        self, models: ModelSet, specs: Sequence[ModelSpec], settings: ModelSettings
    ) -> None:
        fresh = models.without(self._serving)
        with self._putting:
            self._serving = models
        for spec in specs:
            models.models[spec.id].limit(spec, settings)
        if missing := [model for model in fresh if model.held is None]:
            self._start_loading(missing)


@dataclass
class Exchange:
    """Models that are loaded and checked but do not serve yet: `commit` or `abort`, once."""

    _registry: Registry
    _new: ModelSet | None
    _specs: Sequence[ModelSpec]
    _settings: ModelSettings

    def commit(self) -> None:
        """Let the new models serve, between two requests, and free those that serve no more."""
        self._end(serve=True)

    def abort(self) -> None:
        """Free the new models; those that serve go on."""
        self._end(serve=False)

    def _end(self, *, serve: bool) -> None:
        registry, before, new = self._registry, self._registry._serving, self._new
        assert new is not None, "an exchange ends once"
        try:
            if serve:
                registry._switch_to(new, self._specs, self._settings)
            now = registry._serving
            leaving = _leaving(before.without(now) + new.without(now))
            # Whoever refers to a model keeps it open.
            del before, now, new
            self._new = None
            free(leaving)
        finally:
            registry._exchanging.release()


class Leaving:
    """An encoder that is closed once nothing refers to its holder any more.

    Python's reference count is the drain: a request refers to what it encodes on, so nothing in use
    is closed, and no request pays for being counted.
    """

    def __init__(self, holder: object, encoder: Encoder) -> None:
        self._encoder: Encoder | None = encoder
        self._gone = threading.Event()
        weakref.finalize(holder, self._gone.set).atexit = False

    def close(self) -> None:
        """Wait until the holder is gone, then close its encoder and forget it."""
        while not self._gone.wait(COLLECT_EVERY_S):
            with exempting_nothing():
                gc.collect()  # an exception and its traceback refer to each other, and to the model
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None


def free(leaving: Sequence[Leaving], drain_s: float = DRAIN_S) -> None:
    """Close each encoder as soon as its holder is gone, and return its memory.

    The caller must not refer to the holders. Returns when all are closed, or after `drain_s`; what
    is in use even then is closed later, in a thread. With none to close it frees what a failed load
    left behind.
    """
    if not leaving:
        give_back_memory()
        return
    done = threading.Event()

    def close_all() -> None:
        for each in leaving:
            each.close()
        with exempting_nothing():
            give_back_memory()
        done.set()

    threading.Thread(target=close_all, name="model-free", daemon=True).start()
    if not done.wait(drain_s):
        log.warning("an old model is still in use after %.0f s; it is freed later", drain_s)


def _leaving(models: Sequence[Model]) -> list[Leaving]:
    """Return what to close of models that no longer serve, without a reference to them."""
    held = [model.held for model in models if model.held is not None]
    return [Leaving(loaded, loaded.encoder) for loaded in held]


def _log_loaded(model: Model, loaded: Loaded) -> None:
    facts = loaded.facts
    if model.reason is not None:
        log.warning("model %s is unavailable: %s", model.spec.id, model.reason)
        return
    what = "%s is ready in %.1f s: %d dimensions, %s tokens, %s, %s"
    numbers = (loaded.load_s, facts.dimension, facts.max_tokens)
    log.info(what, model.spec.id, *numbers, facts.device, facts.dtype)
