"""The models of a model process: one for all who load the same, for as long as it is leased."""

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import embedders
from config import Config, ModelSpec
from embedders.base import DeviceBroken, Embedder
from embedders.device import meaning
from errors import ModelUnavailable, ServiceError, Unavailable
from server import memory
from serving.checks import check
from serving.encoder import Encoder
from serving.loader import build_model, reason_of
from serving.model import LOADED_BY, identity
from serving.model_process.frames import Head

log = logging.getLogger("model_process")

# Settings that change while a model serves, or that `identity` covers together with its entry.
NOT_LOADED_BY = {*LOADED_BY, "max_batch_size", "max_queue_tokens", "hf_token"}


@dataclass(eq=False)
class Held:
    """A model that is loaded or being loaded, and who uses it. Counts change under a lock."""

    key: str
    embedder: Embedder | None = None
    encoder: Encoder | None = None
    error: ServiceError | None = None
    settled: threading.Event = field(default_factory=threading.Event)
    leases: int = 0
    users: int = 0  # calls under way
    kept_until: float = 0.0  # without a lease, in time.monotonic()

    def free(self) -> None:
        """Close the model and give its memory back."""
        encoder, self.encoder, self.embedder = self.encoder, None, None
        if encoder is not None:
            encoder.close()
        del encoder
        with memory.exempting_nothing():
            memory.give_back_memory()


class Models:
    """The models by what they are loaded from. Safe from many threads."""

    def __init__(self, name: str, loaded: Callable[[], object]) -> None:
        """Take the process's name, for the log, and what is called after each good load."""
        self._name, self._loaded = name, loaded
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # two loads at once would need twice the memory
        self._held: dict[str, Held] = {}
        self.lost: str | None = None  # the device that broke while a model was loaded

    @property
    def held(self) -> dict[str, Held]:
        """The models by key, also those that are being loaded."""
        with self._lock:
            return dict(self._held)

    @property
    def fatal(self) -> str | None:
        """Why only a new process can help, or None."""
        encoders = [held.encoder for held in self.held.values() if held.encoder is not None]
        return self.lost or next((why for each in encoders if (why := each.health().fatal)), None)

    def lease(
        self, spec: ModelSpec, settings: Config, said: Head, stamp: object
    ) -> tuple[Held, Embedder, Encoder]:
        """Return a model, loaded unless it is held already, that stays until `unlease`.

        `said` are the settings as they were sent; `stamp` changes with the files of a folder.
        Raises the ServiceError that says why it does not load.
        """
        own = {name: value for name, value in said.items() if name not in NOT_LOADED_BY}
        what = json.dumps([identity(spec, settings), own, stamp], sort_keys=True, default=str)
        key = hashlib.sha256(what.encode()).hexdigest()[:32]
        with self._lock:
            held = self._held.get(key)
            first = held is None
            if held is None:
                held = self._held[key] = Held(key)
            held.leases += 1
        if first:
            with self._loading:
                log.info("the model process %s loads %s", self._name, spec.id)
                self._fill(held, spec, settings)
            self._settle(held)
        held.settled.wait()
        if held.error is not None:
            self.unlease(held)
            raise held.error
        assert held.embedder is not None and held.encoder is not None
        return held, held.embedder, held.encoder

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
                if not (held.leases or held.users) and held.settled.is_set()
                and held.kept_until <= now
            ]  # fmt: skip
            for held in leaving:
                del self._held[held.key]
        for held in leaving:
            held.free()

    @contextlib.contextmanager
    def used(self, key: str) -> Iterator[tuple[Embedder, Encoder]]:
        """Keep a model while it is used. Raises Unavailable where it is not loaded."""
        with self._lock:
            held = self._held.get(key)
            if held is None or held.embedder is None or held.encoder is None or held.error:
                raise Unavailable("the model is being loaded again", retry_after_s=2)
            held.users += 1
        try:
            yield held.embedder, held.encoder
        finally:
            with self._lock:
                held.users -= 1

    def _fill(self, held: Held, spec: ModelSpec, settings: Config) -> None:
        """Load a model and check that it encodes, or note why it cannot be used."""
        try:
            loaded = build_model(spec, settings, embedders.build)
            held.embedder, held.encoder = loaded.embedder, loaded.encoder
            check(loaded.embedder)
        except Exception as exc:
            held.error = self._not_loaded(spec, exc)

    def _settle(self, held: Held) -> None:
        """Let a model that was loaded be used, and free what was not."""
        if held.error is None:
            memory.exempt_from_collection()
            self._loaded()
        else:
            with self._lock:
                del self._held[held.key]  # whoever asks next tries again
            held.free()
        held.settled.set()

    def _not_loaded(self, spec: ModelSpec, exc: Exception) -> ServiceError:
        if isinstance(failure := meaning(exc), DeviceBroken):
            self.lost = f"{spec.id}: the model's device is lost: {failure}"
        if isinstance(exc, ServiceError):
            exc.__traceback__ = exc.__cause__ = exc.__context__ = None  # they hold what was loaded
            return exc
        log.error("%s failed to load", spec.id, exc_info=exc)
        return ModelUnavailable(reason_of(exc))
