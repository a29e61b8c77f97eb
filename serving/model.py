"""One model, in whatever state, and the set of models that serve at one time.

Knows the names that models answer to. `registry.py` loads and exchanges them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from config import ModelSettings, ModelSpec
from embedders.base import Embedder, Facts
from errors import ModelLoading, ModelUnavailable
from observability import metrics
from serving.encoder import Encoder

State = Literal["loading", "ready", "unavailable"]

# Settings that a model's own entry may override, and that decide how it is loaded.
LOADED_BY = ("device", "dtype", "backend", "max_seq_length", "normalize")


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


class Model:
    """A configured model, in whatever state. How it is loaded never changes."""

    def __init__(self, spec: ModelSpec, settings: ModelSettings) -> None:
        self.spec = spec
        self.settings = settings
        self.normalize = settings.normalize if spec.normalize is None else spec.normalize
        self.held: Loaded | None = None  # what was loaded, even if it cannot encode now
        self._failure: str | None = None

    @property
    def state(self) -> State:
        """Whether it can encode now; without its provider's key it is unavailable."""
        if self.held is None and self._failure is None:
            return "loading"
        return "ready" if self.reason is None else "unavailable"

    @property
    def reason(self) -> str | None:
        """Why it is unavailable, if it is."""
        return self._failure if self.held is None else self.held.encoder.failing_reason()

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
        loaded = self.held
        reason = self._failure if loaded is None else loaded.embedder.not_ready_reason()
        if loaded is not None and reason is None:
            return loaded
        if reason is None:
            raise ModelLoading(f"model {public_name(self.spec.id)!r} is still loading")
        raise ModelUnavailable(
            f"model {self.spec.id!r} is unavailable: {reason}",
            short=f"model {public_name(self.spec.id)!r} is unavailable: {self.public_reason}",
        )

    @property
    def replicas(self) -> list[dict[str, object]] | None:
        """The state of each replica as JSON, if there are several."""
        return self.held.encoder.status() if self.held else None

    @property
    def facts(self) -> Facts | None:
        """Facts of the model once it is loaded."""
        return self.held.facts if self.held else None

    def put(self, loaded: Loaded) -> None:
        """Serve from `loaded` from now on: one assignment."""
        self.held = loaded
        metrics.MODEL_LOAD.labels(self.spec.id).set(loaded.load_s)

    def fail(self, reason: str) -> None:
        """Record why the model is unavailable."""
        self._failure = reason

    def loads_as(self, spec: ModelSpec, settings: ModelSettings) -> bool:
        """Whether these would load the same model as this one."""
        return _identity(self.spec, self.settings) == _identity(spec, settings)

    def limit(self, spec: ModelSpec, settings: ModelSettings) -> None:
        """Take the limits of a spec and settings that load the same model."""
        self.spec, self.settings = spec, settings
        for place in self.held.encoder.places if self.held else ():
            place.encoder.limit(
                max_items=spec.max_batch_size or settings.max_batch_size,
                max_queue_tokens=settings.max_queue_tokens,
            )


def public_name(name: str) -> str:
    """Return a model's name without folders: the last part of a path, which is a name too."""
    is_path = name.startswith(("/", ".", "~")) or "\\" in name
    return (PurePath(name).name or name) if is_path else name


def _identity(spec: ModelSpec, settings: ModelSettings) -> list[object]:
    own = spec.model_dump(exclude={*LOADED_BY, "max_batch_size"})
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
    def of(cls, models: Sequence[Model], default: str) -> "ModelSet":
        """Return the set. Ids win over hub names, and hub names over their last parts."""
        names: dict[str, Model] = {}
        for rank in range(3):
            for model in models:
                spec = model.spec
                names.setdefault((spec.id, spec.model_name, spec.names[-1])[rank], model)
        by_id = {model.spec.id: model for model in models}
        return cls(by_id, names, by_id[default])

    def without(self, other: "ModelSet") -> list[Model]:
        """Return the models that are not in `other`."""
        kept = {id(model) for model in other.models.values()}
        return [model for model in self.models.values() if id(model) not in kept]
