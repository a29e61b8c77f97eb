"""Vectors that were computed before, and the order of the steps where some were and some were not.

What is found in the cache costs no tokenizing and no pass; what is not is encoded once, however
often it stands in the request and however many requests ask for it at the same moment. Owns which
requests are under way (`_Flight`); knows nothing of HTTP, of how models encode or of where a cache
keeps its bytes. Called by the engine, with `Direct` in its place where there is no cache.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cache import Cache, Entry, keys_of, pack, unpack
from embedders.base import Input, Prompt, Truncate, Vectors
from errors import DeadlineExceeded, Invalid, ServiceError
from observability import metrics, tracing
from server import turns
from serving.model import Loaded

# A request does not wait for another one's pass over more than so many times its own texts: a lone
# query whose text a bulk load happens to hold is sooner encoded again.
PATIENCE = 64


@dataclass(frozen=True)
class Ask:
    """Inputs, and all that decides their vectors."""

    loaded: Loaded
    inputs: Sequence[Input]
    prompt: Prompt
    truncate: Truncate
    deadline: float | None = None  # a time.monotonic() value
    gone: Callable[[], bool] | None = None  # whether the caller hung up


@dataclass(frozen=True)
class Answer:
    """Vectors (n, d) float32 as the model made them, and what is told of the inputs."""

    vectors: Vectors
    tokens: int
    truncated: int
    hits: int = 0  # inputs whose vector was there, or was being made for someone else


class Encoder(Protocol):
    """What the engine asks for vectors."""

    def encode(self, ask: Ask) -> Answer:
        """Return the vectors of all inputs, in order. Raises what preparing or encoding raises."""


class Direct:
    """Encodes everything, every time."""

    def encode(self, ask: Ask) -> Answer:
        """See `Encoder`."""
        with tracing.stage("tokenize"):
            items = ask.loaded.embedder.prepare(ask.inputs, ask.prompt, ask.truncate)
        encoded = ask.loaded.encode(items, ask.deadline, ask.gone)
        return Answer(encoded.vectors, sum(encoded.tokens), sum(item.truncated for item in items))


class Recall:
    """Encodes what no cache holds and no other request is encoding."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight] = {}

    def encode(self, ask: Ask) -> Answer:
        """See `Encoder`. What a request waits for is bounded by its own deadline alone."""
        if not ask.inputs:
            return Direct().encode(ask)
        keys = keys_of(ask.loaded.facts, ask.prompt, ask.truncate, ask.inputs)
        places: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)
        flight, others = self._board(places)
        try:
            with tracing.stage("cache"):
                rows = found = self._look_up(ask, flight)
            if left := {key: places[key] for key in flight.keys if key not in found}:
                rows = {**found, **self._encode(ask, left, flight)}
        finally:
            self._land(flight)
        hits = dict(found)
        for other, shared in others.items():
            hits.update(other.take(shared, ask.deadline, len(places)))
        rows = {**rows, **hits}
        if left := {key: place for key, place in places.items() if key not in rows}:
            rows.update(self._encode(ask, left))  # who was to do it failed, or takes too long
        answer = _answer([rows[key] for key in keys], sum(key in hits for key in keys))
        metrics.CACHE.labels("hit").inc(answer.hits)
        metrics.CACHE.labels("miss").inc(len(keys) - answer.hits)
        return answer

    def _board(self, places: dict[bytes, int]) -> tuple["_Flight", dict["_Flight", list[bytes]]]:
        """Take the keys that nobody looks after; of the others, tell who does."""
        flight = _Flight()
        others: dict[_Flight, list[bytes]] = {}
        with self._lock:
            for key in places:
                holder = self._flights.setdefault(key, flight)
                (flight.keys if holder is flight else others.setdefault(holder, [])).append(key)
        return flight, others

    def _look_up(self, ask: Ask, flight: "_Flight") -> dict[bytes, Entry]:
        """Return what the cache holds and is sound; what is not is thrown away."""
        found: dict[bytes, Entry] = {}
        if dimension := ask.loaded.facts.dimension:  # a remote model's first reply tells it
            values = zip(flight.keys, self.cache.get(flight.keys), strict=True)
            there = {key: value for key, value in values if value is not None}
            found = unpack(there, dimension)
            if bad := [key for key in there if key not in found]:
                metrics.CACHE.labels("damaged").inc(len(bad))
                self.cache.drop(bad)
        flight.rows, flight.missing = found, len(flight.keys) - len(found)
        flight.looked.set()
        return found

    def _encode(
        self, ask: Ask, left: dict[bytes, int], flight: "_Flight | None" = None
    ) -> dict[bytes, Entry]:
        """Encode the inputs at these places, give them to who waits, and keep them."""
        rows = dict(zip(left, _entries(ask, list(left.values())), strict=True))
        if flight is not None:
            flight.rows = {**flight.rows, **rows}
            flight.landed.set()
        sound = {key: entry for key, entry in rows.items() if np.isfinite(entry.vector).all()}
        self.cache.put({key: pack(key, entry) for key, entry in sound.items()})
        return rows

    def _land(self, flight: "_Flight") -> None:
        """Let go of the keys. Whoever still waits gets what there is."""
        flight.looked.set()
        flight.landed.set()
        with self._lock:
            for key in flight.keys:
                del self._flights[key]


@dataclass(eq=False)
class _Flight:
    """The keys that one request looks after; others that want one of them wait for it here.

    A key is let go only after its value was put into the cache, so whoever comes later finds it
    there: nobody falls between the two.
    """

    keys: list[bytes] = field(default_factory=list)
    rows: dict[bytes, Entry] = field(default_factory=dict)
    missing: int = 0
    looked: threading.Event = field(default_factory=threading.Event)
    landed: threading.Event = field(default_factory=threading.Event)

    def take(self, keys: list[bytes], deadline: float | None, size: int) -> dict[bytes, Entry]:
        """Wait for these keys and return those there are, for a request of `size` texts."""
        _wait(self.looked, deadline)
        if self.missing <= PATIENCE * size and any(key not in self.rows for key in keys):
            _wait(self.landed, deadline)
        return {key: self.rows[key] for key in keys if key in self.rows}


def _wait(event: threading.Event, deadline: float | None) -> None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    with turns.away():
        there = event.wait(left)
    if not there:
        raise DeadlineExceeded("the request's deadline passed while it waited")


def _entries(ask: Ask, places: list[int]) -> list[Entry]:
    """Encode the inputs at these places of the request."""
    inputs = [ask.inputs[place] for place in places]
    try:
        with tracing.stage("tokenize"):
            items = ask.loaded.embedder.prepare(inputs, ask.prompt, ask.truncate)
        encoded = ask.loaded.encode(items, ask.deadline, ask.gone)
    except ServiceError as exc:
        told = _in_place(exc, places, len(ask.inputs))
        if told is exc:
            raise
        raise told from exc
    return [
        Entry(vector, tokens, item.truncated)
        for vector, tokens, item in zip(encoded.vectors, encoded.tokens, items, strict=True)
    ]


def _in_place(error: ServiceError, places: list[int], count: int) -> ServiceError:
    """An error names an input by its place among those encoded: give it that in the request."""
    message = re.sub(r"^input (\d+)", lambda m: f"input {places[int(m[1])]}", error.message)
    if message == error.message and len(places) == 1 < count and isinstance(error, Invalid):
        message = f"input {places[0]}: {message}"  # alone in its batch it had no place
    if message == error.message:
        return error
    told = type(error).__new__(type(error))  # whatever its constructor takes
    vars(told).update(vars(error))
    told.message, told.args = message, (message,)
    return told


def _answer(entries: list[Entry], hits: int) -> Answer:
    vectors = np.empty((len(entries), len(entries[0].vector)), np.float32)
    for row, entry in enumerate(entries):
        vectors[row] = entry.vector
    return Answer(
        vectors,
        tokens=sum(entry.tokens for entry in entries),
        truncated=sum(entry.truncated for entry in entries),
        hits=hits,
    )
