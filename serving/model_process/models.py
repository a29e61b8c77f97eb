"""The models of a model process: one for all who load the same, for as long as it is leased.

Of what is leased too it unloads what no worker has used for long, or what has to make room: only
this process knows both. A call that needs such a model loads it again, and waits.
"""

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import embedders
from config import Config, ModelSpec
from embedders.base import DeviceBroken
from embedders.device import meaning
from errors import ModelLoading, ModelUnavailable, NoRoom, ServiceError, Unavailable
from observability import metrics
from server import memory
from serving.encoder import Encoder, Limits
from serving.leaving import free, leaving_of
from serving.loader import reason_of
from serving.model import LOADED_BY, Loaded, Model, identity
from serving.model_process.frames import Head
from serving.model_process.values import pack_facts
from serving.residency import Residency

log = logging.getLogger("model_process")

# Settings that change while a model serves, or that `identity` covers together with its entry.
NOT_LOADED_BY = {*LOADED_BY, "max_batch_size", "max_queue_tokens", "interactive_p99_ms", "hf_token",
                 "models_memory_mb", "idle_unload_s"}  # fmt: skip


@dataclass(eq=False)
class Held:
    """A model that somebody leases or leased, and who uses it. Counts change under a lock."""

    key: str
    model: Model
    told: tuple[Head, Head | None] | None = None  # of it and how its inputs are prepared, if known
    leases: int = 0
    users: int = 0  # calls under way
    kept_until: float = 0.0  # without a lease, in time.monotonic()

    @property
    def name(self) -> str | None:
        """What a worker calls it: with the fingerprint, lest it get vectors of other files."""
        return None if self.told is None else str(self.told[0]["model"])

    @property
    def encoder(self) -> Encoder | None:
        """What encodes, while the model is loaded."""
        loaded = self.model.held
        return None if loaded is None else loaded.encoder


class Models:
    """The models by what they are loaded from. Safe from many threads."""

    def __init__(self, name: str, loaded: Callable[[], object]) -> None:
        """Take the process's name, for the log, and what is called after each good load."""
        self._name, self._loaded = name, loaded
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # two loads at once would need twice the memory
        self._held: dict[str, Held] = {}
        self._residency = Residency(embedders.build, self._load, embedders.size_of)
        self.lost: str | None = None  # the device that broke while a model was loaded

    @property
    def held(self) -> dict[str, Held]:
        """The models by key, also those that are being loaded or unloaded."""
        with self._lock:
            return dict(self._held)

    @property
    def fatal(self) -> str | None:
        """Why only a new process can help, or None."""
        encoders = [encoder for held in self.held.values() if (encoder := held.encoder) is not None]
        return self.lost or next((why for each in encoders if (why := each.health().fatal)), None)

    def lease(
        self, spec: ModelSpec, settings: Config, said: Head, stamp: object
    ) -> tuple[Held, Head, Head | None]:
        """Return a model that stays until `unlease`, what a worker is told of it, and its recipe.

        It is loaded unless it was before. `said` are the settings as they were sent; `stamp`
        changes with the files of a folder. Raises the ServiceError that says why it does not load.
        """
        own = {name: value for name, value in said.items() if name not in NOT_LOADED_BY}
        what = json.dumps([identity(spec, settings), own, stamp], sort_keys=True, default=str)
        key = hashlib.sha256(what.encode()).hexdigest()[:32]
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = Held(key, Model(spec, settings))
                held.model.on_demand = True
            held.leases += 1
        try:
            if held.told is None:
                loaded = self._residency.take(held.model, patience_s=None)
                held.told = _told(held, loaded)
                del loaded
        except ServiceError:
            with self._lock:
                held.leases -= 1
                if self._held.get(key) is held:
                    del self._held[key]  # whoever asks next tries again
            raise
        held.model.limit(spec, settings)
        return held, *held.told

    def unlease(self, held: Held, keep_s: float = 0.0) -> None:
        """End a lease. Without another the model is freed by `free_unleased`, after `keep_s`."""
        with self._lock:
            held.leases -= 1
            held.kept_until = time.monotonic() + keep_s

    def free_unleased(self) -> None:
        """Free what nobody leases or uses."""
        now = time.monotonic()
        with self._lock:
            leaving = [
                held
                for held in self._held.values()
                if not (held.leases or held.users or held.model.load) and held.kept_until <= now
            ]
            for held in leaving:
                del self._held[held.key]
        gone = leaving_of([held.model for held in leaving])
        for held in leaving:
            held.model.unload()
            name = held.model.spec.id
            same = [other.model for other in self.held.values() if other.model.spec.id == name]
            left = sum(model.memory_bytes or 0 for model in same if model.held)
            metrics.MODEL_BYTES.labels(name).set(left)
        if gone:
            free(gone)

    @contextlib.contextmanager
    def used(self, name: str, deadline: float | None = None) -> Iterator[Loaded]:
        """Keep a model while it is used, loaded if need be.

        Raises Unavailable where it is not leased by this name, and what `Residency.take` raises.
        """
        with self._lock:
            held = self._held.get(_key_of(name))
            if held is None or held.name != name:
                raise Unavailable("the model is being loaded again", retry_after_s=2)
            held.users += 1
        try:
            yield self._residency.take(held.model, deadline)
        finally:
            held.model.used_at = time.monotonic()
            with self._lock:
                held.users -= 1

    def limit(self, name: str, limits: Limits) -> None:
        """Change the limits of a model's passes and queue, also for when it is loaded again."""
        if held := self.held.get(_key_of(name)):
            held.model.limit(*limits.put_into(held.model.spec, held.model.settings))

    def keep(self, name: str, keep_s: float) -> None:
        """Take a worker's wish for when a model is unloaded."""
        if held := self.held.get(_key_of(name)):
            held.model.keep(keep_s)

    def _load(self, model: Model) -> Loaded:
        """Load a model for those who need it. Raises the ServiceError that says why not."""
        failure: ServiceError
        try:
            with self._loading:
                log.info("the model process %s loads %s", self._name, model.spec.id)
                again = model.facts is not None or model.spec.load == "first_use"
                loaded = self._residency.place(model, evict=again)
        except (ModelLoading, NoRoom) as exc:
            failure = exc
        except Exception as exc:
            failure = self._not_loaded(model.spec, exc)
            model.fail(failure.message)
        else:
            self._residency.put(model, loaded)
            memory.exempt_from_collection()
            self._loaded()
            return loaded
        with memory.exempting_nothing():  # not inside `except`: there it holds what was loaded
            memory.give_back_memory()
        raise failure

    def _not_loaded(self, spec: ModelSpec, exc: Exception) -> ServiceError:
        if isinstance(failure := meaning(exc), DeviceBroken):
            self.lost = f"{spec.id}: the model's device is lost: {failure}"
        if isinstance(exc, ServiceError):
            exc.__traceback__ = exc.__cause__ = exc.__context__ = None  # they hold what was loaded
            return exc
        log.error("%s failed to load", spec.id, exc_info=exc)
        return ModelUnavailable(reason_of(exc))


def _key_of(name: str) -> str:
    return name.partition("-")[0]


def _told(held: Held, loaded: Loaded) -> tuple[Head, Head | None]:
    """Return what a worker is told of a model, and the recipe by which it prepares inputs."""
    embedder = loaded.embedder
    recipe = embedder.preparer.recipe() if embedder.preparer is not None else None
    reply: Head = {
        "model": f"{held.key}-{embedder.facts.fingerprint}", "facts": pack_facts(embedder.facts),
        "portable": embedder.portable, "memory_bytes": embedder.memory_bytes,
    }  # fmt: skip
    return reply, recipe
