"""A model in whatever state it is, and all those served at one time.

Owns the names that models answer to and what a request holds while it encodes. Knows nothing of
how models are loaded or exchanged: that is `registry.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import metrics
from batcher import Batcher
from config import ModelSettings, ModelSpec
from embedders.base import Embedder, Encoded, Facts, Item
from errors import ModelLoading, ModelUnavailable

State = Literal["loading", "ready", "unavailable"]

# Settings that a model may answer for itself in its own entry, and that decide how it is loaded.
LOADED_BY = ("device", "dtype", "backend", "max_seq_length", "normalize")


class Lane(Protocol):
    """Where prepared inputs go to be encoded: a batcher, or the embedder itself."""

    def encode(
        self,
        items: Sequence[Item],
        deadline: float | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> Encoded:
        """Encode `items`, in order, unless the deadline passes or the caller is gone first."""


@dataclass(frozen=True)
class Direct:
    """The lane of an embedder that is not batched: straight through."""

    embedder: Embedder

    def encode(
        self,
        items: Sequence[Item],
        deadline: float | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> Encoded:
        """Encode `items`, in order."""
        return self.embedder.encode(items, deadline)


@dataclass(frozen=True)
class Loaded:
    """A model that can encode. Whoever refers to it may use it: it is closed only after that."""

    embedder: Embedder
    lane: Lane
    load_s: float

    @property
    def facts(self) -> Facts:
        """What is known of the model."""
        return self.embedder.facts


class Model:
    """A configured model in whatever state it is. How it is loaded never changes."""

    def __init__(self, spec: ModelSpec, settings: ModelSettings) -> None:
        self.spec = spec
        self.settings = settings
        self.normalize = settings.normalize if spec.normalize is None else spec.normalize
        self.state: State = "loading"
        self.reason: str | None = None
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """Return what encodes. Raises ModelLoading or ModelUnavailable."""
        if self._loaded is not None:
            return self._loaded
        if self.state == "loading":
            raise ModelLoading(f"model {self.spec.id!r} is still loading", retry_after_s=2)
        raise ModelUnavailable(f"model {self.spec.id!r} is unavailable: {self.reason}")

    @property
    def facts(self) -> Facts | None:
        """What is known of the model once it is loaded."""
        return self._loaded.facts if self._loaded else None

    def put(self, loaded: Loaded) -> None:
        """Serve from `loaded` from now on: one assignment."""
        self._loaded = loaded
        self.state, self.reason = "ready", None
        metrics.MODEL_READY.labels(self.spec.id).set(1)
        metrics.MODEL_LOAD.labels(self.spec.id).set(loaded.load_s)

    def fail(self, reason: str) -> None:
        """Record why the model cannot be had."""
        self.state, self.reason = "unavailable", reason
        metrics.MODEL_READY.labels(self.spec.id).set(0)

    def loads_as(self, spec: ModelSpec, settings: ModelSettings) -> bool:
        """Tell whether these would load what this model is."""
        return _identity(self.spec, self.settings) == _identity(spec, settings)

    def limit(self, spec: ModelSpec, settings: ModelSettings) -> None:
        """Take over the limits of a spec and settings that load the same."""
        self.spec, self.settings = spec, settings
        if self._loaded is not None and isinstance(self._loaded.lane, Batcher):
            self._loaded.lane.limit(
                max_items=spec.max_batch_size or settings.max_batch_size,
                max_queue_tokens=settings.max_queue_tokens,
            )


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
