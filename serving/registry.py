"""The configured models: the thread that loads them, and their exchange while they serve.

Loading happens beside the service, the default model first, so that the port opens at once; one
that fails is `unavailable` with its reason, is tried again later, and never stops the others.
Hands out `Model`s; knows nothing of requests or HTTP.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from config import ModelSettings, ModelSpec
from embedders.base import DeviceBroken
from embedders.device import meaning
from errors import Conflict, Invalid, ServiceError, UnknownModel
from serving.loader import Build, build_model, reason_of
from serving.model import Lane, LineUp, Loaded, Model, alias
from serving.retire import Leaving, check, free, give_back_memory

__all__ = ["Build", "Lane", "LineUp", "Loaded", "Model", "Registry"]

log = logging.getLogger("models")

# A model that failed (no network yet, a gated repository) is tried again after these seconds, and
# again and again after the last.
RETRY_AFTER_S = (30, 120, 600)
DIED = (
    "the process before this one died while it loaded its models, for want of memory perhaps "
    "(the kernel's log tells); they are loaded {:.0f} s after the start"
)


@dataclass(frozen=True)
class _Candidate:
    """A line-up that is loaded and checked but does not serve yet."""

    line_up: LineUp
    specs: Sequence[ModelSpec]
    settings: ModelSettings


class Registry:
    """Every configured model by every name it answers to."""

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        default: str,
        settings: ModelSettings,
        build: Build,
    ) -> None:
        self._build = build
        self._line_up = LineUp.of([Model(spec, settings) for spec in specs], default)
        self._exchanging = threading.Lock()
        self._putting = threading.Lock()  # over "is this model still served? then put it"
        self._stop = threading.Event()
        self.lost: str | None = None  # the device that broke while a model was loaded
        self.tried = threading.Event()  # each model has been loaded, or found unavailable

    @property
    def models(self) -> Mapping[str, Model]:
        """The models by id."""
        return self._line_up.models

    @property
    def default(self) -> Model:
        """The model of a request that names none."""
        return self._line_up.default

    @property
    def names(self) -> Mapping[str, Model]:
        """The models by every name they answer to."""
        return self._line_up.names

    def get(self, name: str | None) -> Model:
        """Return the model a request asks for; None means the default. Raises UnknownModel."""
        line_up = self._line_up
        if name is None:
            return line_up.default
        try:
            return line_up.names[name]
        except KeyError:
            known = ", ".join(map(alias, line_up.models))
            raise UnknownModel(
                f"unknown model {name[:128]!r}; available: {known}", param="model"
            ) from None

    # -- loading --------------------------------------------------------------------------------

    def start(self, pause_s: float = 0.0) -> None:
        """Load every model in a thread of its own, the default first, `pause_s` from now."""
        models = self._in_order(self._line_up)
        if pause_s:
            log.warning(DIED.format(pause_s))
        for model in models if pause_s else ():
            model.fail(DIED.format(pause_s))
        self._start_loading(models, pause_s)

    def load_now(self) -> None:
        """Load every model before returning (for tests and scripts)."""
        for model in self._in_order(self._line_up):
            self._load(model)

    def stop(self) -> None:
        """End the retries."""
        self._stop.set()

    def build(self, spec: ModelSpec, settings: ModelSettings) -> Loaded:
        """Build an embedder and the lane its requests take. Raises ModelUnavailable."""
        return build_model(spec, settings, self._build)

    @staticmethod
    def _in_order(line_up: LineUp) -> list[Model]:
        others = [m for m in line_up.models.values() if m is not line_up.default]
        return [line_up.default, *others]

    def _start_loading(self, models: list[Model], pause_s: float = 0.0) -> None:
        threading.Thread(
            target=self._load_all, args=(models, pause_s), name="model-loader", daemon=True
        ).start()

    def _load_all(self, models: list[Model], pause_s: float) -> None:
        for_ever = itertools.repeat(RETRY_AFTER_S[-1])
        for pause in itertools.chain((pause_s, *RETRY_AFTER_S), for_ever):
            if self._stop.wait(pause):
                return
            for model in models:
                self._load(model)
            self.tried.set()
            models = [m for m in models if m.held is None and self._serves(m)]
            if not models:
                return

    def _serves(self, model: Model) -> bool:
        return self._line_up.models.get(model.spec.id) is model

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
            if reason != known:  # it is tried for ever: one line for each new reason is enough
                log.warning("model %s is unavailable: %s", spec.id, reason)
                if not isinstance(exc, ServiceError):
                    log.exception("model %s failed to load", spec.id)
            loaded = None
        if loaded is None:  # outside of `except`: there the exception holds what was loaded
            give_back_memory()
            return
        with self._putting:
            if serves := self._serves(model):
                model.put(loaded)
        if serves:
            _tell(model, loaded)
        else:
            loaded.closable.close()

    def _checked(self, model: Model) -> Loaded:
        """Load a model and see it encode. Raises what says why it cannot; then nothing is kept."""
        loaded: Loaded | None = None
        try:
            loaded = self.build(model.spec, model.settings)
            check(loaded.embedder)
            return loaded
        except Exception as exc:
            failure = meaning(exc)
            if isinstance(failure, DeviceBroken):  # first: on such a device nothing else succeeds
                self.lost = f"{model.spec.id}: the model's device is lost: {failure}"
            del failure
            if loaded is not None:
                loaded.closable.close()
            raise

    # -- exchanging -----------------------------------------------------------------------------

    @contextmanager
    def exchange(
        self, specs: Sequence[ModelSpec], default: str, settings: ModelSettings
    ) -> Iterator[Callable[[], None]]:
        """Load the models of these settings beside those that serve; the block decides.

        Gives a function that makes them serve, by one assignment between two requests. A block
        that ends without calling it changes nothing. Models that stay the same stay loaded. What
        serves no more is closed at the end, once the requests on it are done. Raises Conflict
        while another exchange runs, Invalid with the reason if a model does not load or is wrong.
        """
        if not self._exchanging.acquire(blocking=False):
            raise Conflict("the models are being changed already; send this when that is done")
        try:
            before = self._line_up
            candidates = [self._candidate(specs, default, settings)]
            try:
                yield lambda: self._take(candidates[0])
            finally:
                now = self._line_up
                gone = before.without(now) + candidates[0].line_up.without(now)
                leaving = _leaving(gone)
                candidates.clear()
                del before, now, gone  # whoever still refers to a model keeps it open
                free(leaving)
        finally:
            self._exchanging.release()

    def _candidate(
        self, specs: Sequence[ModelSpec], default: str, settings: ModelSettings
    ) -> _Candidate:
        """Load and check what these settings newly need. Raises Invalid; then nothing is kept."""
        now = self._line_up
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
        return _Candidate(LineUp.of(models, default), specs, settings)

    def _same(self, spec: ModelSpec, settings: ModelSettings, must_be_ready: bool) -> Model:
        """Return the model that serves under this id, if these would load the same."""
        old = self._line_up.models.get(spec.id)
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
        _tell(model, loaded)
        return None

    def _take(self, candidate: _Candidate) -> None:
        fresh = candidate.line_up.without(self._line_up)
        with self._putting:
            self._line_up = candidate.line_up
        for spec in candidate.specs:
            candidate.line_up.models[spec.id].limit(spec, candidate.settings)
        if missing := [model for model in fresh if model.held is None]:
            self._start_loading(missing)


def _leaving(models: Sequence[Model]) -> list[Leaving]:
    """Note what to close of models that serve no more; keeps no reference to them."""
    held = [model.held for model in models if model.held is not None]
    return [Leaving(loaded, loaded.closable) for loaded in held]


def _tell(model: Model, loaded: Loaded) -> None:
    facts = loaded.facts
    if model.reason is not None:
        log.warning("model %s is unavailable: %s", model.spec.id, model.reason)
        return
    log.info(
        "%s is ready in %.1f s: %d dimensions, %s tokens, %s, %s",
        model.spec.id,
        loaded.load_s,
        facts.dimension,
        facts.max_tokens,
        facts.device,
        facts.dtype,
    )
