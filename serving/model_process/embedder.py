"""A model of the model process, as the engine of a worker sees it.

Inputs are prepared in the worker, by a copy of what the model's own process would prepare them
with, and else by that process. Passes are formed there, over all workers.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from circuit_breaker import backoff
from config import ModelSettings, ModelSpec
from embedders.base import Encoded, Gone, Input, Item, Pair, Preparer, Prompt, Token, Truncate
from embedders.tokens import preparer_of
from errors import ModelUnavailable, ServiceError, Unavailable
from observability import tracing
from server import slots
from serving.encoder import BatchHealth, Elsewhere, Encoder, Limits
from serving.loader import reason_of
from serving.model_process.client import ModelProcess
from serving.model_process.frames import Connection, Head, Malformed, Part, Parts
from serving.model_process.starting import AWAY, ENDS
from serving.model_process.values import pack_items, unpack_encoded, unpack_facts, unpack_items

log = logging.getLogger("model_process")

# Of the settings those by which a local model is loaded and served.
USED = ("device", "dtype", "backend", "cuda_graphs", "max_seq_length", "normalize",
        "max_batch_size", "max_batch_tokens", "encode_timeout_s", "max_queue_tokens",
        "interactive_p99_ms",
        "model_cache_dir", "allow_pickled_weights", "models_memory_mb",
        "idle_unload_s")  # fmt: skip
LIMIT_S = 5.0  # how long a change of limits may take
STOP_S = 0.5  # how long a pass under way may take when the service stops
RESTORE_PAUSES_S = (0.0, 2.0, 5.0, 30.0, 120.0)  # between two tries to load a model again


class ProcessEmbedder(Elsewhere):
    """A model that is loaded in a model process, for as long as this is not closed."""

    def __init__(
        self, process: ModelProcess, spec: ModelSpec, settings: ModelSettings, device: str
    ) -> None:
        """Load the model, if the process does not hold it yet. Raises ServiceError.

        `device` is what the process's device is called outside of it.
        """
        self.process, self._spec, self._settings = process, spec, settings
        self._device = device
        self._restoring = threading.Lock()
        self._lease: Connection | None = None
        self._closed = False
        self._problem: str | None = None  # why it cannot be loaded again
        self._pauses, self._retry_at = backoff(RESTORE_PAUSES_S), 0.0
        self.stopping_since: float | None = None
        self.health = BatchHealth()
        recipe = self._load()
        # Where it has to be loaded again later, others may have to make room.
        self._spec = spec.model_copy(update={"load": "first_use"})
        self.preparer: Preparer | None = preparer_of(recipe) if recipe else None
        process.keep(self)

    def encoder(self, spec: ModelSpec, settings: ModelSettings) -> Encoder:
        """Return the encoder of this model."""
        return ProcessEncoder(self)

    # -- loading ---------------------------------------------------------------------------------

    def _load(self) -> Head | None:
        """Lease the model, and return how its inputs are prepared. Raises ServiceError."""
        head: Head = {
            "spec": self._spec.model_dump(mode="json"),
            "settings": settings_of(self._settings),
            "stamp": stamp_of(self._spec.model_name),
        }
        lease, reply, parts = self.process.load(head)
        facts = unpack_facts(reply["facts"])
        if self._lease is not None and facts.fingerprint != self.facts.fingerprint:
            lease.close()
            raise ModelUnavailable(
                f"its files changed: its fingerprint was {self.facts.fingerprint} and is now "
                f"{facts.fingerprint}; reload the service to serve it as it is now"
            )
        if self._lease is not None:
            self._lease.close()
        self._lease, self._model = lease, str(reply["model"])
        self.facts = dataclasses.replace(facts, device=self._outside(facts.device))
        self.portable, self.memory_bytes = bool(reply["portable"]), reply["memory_bytes"]
        self._problem = None
        recipe: Head | None = json.loads(bytes(parts[0]))
        return recipe

    @property
    def ended(self) -> bool:
        """Whether the process that held the model ended, and it is time to load it again."""
        ended = self._lease is not None and self._lease.is_closed()
        served = not self._closed and self.stopping_since is None
        return ended and served and time.monotonic() >= self._retry_at

    def restore(self) -> None:
        """Load the model again if the process ended. Never raises."""
        with self._restoring:
            if not self.ended:
                return
            try:
                self._load()
            except Exception as exc:
                self._retry_at = time.monotonic() + next(self._pauses)
                why = exc.message if isinstance(exc, ServiceError) else reason_of(exc)
                if why != self._problem:
                    log.error("%s is not loaded again: %s", self._spec.id, why)
                self._problem = why
                self.health = BatchHealth(away=why)
                return
            self._pauses, self._retry_at = backoff(RESTORE_PAUSES_S), 0.0
            self.health = BatchHealth()
            log.info("%s is loaded again", self._spec.id)

    def show(self, status: Mapping[str, Head] | None) -> None:
        """Take what the process says of its models; None: it is away."""
        row = None if status is None else status.get(self._model)
        if row is None:
            process = self.process
            why = process.problem or self._problem or process.away or AWAY
            self.health = BatchHealth(away=why)
            return
        self.health = BatchHealth(
            failing=row["failing"], away=row["fatal"], busy_s=row["busy_s"],
            unloaded=row["unloaded"],
        )  # fmt: skip
        now = {"device": self._outside(row["device"]), "dtype": row["dtype"],
               "backend": row["backend"]}  # fmt: skip
        if any(getattr(self.facts, name) != value for name, value in now.items()):
            self.facts = dataclasses.replace(self.facts, **now)

    def close(self) -> None:
        """End the lease: the process frees the model if no other worker leases it."""
        self.process.forget(self)
        with self._restoring:
            self._closed = True
            if self._lease is not None:
                with contextlib.suppress(OSError, Malformed):  # its process ended
                    self._lease.call("release", {}, idle=_give_up)
                self._lease.close()

    def _outside(self, device: str) -> str:
        return self._device if device.startswith("cuda") else device

    # -- encoding --------------------------------------------------------------------------------

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return each input ready to encode. See `Embedder.prepare`."""
        if self.preparer is not None:
            return self.preparer.prepare(inputs, prompt, truncate)
        given = [each if isinstance(each, str) else list(each) for each in inputs]
        return self._prepared(given, prompt, truncate, pairs=False)

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return each pair ready to encode. See `Embedder.prepare_pairs`."""
        if self.preparer is not None:
            return self.preparer.prepare_pairs(pairs, prompt, truncate)
        return self._prepared(list(pairs), prompt, truncate, pairs=True)

    def prepare_chunks(
        self, documents: Sequence[Sequence[str]], prompt: Prompt, truncate: Truncate | None
    ) -> list[Item]:
        """Return each document ready to encode. See `Embedder.prepare_chunks`."""
        if self.preparer is not None:
            return self.preparer.prepare_chunks(documents, prompt, truncate)
        head: Head = {"model": self._model, "prompt": dataclasses.asdict(prompt),
                      "truncate": truncate}  # fmt: skip
        given = json.dumps([list(chunks) for chunks in documents]).encode()
        return unpack_items(*self._ask("prepare_chunks", head, given))

    def _prepared(
        self, inputs: Sequence[object], prompt: Prompt, truncate: Truncate, *, pairs: bool
    ) -> list[Item]:
        head: Head = {"model": self._model, "prompt": dataclasses.asdict(prompt),
                      "truncate": truncate, "pairs": pairs}  # fmt: skip
        return unpack_items(*self._ask("prepare", head, json.dumps(inputs).encode()))

    def _ask(self, operation: str, head: Head, *parts: Part) -> tuple[Head, Parts]:
        """Call what has no deadline of its own. The model may have to be loaded for it first."""
        return self.process.call(
            operation, head, *parts, limit_s=self._settings.encode_timeout_s, ended=self._is_stopped
        )

    def trial(self, text: str = "ok") -> list[Item]:
        """Return one short input, ready to encode, as the model itself makes it."""
        return unpack_items(*self._ask("trial", {"model": self._model, "text": text}))

    def terms(self, indices: Sequence[int]) -> list[str]:
        """Return the terms at these indices of a sparse vector. See `Embedder.terms`."""
        if hasattr(self.preparer, "terms"):
            return super().terms(indices)
        head: Head = {"model": self._model, "indices": list(map(int, indices))}
        terms: list[str] = self._ask("terms", head)[0]["terms"]
        return terms

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """Return the tokens of each whole input. See `Embedder.tokenize`."""
        if self.preparer is not None:
            return self.preparer.tokenize(inputs, prompt, special=special)
        head: Head = {"model": self._model, "prompt": dataclasses.asdict(prompt),
                      "special": special}  # fmt: skip
        _, parts = self._ask("tokenize", head, json.dumps(inputs).encode())
        return [[Token(*each) for each in tokens] for tokens in json.loads(bytes(parts[0]))]

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the text of each list of token ids. See `Embedder.detokenize`."""
        if self.preparer is not None:
            return self.preparer.detokenize(ids, skip_special=skip_special)
        head: Head = {"model": self._model, "skip_special": skip_special}
        given = json.dumps([list(map(int, each)) for each in ids]).encode()
        texts: list[str] = json.loads(bytes(self._ask("detokenize", head, given)[1][0]))
        return texts

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return what each prepared input asks for, encoded with those of all other workers."""
        if not items:
            return Encoded.dense(np.empty((0, self.facts.dimension), np.float32), [])
        if self.stopping_since is not None:
            raise Unavailable(ENDS, retry_after_s=2)
        head, parts = pack_items(items)
        began = time.monotonic()
        reply, rows = self.process.call(
            "encode", {**head, "model": self._model, "deadline": deadline}, *parts,
            deadline=deadline, gone=gone, ended=self._is_stopped,
        )  # fmt: skip
        queued_s, encode_s = (float(reply["times"].get(name, 0)) for name in ("queue", "encode"))
        tracing.note("queue", began, began + queued_s)
        tracing.note("encode", began + queued_s, began + queued_s + encode_s)
        return unpack_encoded(reply, rows)

    def limit(self, limits: Limits) -> None:
        """Change the limits of the model's passes and queue, for all workers."""
        self._spec, self._settings = limits.put_into(self._spec, self._settings)
        head = {"model": self._model, "limits": [*limits]}
        try:
            self.process.call("limit", head, limit_s=LIMIT_S)
        except ServiceError as exc:  # a new process is told when the model is loaded
            log.debug("%s is limited when it is loaded again (%s)", self._spec.id, exc.message)

    def keep(self, keep_s: float) -> None:
        """Wish that the model is unloaded after so long without a request of any worker."""
        head = {"model": self._model, "keep_s": keep_s if math.isfinite(keep_s) else None}
        try:
            self.process.call("keep", head, limit_s=LIMIT_S)
        except ServiceError as exc:
            log.debug("%s is unloaded as always (%s)", self._spec.id, exc.message)

    def _is_stopped(self) -> bool:
        since = self.stopping_since
        return since is not None and time.monotonic() - since > STOP_S


def _give_up() -> None:
    raise ConnectionError("the process does not answer; it frees the model by itself")


class ProcessEncoder(Encoder):
    """Encodes on a model process."""

    embedder: ProcessEmbedder

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return what `items` ask for. See `Encoder`."""
        with slots.away():
            return self.embedder.encode(items, deadline, gone)

    def health(self) -> BatchHealth:
        """Return how its passes go, as the process said last.

        Fatal is only that the service's code was replaced: a new worker has the new one.
        """
        changed = self.embedder.process.changed
        return BatchHealth(broken=changed) if changed else self.embedder.health

    def limit(self, limits: Limits) -> None:
        """Change the limits of a pass and of the queue."""
        self.embedder.limit(limits)

    def keep(self, keep_s: float) -> None:
        """Wish that the model is unloaded after so long without a request."""
        self.embedder.keep(keep_s)

    def stop(self) -> None:
        """Refuse what comes, and soon what waits."""
        self.embedder.stopping_since = time.monotonic()


def settings_of(settings: ModelSettings) -> Head:
    """Return the settings by which a model is loaded, as JSON."""
    said = settings.model_dump(mode="json", include=set(USED))
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    return {**said, "hf_token": token}


def stamp_of(name: str) -> list[object]:
    """Return what changes when the files of a model's folder do; nothing for a hub's name."""
    folder = Path(name)
    return [*sorted(_stamps(folder))] if folder.is_dir() else []


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            try:
                found = path.stat()
            except OSError:  # a link that leads nowhere, or a file that was just removed
                continue
            yield str(path.relative_to(folder)), found.st_size, found.st_mtime_ns
