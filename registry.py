"""The configured models: their names, their states, and the thread that loads them.

Loading happens beside the service, the default model first, so that the port opens at once; one
that fails is `unavailable` with its reason, is tried again later, and never stops the others.
Hands out `Model`s; knows nothing of requests or HTTP.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from batcher import Batcher
from config import ModelSettings, ModelSpec
from embedders.base import Embedder, Encoded, Facts, Item
from errors import ModelLoading, ModelUnavailable, ServiceError, UnknownModel
from replicas import Replica, Replicas

log = logging.getLogger("models")

State = Literal["loading", "ready", "unavailable"]
Build = Callable[[ModelSpec, ModelSettings], Embedder]

# A model that failed (no network yet, a gated repository) is tried again after these seconds.
RETRY_AFTER_S = (30, 120, 600)
# Padded tokens of one pass. Larger passes gain nothing on a CPU and make others wait.
BATCH_TOKENS = {"cpu": 1024, "mps": 8192, "cuda": 16384}


class Lane(Protocol):
    """Where prepared inputs go to be encoded: a batcher, or the embedder itself."""

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Encode `items`, in order."""


@dataclass(frozen=True)
class Loaded:
    """A model that can encode: swapped as one reference, so no request mixes two."""

    embedder: Embedder
    lane: Lane
    load_s: float

    @property
    def facts(self) -> Facts:
        """What is known of the model."""
        return self.embedder.facts


class Model:
    """A configured model in whatever state it is."""

    def __init__(self, spec: ModelSpec, normalize: bool) -> None:
        self.spec = spec
        self.normalize = normalize
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
        return self._failure if self._loaded is None else self._loaded.embedder.obstacle()

    @property
    def loaded(self) -> Loaded:
        """Return what encodes. Raises ModelLoading or ModelUnavailable."""
        state = self.state
        if self._loaded is not None and state == "ready":
            return self._loaded
        if state == "loading":
            raise ModelLoading(f"model {self.spec.id!r} is still loading", retry_after_s=2)
        raise ModelUnavailable(f"model {self.spec.id!r} is unavailable: {self.reason}")

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

    def fail(self, reason: str) -> None:
        """Record why the model cannot be had."""
        self._failure = reason


class Registry:
    """Every configured model by every name it answers to."""

    def __init__(
        self, specs: Sequence[ModelSpec], default: str, settings: ModelSettings, build: Build
    ) -> None:
        self._settings = settings
        self._build = build
        self.models = {
            spec.id: Model(spec, settings.normalize if spec.normalize is None else spec.normalize)
            for spec in specs
        }
        self.default = self.models[default]
        self.names: dict[str, Model] = {}
        for rank in range(3):  # ids win over hub names, hub names over their last parts
            for model in self.models.values():
                names = (model.spec.id, model.spec.model_name, model.spec.names[-1])
                self.names.setdefault(names[rank], model)
        self._stop = threading.Event()

    def get(self, name: str | None) -> Model:
        """Return the model a request asks for; None means the default. Raises UnknownModel."""
        if name is None:
            return self.default
        try:
            return self.names[name]
        except KeyError:
            known = ", ".join(self.models)
            raise UnknownModel(
                f"unknown model {name[:128]!r}; available: {known}", param="model"
            ) from None

    def start(self) -> None:
        """Load every model in a thread of its own, the default first."""
        threading.Thread(target=self._load_all, name="model-loader", daemon=True).start()

    def load_now(self) -> None:
        """Load every model before returning (for tests and scripts)."""
        for model in self._in_order():
            self._load(model)

    def stop(self) -> None:
        """End the retries."""
        self._stop.set()

    def _in_order(self) -> list[Model]:
        others = [m for m in self.models.values() if m is not self.default]
        return [self.default, *others]

    def _load_all(self) -> None:
        waiting = self._in_order()
        for pause in (0, *RETRY_AFTER_S):
            if self._stop.wait(pause):
                return
            for model in waiting:
                self._load(model)
            waiting = [model for model in waiting if model.facts is None]
            if not waiting:
                return

    def _load(self, model: Model) -> None:
        spec = model.spec
        log.info("loading %s (%s)", spec.id, spec.model_name)
        started = time.monotonic()
        try:
            loaded = self.build(spec)
        except ServiceError as exc:
            model.fail(exc.message)
            log.warning("model %s is unavailable: %s", spec.id, exc.message)
        except Exception as exc:
            model.fail(f"it failed to load ({type(exc).__name__})")
            log.exception("model %s failed to load", spec.id)
        else:
            model.put(loaded)
            facts = loaded.facts
            log.info(
                "%s is ready in %.1f s: %d dimensions, %s tokens, %s, %s",
                spec.id,
                time.monotonic() - started,
                facts.dimension,
                facts.max_tokens,
                facts.device,
                facts.dtype,
            )

    def build(self, spec: ModelSpec) -> Loaded:
        """Build a model's embedder, or one a replica, and its lane. Raises ModelUnavailable."""
        started = time.monotonic()
        embedders = [(name, self._build(each, self._settings)) for name, each in replicas_of(spec)]
        lanes = [self._lane(spec, embedder) for _, embedder in embedders]
        lane: Lane = lanes[0]
        if len(lanes) > 1:
            pairs = zip(embedders, lanes, strict=True)
            lane = Replicas([Replica(name, each, its) for (name, each), its in pairs])
        return Loaded(embedders[0][1], lane, time.monotonic() - started)

    def _lane(self, spec: ModelSpec, embedder: Embedder) -> Lane:
        if not embedder.batched:
            return embedder
        kind = embedder.facts.device.partition(":")[0]
        return Batcher(
            embedder,
            max_tokens=self._settings.max_batch_tokens or BATCH_TOKENS.get(kind, 1024),
            max_items=spec.max_batch_size or self._settings.max_batch_size,
            max_queue_tokens=self._settings.max_queue_tokens,
        )


def replicas_of(spec: ModelSpec) -> list[tuple[str, ModelSpec]]:
    """Return the places where a model runs: one for each device and each address listed."""
    devices = [(f"{d}#{i}", {"device": d}) for i, d in enumerate(spec.devices)]
    addresses = [(url, {"base_url": url}) for url in spec.base_urls]
    places = [*devices, *addresses]
    return [(name, spec.model_copy(update=u)) for name, u in places] or [("", spec)]
