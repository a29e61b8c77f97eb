"""Texts and a model's name in, vectors or scores and their cost out: one way for all dialects.

A text that the cache holds is neither tokenized nor encoded, nor is a document with its query. Any
other is encoded once, however often the request holds it and however many requests ask for it at
the same moment. How a model is loaded and how batches form is `serving/`; where vectors are kept is
`cache/`.
"""

import functools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cache import Cache, Entry, InFlight, keys_of, pack, unpack
from embedders.base import (
    DENSE,
    Column,
    Facts,
    Gone,
    Input,
    Item,
    Output,
    Pair,
    Prompt,
    Sparse,
    Truncate,
    Vectors,
)
from errors import BadRequest, ServiceError, TooLarge
from observability import metrics, tracing
from serving.model import Loaded, Model
from serving.registry import Registry
from serving.results import activated, finish, top_terms
from serving.selection import SCORE, Taken, select

# Bytes of a value of the cache. The vectors of a query's 32 tokens are 16 KB at 128 numbers each;
# those of a document's 512 are 0.26 MB, for which 100 dense vectors would leave a cache.
LARGEST_KEPT = 1 << 16
# Texts whose sparse rows are made before their terms are counted: a row of every term of a
# vocabulary of 30,000 has 0.24 MB, so these have 62 MB at most. Other rows are counted by tokens.
SPARSE_AT_ONCE = 256


@dataclass(frozen=True)
class EmbedRequest:
    """What to embed and how. None means the default of the model or of the service."""

    inputs: Sequence[Input]
    model: str | None = None
    outputs: tuple[Output, ...] = DENSE
    normalize: bool | None = None  # of dense vectors; vectors of tokens are as the model has them
    dimensions: int | None = None  # of dense vectors
    top_n: int | None = None  # the most terms of a sparse vector
    min_weight: float | None = None  # of the terms of a sparse vector
    most_tokens: int | None = None  # of all inputs; more are refused before they are encoded
    most_terms: int | None = None  # of all sparse vectors; at more the others are not made
    truncate: Truncate | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    role: str | None = None  # the side of a retrieval, or another use, as clients name it
    deadline: float | None = None  # a time.monotonic() value
    gone: Gone | None = None  # whether the caller hung up
    taken: Taken | None = None  # what `select` gave, if the caller has asked it already


@dataclass(frozen=True)
class Embedded:
    """The results for each input, in their order, and what they cost.

    `columns` has for each output what `Encoded` has, finished: `dense` and `score` as one array,
    (n, d) and (n, labels) float32, the others as lists.
    """

    columns: Mapping[Output, Column]
    count: int
    model: Model
    loaded: Loaded
    tokens: int
    truncated: int  # inputs that were cut
    hits: int  # inputs whose result was in the cache, or was being made for another request
    took_ms: float

    @property
    def vectors(self) -> Vectors:
        """The dense vectors, (n, d) float32."""
        return self._array("dense")

    @property
    def scores(self) -> Vectors:
        """The scores of pairs, (n, labels) float32."""
        return self._array("score")

    def _array(self, output: Output) -> Vectors:
        column = self.columns[output]
        assert isinstance(column, np.ndarray)
        return column


class Rows(NamedTuple):
    """What the model made of each input, its tokens and whether it was cut.

    The places in `own` have only the terms that this request asks for: they are for no other.
    """

    columns: Mapping[Output, Column]
    tokens: Sequence[int]
    truncated: Sequence[bool]
    own: Collection[int] = ()


Encode = Callable[[Sequence[int]], Rows]  # encodes the inputs at these places of a request


class Engine:
    """Embeds and reranks on any of the registry's models. Safe from many threads."""

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

        Raises UnknownModel, WrongKind, ModelLoading, ModelUnavailable, BadRequest, InputTooLong,
        TooLarge, QueueFull, DeadlineExceeded, ProviderError. An input at fault is the error's
        `index`.
        """
        return self._run(request, request.inputs)

    def rerank(
        self, query: str, documents: Sequence[str], request: EmbedRequest, *, raw: bool = False
    ) -> Embedded:
        """Score each document by how well it answers the query: `scores`, one label.

        They are what the model's own activation makes of its logits, unless `raw`. What is not of
        vectors in `request` says how. Raises what `embed` raises.
        """
        pairs = [Pair(query, document) for document in documents]
        scored = self._run(replace(request, outputs=SCORE), pairs)
        if raw:
            return scored
        made = activated(scored.scores, scored.loaded.facts.activation)
        return replace(scored, columns={"score": made})

    def _run(self, request: EmbedRequest, inputs: Sequence[Input | Pair]) -> Embedded:
        started = time.monotonic()
        model, loaded = request.taken or select(
            self.registry, request.model, request.outputs, request.deadline
        )
        facts = loaded.facts
        _check_dimensions(request.dimensions, facts.dimension)
        prompt = loaded.embedder.prompt(request.prompt_name, request.prompt, request.role)
        truncate = request.truncate or self.truncate
        tracing.describe(model=model.spec.id, texts=len(inputs))
        encode = functools.partial(_encode, loaded, request, inputs, prompt, truncate)
        if self._cache is None:
            rows, hits = encode(range(len(inputs))), 0
        else:
            keys = keys_of(facts, prompt, truncate, request.outputs, inputs)
            rows, hits = self._recall(self._cache, keys, facts, encode, request)
        tokens, truncated = sum(rows.tokens), sum(rows.truncated)
        tracing.describe(tokens=tokens)
        metrics.TRUNCATED.labels(model.spec.id).inc(truncated)
        own = model.normalize or facts.normalizes
        columns = _finished(rows.columns, request, own)
        took_ms = (time.monotonic() - started) * 1000
        return Embedded(columns, len(inputs), model, loaded, tokens, truncated, hits, took_ms)

    def _recall(
        self, cache: Cache, keys: Sequence[bytes], facts: Facts, encode: Encode,
        request: EmbedRequest,
    ) -> tuple[Rows, int]:  # fmt: skip
        """Return the row of each key, and how many of them were not encoded for this request."""
        outputs = request.outputs
        places: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)

        def encoded(keys: Iterable[bytes], own: InFlight | None = None) -> dict[bytes, Entry]:
            missing = [key for key in keys if key not in hits]
            if not missing:
                return {}
            rows = encode([places[key] for key in missing])
            values: Any = zip(*(rows.columns[output] for output in outputs), strict=True)
            made = map(Entry, values, rows.tokens, rows.truncated)
            entries = dict(zip(missing, made, strict=True))
            shared = {key: entries[key] for at, key in enumerate(missing) if at not in rows.own}
            if own is not None:
                own.end(shared)
            _keep(cache, outputs, shared)
            return entries

        own, others = self._claim(places)
        try:
            with tracing.stage("cache"):
                hits = _look_up(cache, own.keys, outputs, facts)
            own.looked_up(hits)
            made = encoded(own.keys, own)
        finally:
            self._release(own)
        for other, shared in others.items():
            hits |= other.wait(shared, request.deadline, len(places))
        # The other requests may have failed, or encode too many texts to wait for.
        made |= encoded(key for key in places if key not in made)
        count = sum(key in hits for key in keys)
        metrics.CACHE.labels("hit").inc(count)
        metrics.CACHE.labels("miss").inc(len(keys) - count)
        known = hits | made
        entries = [known[key] for key in keys]
        columns = {
            output: _column(output, [entry.values[at] for entry in entries], facts)
            for at, output in enumerate(outputs)
        }
        return Rows(columns, [e.tokens for e in entries], [e.truncated for e in entries]), count

    def _claim(self, keys: Iterable[bytes]) -> tuple[InFlight, dict[InFlight, list[bytes]]]:
        """Claim the keys that no request encodes now. Returns them, and who has the others."""
        own = InFlight()
        others: dict[InFlight, list[bytes]] = {}
        with self._lock:
            for key in keys:
                holder = self._in_flight.setdefault(key, own)
                (own.keys if holder is own else others.setdefault(holder, [])).append(key)
        return own, others

    def _release(self, own: InFlight) -> None:
        """Release the claimed keys. Requests that still wait get the rows so far."""
        own.looked.set()
        own.ended.set()
        with self._lock:
            for key in own.keys:
                del self._in_flight[key]


def _keep(cache: Cache, outputs: Sequence[Output], entries: Mapping[bytes, Entry]) -> None:
    """Put what is finite into the cache, but no value that would take the room of thousands."""
    small = {key: entry for key, entry in entries.items() if entry.size <= LARGEST_KEPT}
    cache.put({key: pack(key, outputs, each) for key, each in small.items() if each.finite})


def _look_up(
    cache: Cache, keys: Sequence[bytes], outputs: Sequence[Output], facts: Facts
) -> dict[bytes, Entry]:
    """Return what the cache holds of these keys. What is damaged is dropped there."""
    width = len(facts.labels) if "score" in outputs else facts.dimension
    if not width and outputs != ("sparse",):  # of a remote model before its first reply
        return {}
    values = zip(keys, cache.get(keys), strict=True)
    kept = {key: value for key, value in values if value is not None}
    found = unpack(kept, outputs, width, facts.vocabulary)
    if damaged := [key for key in kept if key not in found]:
        metrics.CACHE.labels("damaged").inc(len(damaged))
        cache.drop(damaged)
    return found


def _column(output: Output, values: Sequence[Any], facts: Facts) -> Column:
    """Return the values of all inputs for one output, as `Encoded` has them."""
    if output in ("sparse", "multi_vector"):
        return values
    width = len(values[0]) if values else facts.dimension
    rows = np.empty((len(values), width), np.float32)
    for place, value in enumerate(values):
        rows[place] = value
    return rows


def _encode(
    loaded: Loaded, request: EmbedRequest, inputs: Sequence[Input | Pair], prompt: Prompt,
    truncate: Truncate, places: Sequence[int],
) -> Rows:  # fmt: skip
    outputs = request.outputs
    try:
        with tracing.stage("tokenize"):
            chosen: Any = [inputs[place] for place in places]
            pairs = outputs == SCORE
            prepare = loaded.embedder.prepare_pairs if pairs else loaded.embedder.prepare
            items = prepare(chosen, prompt, truncate)
        if outputs != DENSE:
            items = [replace(item, outputs=outputs) for item in items]
        _check_tokens(items, request.most_tokens)
        if "sparse" in outputs:
            return _encode_sparse(loaded, request, items)
        encoded = loaded.encoder.encode(items, request.deadline, request.gone)
    except ServiceError as exc:
        if exc.index is not None:
            exc.index = places[exc.index]
        raise
    # A pass may hold what other requests asked for.
    columns = {output: encoded.columns[output] for output in outputs}
    return Rows(columns, encoded.tokens, [item.truncated for item in items])


def _encode_sparse(loaded: Loaded, request: EmbedRequest, items: Sequence[Item]) -> Rows:
    """Encode some items at a time, the longest first, and count their terms.

    A row that is too large to be kept is cut to what the request asks for before the next are made.
    Raises TooLarge once the terms are more than `most_terms`, and what the encoder raises.
    """
    order = sorted(range(len(items)), key=lambda place: -items[place].tokens)
    columns: dict[Output, list[Any]] = {each: [None] * len(items) for each in request.outputs}
    tokens, own, terms = [0] * len(items), set(), 0
    least = request.min_weight or 0.0
    for start in range(0, len(order), SPARSE_AT_ONCE):
        some = order[start : start + SPARSE_AT_ONCE]
        try:
            part = [items[place] for place in some]
            encoded = loaded.encoder.encode(part, request.deadline, request.gone)
        except ServiceError as exc:
            if exc.index is not None:
                exc.index = some[exc.index]
            raise
        for at, place in enumerate(some):
            tokens[place] = encoded.tokens[at]
            for output, column in columns.items():
                column[place] = encoded.columns[output][at]
            row = columns["sparse"][place]
            if row.indices.nbytes + row.values.nbytes > LARGEST_KEPT:
                row = columns["sparse"][place] = top_terms(row, request.top_n, least)
                own.add(place)
            terms += min(int((np.abs(row.values) >= least).sum()), request.top_n or len(row.values))
        if request.most_terms is not None and terms > request.most_terms:
            raise TooLarge(
                f"the sparse vectors have more than the {request.most_terms} terms that a reply "
                "may hold: send fewer texts, or ask for fewer terms (top_n)"
            )
    made = {output: _column(output, column, loaded.facts) for output, column in columns.items()}
    return Rows(made, tokens, [item.truncated for item in items], own)


def _check_tokens(items: Sequence[Item], most: int | None) -> None:
    """Raise TooLarge where the vectors of so many tokens are more than a reply may hold."""
    if most is not None and (tokens := sum(item.tokens for item in items)) > most:
        raise TooLarge(
            f"the vectors of {tokens} tokens are more than a reply may hold, which is those of "
            f"{most}: send fewer or shorter texts"
        )


def _check_dimensions(dimensions: int | None, most: int) -> None:
    if dimensions is not None and most and dimensions > most:  # 0: not known yet
        raise BadRequest(
            f"dimensions {dimensions} is more than the {most} of this model", param="dimensions"
        )


def _finished(
    columns: Mapping[Output, Column], request: EmbedRequest, normalizes: bool
) -> dict[Output, Column]:
    """Return the columns as they were asked for; `normalizes` is what the model does itself."""
    finished = dict(columns)
    dense, sparse = columns.get("dense"), columns.get("sparse")
    if isinstance(dense, np.ndarray):
        _check_dimensions(request.dimensions, dense.shape[1])
        own = normalizes if request.normalize is None else request.normalize
        finished["dense"] = finish(dense, request.dimensions, own)
    if sparse is not None:
        rows = [row for row in sparse if isinstance(row, Sparse)]
        least = request.min_weight or 0.0
        finished["sparse"] = [top_terms(row, request.top_n, least) for row in rows]
    return finished
