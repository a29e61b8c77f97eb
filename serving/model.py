"""A model in whatever state it is, and all those served at one time.

Owns the names that models answer to and what a request holds while it encodes. Knows nothing of
how models are loaded or exchanged: that is `registry.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, Protocol

from config import ModelSettings, ModelSpec
from embedders.base import Embedder, Encoded, Facts, Item
from errors import ModelLoading, ModelUnavailable
from observability import metrics, tracing
from serving.batcher import Batcher
from serving.replicas import Replicas

State = Literal["loading", "ready", "unavailable"]

# Settings that a model may answer for itself in its own entry, and that decide how it is loaded.
LOADED_BY = ("device", "dtype", "backend", "max_seq_length", "normalize")


class Lane(Protocol):
    """Where prepared inputs go to be encoded: a batcher, replicas, or the embedder itself."""

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Encode `items`, in order."""


@dataclass(frozen=True)
class Loaded:
    """A model that can encode. Whoever refers to it may use it: it is closed only after that."""

    embedder: Embedder
    lane: Lane
    load_s: float

    def encode(
        self,
        items: Sequence[Item],
        deadline: float | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> Encoded:
        """Encode `items`, in order. Where requests wait, one whose caller is `gone` is dropped."""
        if isinstance(self.lane, Batcher | Replicas):
            return self.lane.encode(items, deadline, gone)
        with tracing.stage("encode"):
            return self.lane.encode(items, deadline)

    @property
    def facts(self) -> Facts:
        """What is known of the model."""
        return self.embedder.facts

    @property
    def lanes(self) -> Sequence[object]:
        """Every replica's lane, or the only one."""
        return self.lane.lanes if isinstance(self.lane, Replicas) else (self.lane,)

    @property
    def closable(self) -> Embedder | Replicas:
        """What is to be closed when nothing refers to this any more."""
        return self.lane if isinstance(self.lane, Replicas) else self.embedder


class Model:
    """A configured model in whatever state it is. How it is loaded never changes."""

    def __init__(self, spec: ModelSpec, settings: ModelSettings) -> None:
        self.spec = spec
        self.settings = settings
        self.normalize = settings.normalize if spec.normalize is None else spec.normalize
        self._failure: str | None = None
        self._loaded: Loaded | None = None

    @property
    def state(self) -> State:
        """Whether it can encode now: a missing key counts, and so does one that has come."""
        if self._loaded is None and self._failure is None:
            return "loading"
        return "ready" if self.reason is None else "unavailable"

    @property
    def reason(self) -> str | None:
        """Why it is unavailable, if it is."""
        if self._loaded is None:
            return self._failure
        if isinstance(self._loaded.lane, Replicas):  # of which one in trouble is left out
            return self._loaded.embedder.obstacle()
        return self._loaded.embedder.trouble()

    @property
    def trouble(self) -> str | None:
        """The same in short, without what an admin alone may know: paths, files, hosts."""
        if self.reason is None:
            return None
        if self._loaded is None:
            return "it could not be loaded; the service's log says why"
        return "its provider has no key, or refuses it"

    @property
    def held(self) -> Loaded | None:
        """What was loaded, even if it cannot encode just now."""
        return self._loaded

    @property
    def loaded(self) -> Loaded:
        """Return what encodes. Raises ModelLoading or ModelUnavailable."""
        obstacle = self._failure if self._loaded is None else self._loaded.embedder.obstacle()
        if self._loaded is not None and obstacle is None:
            return self._loaded
        if obstacle is None:
            raise ModelLoading(f"model {alias(self.spec.id)!r} is still loading", retry_after_s=2)
        raise ModelUnavailable(
            f"model {self.spec.id!r} is unavailable: {obstacle}",
            short=f"model {alias(self.spec.id)!r} is unavailable: {self.trouble}",
        )

    @property
    def replicas(self) -> list[dict[str, object]] | None:
        """The state of each replica, if there are several."""
        lane = self._loaded.lane if self._loaded else None
        return lane.status() if isinstance(lane, Replicas) else None

    @property
    def facts(self) -> Facts | None:
        """What is known of the model once it is loaded."""
        return self._loaded.facts if self._loaded else None

    def put(self, loaded: Loaded) -> None:
        """Serve from `loaded` from now on: one assignment."""
        self._loaded = loaded
        metrics.MODEL_LOAD.labels(self.spec.id).set(loaded.load_s)

    def fail(self, reason: str) -> None:
        """Record why the model cannot be had."""
        self._failure = reason

    def loads_as(self, spec: ModelSpec, settings: ModelSettings) -> bool:
        """Tell whether these would load what this model is."""
        return _identity(self.spec, self.settings) == _identity(spec, settings)

    def limit(self, spec: ModelSpec, settings: ModelSettings) -> None:
        """Take over the limits of a spec and settings that load the same."""
        self.spec, self.settings = spec, settings
        for lane in self._loaded.lanes if self._loaded else ():
            if isinstance(lane, Batcher):
                lane.limit(
                    max_items=spec.max_batch_size or settings.max_batch_size,
                    max_queue_tokens=settings.max_queue_tokens,
                )


def alias(name: str) -> str:
    """Return a model's name that tells no folder: of a path the last part, which is a name too."""
    is_path = name.startswith(("/", ".", "~")) or "\\" in name
    return (PurePath(name).name or name) if is_path else name


def _identity(spec: ModelSpec, settings: ModelSettings) -> list[object]:
    own = spec.model_dump(exclude={*LOADED_BY, "max_batch_size"})
    chosen = [getattr(spec, name) for name in LOADED_BY]
    shared = [getattr(settings, name) for name in LOADED_BY]
    used = [s if c is None else c for c, s in zip(chosen, shared, strict=True)]
    return [own, used, settings.model_cache_dir]


@dataclass(frozen=True)
class LineUp:
    """The models served at one time: replaced as one reference, so no request mixes two."""

    models: Mapping[str, Model]  # by id
    names: Mapping[str, Model]  # by every name they answer to
    default: Model  # of a request that names none

    @classmethod
    def of(cls, models: Sequence[Model], default: str) -> "LineUp":
        """Arrange models by every name: ids win over hub names, hub names over their last parts."""
        names: dict[str, Model] = {}
        for rank in range(3):
            for model in models:
                spec = model.spec
                names.setdefault((spec.id, spec.model_name, spec.names[-1])[rank], model)
        by_id = {model.spec.id: model for model in models}
        return cls(by_id, names, by_id[default])

    def without(self, other: "LineUp") -> list[Model]:
        """Return the models that `other` does not have."""
        kept = {id(model) for model in other.models.values()}
        return [model for model in self.models.values() if id(model) not in kept]
