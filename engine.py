"""Texts and a model's name in, vectors and their cost out: the one way to embed for all dialects.

A text that the cache holds is neither tokenized nor encoded. Any other is encoded once, however
often the request holds it and however many requests ask for it at the same moment. How a model is
loaded and how batches form is `serving/`; where vectors are kept is `cache/`.
"""

import functools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cache import Cache, Entry, keys_of, pack, unpack
from embedders.base import Gone, Input, Prompt, Truncate, Vectors
from errors import BadRequest, DeadlineExceeded, ServiceError
from observability import metrics, tracing
from server import slots
from serving.model import Loaded, Model
from serving.registry import Registry

# Wait for another request's vectors only if it encodes at most this many times as many texts: else
# a lone query whose text is part of a bulk load is encoded again, which is faster.
PATIENCE = 64


@dataclass(frozen=True)
class EmbedRequest:
    """What to embed and how. None means the default of the model or of the service."""

    inputs: Sequence[Input]
    model: str | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    truncate: Truncate | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    role: str | None = None  # the side of a retrieval, or another use, as clients name it
    deadline: float | None = None  # a time.monotonic() value
    gone: Gone | None = None  # whether the caller hung up


@dataclass(frozen=True)
class Embedded:
    """Vectors (n, d) float32 in the order of the inputs, and what they cost."""

    vectors: Vectors
    model: Model
    loaded: Loaded
    tokens: int
    truncated: int  # inputs that were cut
    hits: int  # inputs whose vector was in the cache, or was being made for another request
    took_ms: float


class Rows(NamedTuple):
    """Vectors (n, d) as the model made them, and each input's tokens and whether it was cut."""

    vectors: Vectors
    tokens: Sequence[int]
    truncated: Sequence[bool]


Encode = Callable[[Sequence[int]], Rows]  # encodes the inputs at these places of a request


class Engine:
    """Embeds on any of the registry's models, with or without a cache. Safe from many threads."""

    def __init__(
        self, registry: Registry, truncate: Truncate = "auto", cache: Cache | None = None
    ) -> None:
        self.registry = registry
        self.truncate: Truncate = truncate
        self._cache = cache
        self._lock = threading.Lock()
        self._in_flight: dict[bytes, InFlight] = {}  # by the keys that each request encodes

    def embed(self, request: EmbedRequest) -> Embedded:
        """Embed the inputs of one request.

        Raises UnknownModel, ModelLoading, ModelUnavailable, BadRequest, InputTooLong, QueueFull,
        DeadlineExceeded, ProviderError. An input at fault is the error's `index`.
        """
        started = time.monotonic()
        model = self.registry.get(request.model)
        loaded = model.loaded  # one reference for the whole request: an exchange never mixes models
        facts = loaded.facts
        _check_dimensions(request.dimensions, facts.dimension)
        prompt = loaded.embedder.prompt(request.prompt_name, request.prompt, request.role)
        truncate = request.truncate or self.truncate
        tracing.describe(model=model.spec.id, texts=len(request.inputs))
        encode = functools.partial(_encode, loaded, request, prompt, truncate)
        if self._cache is None:
            rows, hits = encode(range(len(request.inputs))), 0
        else:
            keys = keys_of(facts, prompt, truncate, request.inputs)
            rows, hits = self._recall(self._cache, keys, facts.dimension, encode, request.deadline)
        tokens, truncated = sum(rows.tokens), sum(rows.truncated)
        tracing.describe(tokens=tokens)
        metrics.TRUNCATED.labels(model.spec.id).inc(truncated)
        _check_dimensions(request.dimensions, rows.vectors.shape[1])
        own = model.normalize or facts.normalizes
        normalize = own if request.normalize is None else request.normalize
        vectors = finish(rows.vectors, request.dimensions, normalize)
        took_ms = (time.monotonic() - started) * 1000
        return Embedded(vectors, model, loaded, tokens, truncated, hits, took_ms)

    def _recall(
        self, cache: Cache, keys: Sequence[bytes], dimension: int, encode: Encode,
        deadline: float | None,
    ) -> tuple[Rows, int]:  # fmt: skip
        """Return the row of each key, and how many of them were not encoded for this request."""
        places: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)

        def encoded(keys: Iterable[bytes], own: InFlight | None = None) -> dict[bytes, Entry]:
            missing = [key for key in keys if key not in hits]
            if not missing:
                return {}
            rows = map(Entry, *encode([places[key] for key in missing]))
            entries = dict(zip(missing, rows, strict=True))
            if own is not None:
                own.end(entries)
            sound = {key: each for key, each in entries.items() if np.isfinite(each.vector).all()}
            cache.put({key: pack(key, entry) for key, entry in sound.items()})
            return entries

        own, others = self._claim(places)
        try:
            with tracing.stage("cache"):
                hits = _look_up(cache, own.keys, dimension)
            own.looked_up(hits)
            made = encoded(own.keys, own)
        finally:
            self._release(own)
        for other, shared in others.items():
            hits |= other.wait(shared, deadline, len(places))
        # The other requests may have failed, or encode too many texts to wait for.
        made |= encoded(key for key in places if key not in made)
        count = sum(key in hits for key in keys)
        metrics.CACHE.labels("hit").inc(count)
        metrics.CACHE.labels("miss").inc(len(keys) - count)
        known = hits | made
        entries = [known[key] for key in keys]
        vectors = np.empty((len(keys), len(entries[0].vector) if keys else dimension), np.float32)
        for row, entry in enumerate(entries):
            vectors[row] = entry.vector
        return Rows(vectors, [e.tokens for e in entries], [e.truncated for e in entries]), count

    def _claim(self, keys: Iterable[bytes]) -> tuple["InFlight", dict["InFlight", list[bytes]]]:
        """Claim the keys that no request encodes now. Returns them, and who has the others."""
        own = InFlight()
        others: dict[InFlight, list[bytes]] = {}
        with self._lock:
            for key in keys:
                holder = self._in_flight.setdefault(key, own)
                (own.keys if holder is own else others.setdefault(holder, [])).append(key)
        return own, others

    def _release(self, own: "InFlight") -> None:
        """Release the claimed keys. Requests that still wait get the rows so far."""
        own.looked.set()
        own.ended.set()
        with self._lock:
            for key in own.keys:
                del self._in_flight[key]


@dataclass(eq=False)
class InFlight:
    """The keys that one request looks up and encodes, and their rows for others that want them.

    A key is released only after its value is in the cache, so a later request finds it there.
    """

    keys: list[bytes] = field(default_factory=list)
    rows: dict[bytes, Entry] = field(default_factory=dict)
    missing: int = 0  # keys that were not in the cache
    looked: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def looked_up(self, found: dict[bytes, Entry]) -> None:
        """Share what the cache held."""
        self.rows, self.missing = dict(found), len(self.keys) - len(found)
        self.looked.set()

    def end(self, rows: dict[bytes, Entry]) -> None:
        """Share what was encoded."""
        self.rows = self.rows | rows
        self.ended.set()

    def wait(self, keys: Sequence[bytes], deadline: float | None, size: int) -> dict[bytes, Entry]:
        """Return those of these keys' entries that exist, for a request of `size` texts.

        Raises DeadlineExceeded.
        """
        _wait(self.looked, deadline)
        if self.missing <= PATIENCE * size and any(key not in self.rows for key in keys):
            _wait(self.ended, deadline)
        return {key: self.rows[key] for key in keys if key in self.rows}


def _wait(event: threading.Event, deadline: float | None) -> None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    with slots.away():
        ended = event.wait(left)
    if not ended:
        raise DeadlineExceeded("the request's deadline passed while it waited")


def _look_up(cache: Cache, keys: Sequence[bytes], dimension: int) -> dict[bytes, Entry]:
    """Return what the cache holds of these keys. What is damaged is dropped there."""
    if not dimension:  # of a remote model before its first reply
        return {}
    values = zip(keys, cache.get(keys), strict=True)
    kept = {key: value for key, value in values if value is not None}
    found = unpack(kept, dimension)
    if damaged := [key for key in kept if key not in found]:
        metrics.CACHE.labels("damaged").inc(len(damaged))
        cache.drop(damaged)
    return found


def _encode(
    loaded: Loaded, request: EmbedRequest, prompt: Prompt, truncate: Truncate, places: Sequence[int]
) -> Rows:
    try:
        with tracing.stage("tokenize"):
            inputs = [request.inputs[place] for place in places]
            items = loaded.embedder.prepare(inputs, prompt, truncate)
        encoded = loaded.encoder.encode(items, request.deadline, request.gone)
    except ServiceError as exc:
        if exc.index is not None:
            exc.index = places[exc.index]
        raise
    return Rows(encoded.vectors, encoded.tokens, [item.truncated for item in items])


def _check_dimensions(dimensions: int | None, most: int) -> None:
    if dimensions is not None and most and dimensions > most:  # 0: not known yet
        raise BadRequest(
            f"dimensions {dimensions} is more than the {most} of this model", param="dimensions"
        )


def finish(vectors: Vectors, dimensions: int | None, normalize: bool) -> Vectors:
    """Return (n, d) vectors cut to `dimensions` columns, and of length 1 if asked.

    A shortened vector of a normalised space is normalised again, as Matryoshka models need.
    """
    cut = vectors if dimensions is None else np.ascontiguousarray(vectors[:, :dimensions])
    if not normalize:
        return cut
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    scaled: Vectors = cut / np.maximum(lengths, np.float32(1e-12))
    return scaled
