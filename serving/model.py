"""One model, in whatever state, and the set of models that serve at one time.

Knows the names that models answer to. `registry.py` exchanges them, `residency.py` loads them.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

from circuit_breaker import backoff
from config import ModelSettings, ModelSpec
from embedders.base import Embedder, Facts
from errors import ModelLoading, ModelUnavailable, ServiceError
from observability import metrics
from observability.names import public_name
from serving.encoder import Encoder, Limits

State = Literal["loading", "ready", "unavailable", "unloaded"]

# Settings that a model's own entry may override, and that decide how it is loaded.
LOADED_BY = ("device", "dtype", "backend", "max_seq_length", "normalize")
# What an entry says of when a model is loaded and how it is used: it is the same model.
SERVED_BY = ("aliases", "max_batch_size", "load", "idle_unload_s")
# Before each retry of a model that failed (no network yet, a gated repository), the last forever.
RETRY_AFTER_S = (30, 120, 600)


@dataclass(frozen=True)
class Loaded:
    """A model that can encode. A request refers to it, and it is closed only after that."""

    encoder: Encoder
    load_s: float

    @property
    def embedder(self) -> Embedder:
        """What prepares inputs: the first replica's, if there are several."""
        return self.encoder.embedder

    @property
    def facts(self) -> Facts:
        """Facts of the model."""
        return self.encoder.embedder.facts


@dataclass(eq=False)
class Load:
    """A load under way that requests wait for. Whoever waits has what was loaded from here."""

    ended: threading.Event = field(default_factory=threading.Event)
    loaded: Loaded | None = None
    error: ServiceError | None = None  # why not, if the model itself does not say


class Model:
    """A configured model, in whatever state. How it is loaded never changes."""

    def __init__(self, spec: ModelSpec, settings: ModelSettings) -> None:
        self.spec = spec
        self.settings = settings
        self.normalize = settings.normalize if spec.normalize is None else spec.normalize
        self.held: Loaded | None = None  # what was loaded, even if it cannot encode now
        self.on_demand = spec.load == "first_use"  # a request loads it where nothing is held
        self.load: Load | None = None  # under way, on demand
        self.memory_bytes: int | None = None  # of its weights, once they are known
        self.used_at = self.loaded_at = 0.0  # in time.monotonic()
        self.keep_s: float | None = None  # what a caller wished for `idle_unload_s`, if one did
        self._known: Facts | None = None  # of what was loaded last
        self._failure: str | None = None
        self._pauses, self._retry_at = backoff(RETRY_AFTER_S), 0.0

    @property
    def state(self) -> State:
        """Whether it can encode now; without its provider's key it is unavailable.

        An unloaded one is loaded by the next request for it.
        """
        held = self.held
        if held is not None and all(p.encoder.health().unloaded for p in held.encoder.places):
            return "unloaded"
        if held is None and (self.load is not None or self._failure is None):
            return "unloaded" if self.on_demand and self.load is None else "loading"
        return "ready" if self.reason is None else "unavailable"

    @property
    def reason(self) -> str | None:
        """Why it is unavailable, if it is."""
        held = self.held
        return self._failure if held is None else held.encoder.failing_reason()

    @property
    def public_reason(self) -> str | None:
        """The reason without what only admins may read: paths, files, hosts."""
        if self.reason is None:
            return None
        if self.held is None:
            return "it could not be loaded; the service's log says why"
        return "its provider has no key, or refuses it"

    @property
    def loaded(self) -> Loaded:
        """What encodes. Raises ModelLoading or ModelUnavailable."""
        return self.usable(self.held)

    def usable(self, loaded: Loaded | None) -> Loaded:
        """Return what is or was held if it can encode. Raises ModelLoading or ModelUnavailable."""
        reason = self._failure if loaded is None else loaded.embedder.not_ready_reason()
        if loaded is not None and reason is None:
            return loaded
        if reason is None:
            raise ModelLoading(f"model {public_name(self.spec.id)!r} is still loading")
        raise ModelUnavailable(
            f"model {self.spec.id!r} is unavailable: {reason}",
            short=f"model {public_name(self.spec.id)!r} is unavailable: {self.public_reason}",
            retry_after_s=max(1.0, self._retry_at - time.monotonic()) if self.on_demand else None,
        )

    @property
    def is_to_be_loaded(self) -> bool:
        """Whether a request for it has it loaded, now."""
        return self.held is None and self.on_demand and time.monotonic() >= self._retry_at

    @property
    def is_in_use(self) -> bool:
        """Whether a request refers to what is held."""
        return _references(self) > UNUSED

    @property
    def idle_unload_s(self) -> float | None:
        """After how long without a request it is unloaded, if ever.

        A caller may wish for another time, until it is unloaded, but only where there is one.
        """
        own = self.spec.idle_unload_s
        usual = self.settings.idle_unload_s if own is None else own
        return usual if usual is None or self.keep_s is None else self.keep_s

    @property
    def replicas(self) -> list[dict[str, object]] | None:
        """The state of each replica as JSON, if there are several."""
        held = self.held
        return held.encoder.status() if held else None

    @property
    def facts(self) -> Facts | None:
        """Facts of the model once it was loaded, also while it is unloaded."""
        held = self.held
        return held.facts if held is not None else self._known

    @property
    def is_without_gpu(self) -> bool:
        """Whether `cuda` was asked for, and it runs on the CPU as the machine has no GPU."""
        wanted = {self.spec.device or self.settings.device, *self.spec.devices}
        held = self.held
        return "cuda" in wanted and held is not None and held.facts.device == "cpu"

    def put(self, loaded: Loaded) -> None:
        """Serve from `loaded` from now on: one assignment."""
        self.used_at = self.loaded_at = time.monotonic()
        self.keep_s = None
        self._known, self.memory_bytes = loaded.facts, loaded.embedder.memory_bytes
        self.held = loaded
        self._failure, self._pauses, self._retry_at = None, backoff(RETRY_AFTER_S), 0.0
        metrics.MODEL_LOAD.labels(self.spec.id).set(loaded.load_s)

    def fail(self, reason: str) -> None:
        """Record why the model is unavailable. On demand it is tried again after a while."""
        self._failure = reason
        self._retry_at = time.monotonic() + next(self._pauses)

    def keep(self, keep_s: float) -> None:
        """Take a caller's wish for `idle_unload_s`, wherever the model is loaded."""
        self.keep_s = keep_s
        held = self.held
        for place in held.encoder.places if held else ():
            place.encoder.keep(keep_s)

    def unload(self) -> Loaded | None:
        """Hold nothing until the next request; return what was held."""
        self.on_demand = True
        held = self.held
        if held is not None:
            self._known = held.facts  # a pass may have changed them
        self.held = None
        return held

    def loads_as(self, spec: ModelSpec, settings: ModelSettings) -> bool:
        """Whether these would load the same model as this one."""
        return identity(self.spec, self.settings) == identity(spec, settings)

    def limit(self, spec: ModelSpec, settings: ModelSettings) -> None:
        """Take the limits of a spec and settings that load the same model."""
        self.spec, self.settings = spec, settings
        held = self.held
        for place in held.encoder.places if held else ():
            place.encoder.limit(Limits.of(spec, settings))


def _references(model: Any) -> int:
    held = model.held
    return sys.getrefcount(held)


# What `_references` counts of a model that no request refers to: a release of Python may count its
# own references otherwise.
UNUSED = _references(SimpleNamespace(held=object()))


def identity(spec: ModelSpec, settings: ModelSettings) -> list[object]:
    """Return what decides how a model is loaded, besides its files."""
    own = spec.model_dump(exclude={*LOADED_BY, *SERVED_BY})
    chosen = [(getattr(spec, name), getattr(settings, name)) for name in LOADED_BY]
    used = [shared if ours is None else ours for ours, shared in chosen]
    return [own, used, settings.model_cache_dir]


@dataclass(frozen=True)
class ModelSet:
    """The models that serve at one time. Replaced as one reference, so no request mixes two."""

    models: Mapping[str, Model]  # by id
    names: Mapping[str, Model]  # by every name they answer to
    default: Model  # of a request that names none

    @classmethod
    def of(
        cls, models: Sequence[Model], default: str, specs: Sequence[ModelSpec] = ()
    ) -> "ModelSet":
        """Return the set. Ids win over hub names, those over their last parts, and aliases last.

        `specs` are the models' entries, where they are newer than those the models were made of.
        """
        names: dict[str, Model] = {}
        pairs = list(zip(models, specs or [model.spec for model in models], strict=True))
        for rank in range(3):
            for model, spec in pairs:
                names.setdefault((spec.id, spec.model_name, spec.hub_name)[rank], model)
        for model, spec in pairs:
            for alias in spec.aliases:
                names.setdefault(alias, model)
        by_id = {model.spec.id: model for model in models}
        return cls(by_id, names, by_id[default])

    def without(self, other: "ModelSet") -> list[Model]:
        """Return the models that are not in `other`."""
        kept = {id(model) for model in other.models.values()}
        return [model for model in self.models.values() if id(model) not in kept]
