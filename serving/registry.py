"""The configured models: the thread that loads them, and their exchange while they serve.

The service starts at once and the models load meanwhile, the default one first. One that fails is
`unavailable` with its reason and is tried again later; it never stops the others. One that is to be
loaded at its first use, or that the memory has no room for at the start, waits for a request.
"""

import itertools
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuit_breaker import backoff
from config import ModelSettings, ModelSpec
from config.models import plain
from embedders.base import DeviceBroken
from embedders.device import meaning
from errors import Conflict, Invalid, ModelAbsent, ModelLoading, NoRoom, ServiceError, UnknownModel
from observability import metrics
from observability.names import public_name
from server.memory import give_back_memory
from serving.leaving import Leaving, free, leaving_of
from serving.loader import Build, reason_of
from serving.model import RETRY_AFTER_S, Loaded, Model, ModelSet
from serving.residency import Residency, Size

log = logging.getLogger("models")

DIED = (
    "the process before this one died while it loaded its models, perhaps out of memory (see the "
    "kernel's log); they are loaded {:.0f} s after the start"
)


class Registry:
    """Every configured model by every name it answers to."""

    def __init__(
        self, specs: Sequence[ModelSpec], default: str, settings: ModelSettings, build: Build,
        size: Size | None = None,
    ) -> None:  # fmt: skip
        """Take the models, what builds one, and what tells its size where it may be unloaded."""
        self._residency = Residency(build, self._load, size)
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

    def find(self, name: str) -> Model | None:
        """Return the model of this name, which may end in Ollama's `:latest`, if there is one."""
        names = self._serving.names
        return names.get(name) or names.get(plain(name))

    def get(self, name: str | None) -> Model:
        """Return the model a request asks for; None means the default. Raises UnknownModel."""
        if name is None:
            return self.default
        if found := self.find(name):
            return found
        known = ", ".join(map(public_name, self.models))
        raise UnknownModel(f"unknown model {name[:128]!r}; available: {known}", param="model")

    def take(self, model: Model, deadline: float | None = None) -> Loaded:
        """Return what encodes on a model for one request, loaded first where it is unloaded.

        `deadline` is a `time.monotonic()` value. Raises ModelLoading, ModelUnavailable, NoRoom.
        """
        return self._residency.take(model, deadline)

    # -- loading --------------------------------------------------------------------------------

    def start(self, pause_s: float = 0.0) -> None:
        """Load models in a thread of its own, the default first, `pause_s` from now."""
        models = self._at_start()
        if pause_s:
            log.warning(DIED.format(pause_s))
            for model in models:
                model.fail(DIED.format(pause_s))
        self._start_loading(models, pause_s)

    def load_now(self) -> None:
        """Load them before returning (for tests and scripts)."""
        for model in self._at_start():
            self._load(model, at_start=True)

    def stop(self) -> None:
        """End the retries, and what waits for a model."""
        self._stop.set()
        self._residency.stop()

    def _at_start(self) -> list[Model]:
        """Return the models that are not left to their first use, the default first."""
        models = (model for model in self.models.values() if not model.on_demand)
        return sorted(models, key=lambda model: model is not self.default)

    def _start_loading(self, models: list[Model], pause_s: float = 0.0) -> None:
        threading.Thread(
            target=self._load_all, args=(models, pause_s), name="model-loader", daemon=True
        ).start()

    def _load_all(self, models: list[Model], pause_s: float) -> None:
        for pause in itertools.chain([pause_s], backoff(RETRY_AFTER_S)):
            if self._stop.wait(pause):
                return
            for model in models:
                self._load(model, at_start=True)
            self.tried.set()
            models = [m for m in models if m.held is None and not m.on_demand and self._serves(m)]
            if not models:
                return

    def _serves(self, model: Model) -> bool:
        return self._serving.models.get(model.spec.id) is model

    def _load(self, model: Model, *, at_start: bool = False) -> Loaded | None:
        """Load a model and let it serve, or note why not.

        Raises ModelLoading and NoRoom where only the memory of others is in the way.
        """
        if at_start and not self._serves(model):
            return None
        spec = model.spec
        log.info("loading %s (%s)", spec.id, spec.model_name)
        try:
            loaded = self._placed(model, evict=not at_start)
        except (ModelLoading, NoRoom) as exc:
            model.on_demand = True
            log.info("%s is loaded at its next use: %s", spec.id, exc.message)
            if at_start:
                return None
            raise
        except Exception as exc:
            known, reason = model.reason, reason_of(exc)
            model.fail(reason)
            if reason != known:  # it is tried again and again: log each new reason once
                self._log_unavailable(model, reason, expected=isinstance(exc, ModelAbsent))
                if not isinstance(exc, ServiceError):
                    log.exception("model %s failed to load", spec.id)
            loaded = None
        if loaded is None:  # not inside `except`: there the exception holds what was loaded
            give_back_memory()
            return None
        with self._putting:
            if serves := self._serves(model):
                self._residency.put(model, loaded)
        if serves:
            self._log_loaded(model, loaded)
        else:  # those who waited for it still use it
            leave = Leaving.of(loaded).close
            threading.Thread(target=leave, name="model-free", daemon=True).start()
        return loaded

    def _placed(self, model: Model, *, evict: bool = True) -> Loaded:
        """Load a model and check that it encodes. Raises why it cannot, and then keeps nothing."""
        try:
            return self._residency.place(model, evict=evict)
        except Exception as exc:
            failure = meaning(exc)
            if isinstance(failure, DeviceBroken):  # no other call on that device succeeds either
                self.lost = f"{model.spec.id}: the model's device is lost: {failure}"
            del failure
            raise

    def _log_loaded(self, model: Model, loaded: Loaded) -> None:
        facts = loaded.facts
        if model.reason is not None:  # its provider's key is missing
            self._log_unavailable(model, model.reason, expected=True)
            return
        what = "%s is ready in %.1f s: %d dimensions, %s tokens, %s, %s"
        numbers = (loaded.load_s, facts.dimension, facts.max_tokens)
        log.info(what, model.spec.id, *numbers, facts.device, facts.dtype)

    def _log_unavailable(self, model: Model, reason: str, *, expected: bool) -> None:
        """Log why a model cannot be used.

        A file of models may name some that this machine has no key or no hub for: that is no fault,
        unless requests that name no model depend on it.
        """
        harmless = expected and model.spec.id != self.default.spec.id
        level = logging.INFO if harmless else logging.WARNING
        log.log(level, "model %s is unavailable: %s", model.spec.id, reason)

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
        """Load and check what these settings newly need. Raises Invalid and then keeps nothing.

        Needed are the default, and what is loaded now; what is unloaded is proved by its next use.
        """
        now = self._serving
        needed = {m.spec.id for m in now.models.values() if m.state == "ready"} | {default}
        models = [self._same(spec, settings, spec.id == default) for spec in specs]
        for model in models:
            if model.spec.id not in needed or _is_proved(model):
                continue
            if reason := self._try(model):
                name = model.spec.id
                leaving = leaving_of([each for each in models if not self._serves(each)])
                models.clear()
                del model  # whoever still refers to a model keeps it open
                free(leaving)
                raise Invalid(f"model {name!r} cannot be used: {reason}. Nothing was changed")
        return ModelSet.of(models, default, specs)

    def _same(self, spec: ModelSpec, settings: ModelSettings, must_be_ready: bool) -> Model:
        """Return the model that serves under this id, if these would load the same."""
        old = self._serving.models.get(spec.id)
        if old and old.loads_as(spec, settings) and (_is_proved(old) or not must_be_ready):
            return old
        new = Model(spec, settings)
        new.on_demand = new.on_demand or (old is not None and old.state == "unloaded")
        return new

    def _try(self, model: Model) -> str | None:
        """Load and check a model that does not serve yet; return why it cannot be used."""
        try:
            loaded = self._placed(model)
        except Exception as exc:
            return reason_of(exc)
        self._residency.put(model, loaded)
        self._log_loaded(model, loaded)
        return None

    def _switch_to(
        self, models: ModelSet, specs: Sequence[ModelSpec], settings: ModelSettings
    ) -> None:
        fresh = models.without(self._serving)
        with self._putting:
            self._serving = models
        for spec in specs:
            models.models[spec.id].limit(spec, settings)
        self._residency.watch()
        if missing := [model for model in fresh if model.state == "loading"]:
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
            left = before.without(now) + new.without(now)
            leaving = leaving_of(left)
            for model in left:
                if model.spec.id not in now.models:
                    metrics.MODEL_BYTES.labels(model.spec.id).set(0)
                del model
            left.clear()
            # Whoever refers to a model keeps it open.
            del before, now, new
            self._new = None
            free(leaving)
        finally:
            registry._exchanging.release()


def _is_proved(model: Model) -> bool:
    """Whether a model was loaded, and can be again, as far as is known."""
    return model.facts is not None and model.reason is None
