"""Texts and a model's name in, vectors or scores and their cost out: one way for all dialects.

A text that the cache holds is neither tokenized nor encoded, nor is a document with its query. Any
other is encoded once, however often the request holds it and however many requests ask for it at
the same moment. How a model is loaded and how batches form is `serving/`; where vectors are kept is
`cache/`.
"""

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cache import Cache, Entry, InFlight, keys_of, pack, unpack
from config.serving import Lane
from embedders.base import (
    DENSE,
    Column,
    Facts,
    Input,
    Output,
    Pair,
    Token,
    Truncate,
    Vectors,
)
from errors import BadRequest, Invalid, TooLarge
from observability import metrics, tracing
from serving.encoding import (
    EmbedRequest,
    Rows,
    check_dimensions,
    check_tokens,
    column_of,
    encode,
    encode_documents,
    finished,
    pieces,
    prompt_of,
)
from serving.lanes import Choice, Lanes, TurnedBulk
from serving.model import Loaded, Model
from serving.registry import Registry
from serving.results import activated
from serving.selection import CLASSES, SCORE, Taken, Wish, check_chunks, select

__all__ = ["Embedded", "EmbedRequest", "Engine"]

# Bytes of a value of the cache. The vectors of a query's 32 tokens are 16 KB at 128 numbers each;
# those of a document's 512 are 0.26 MB, for which 100 dense vectors would leave a cache.
LARGEST_KEPT = 1 << 16


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
    chunk_tokens: Sequence[int] = ()  # of each chunk, of documents' chunks

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


Encode = Callable[[Sequence[int]], Rows]  # encodes the inputs at these places of a request


class Engine:
    """Embeds and reranks on any of the registry's models. Safe from many threads."""

    def __init__(
        self, registry: Registry, truncate: Truncate = "auto", cache: Cache | None = None,
        lanes: Lanes | None = None,
    ) -> None:  # fmt: skip
        self.registry = registry
        self.truncate: Truncate = truncate
        self.lanes = lanes or Lanes()
        self._cache = cache
        self._lock = threading.Lock()
        # By the lane and the keys of each request that encodes: an interactive one would wait for
        # bulk's turn.
        self._in_flight: dict[tuple[Lane, bytes], InFlight] = {}

    def embed(self, request: EmbedRequest) -> Embedded:
        """Embed the inputs of one request.

        Raises UnknownModel, WrongKind, ModelLoading, ModelUnavailable, BadRequest, InputTooLong,
        TooLarge, QueueFull, DeadlineExceeded, ProviderError. An input at fault is the error's
        `index`.
        """
        return self._run(request, request.inputs)

    def embed_chunks(self, documents: Sequence[Sequence[str]], request: EmbedRequest) -> Embedded:
        """Embed the chunks of documents by late chunking: `vectors` has a row for each, in order.

        The chunks of a document are read as one text, and a chunk's vector is the mean of its
        tokens' states. A document that is too long is refused unless `truncate` is asked for, and
        then too if nothing is left of a chunk. Raises what `embed` raises; a chunk at fault is the
        error's `index`, counted over all documents.
        """
        started = time.monotonic()
        if not documents or not all(documents):
            raise Invalid("a document has at least one chunk")
        model, loaded = request.taken or self._select(request, DENSE)
        check_chunks(model, loaded.facts)
        check_dimensions(request.dimensions, loaded.facts.dimension)
        tracing.describe(model=model.spec.id, texts=sum(map(len, documents)))
        with self._promised(request, len(documents), model, loaded) as choice:
            with tracing.stage("tokenize"):
                prompt = prompt_of(loaded, request)
                items = loaded.embedder.prepare_chunks(documents, prompt, request.truncate)
            check_tokens(items, request.most_tokens)
            counts = [len(chunks) for chunks in documents]
            encoded = encode_documents(loaded, request, items, counts, choice)
        rows = [value for value in encoded.columns["chunks"] if isinstance(value, np.ndarray)]
        vectors = np.concatenate(rows)
        tokens, truncated = sum(encoded.tokens), sum(item.truncated for item in items)
        tracing.describe(tokens=tokens)
        metrics.TRUNCATED.labels(model.spec.id).inc(truncated)
        normalizes = model.normalize or loaded.facts.normalizes
        columns = finished({"dense": vectors}, request, normalizes)
        spans = [span for item in items for span in item.spans]
        took_ms = (time.monotonic() - started) * 1000
        return Embedded(
            columns, len(spans), model, loaded, tokens, truncated, 0, took_ms,
            chunk_tokens=[end - start for start, end in spans],
        )  # fmt: skip

    def classify(
        self, inputs: Sequence[str | Pair], request: EmbedRequest, *, raw: bool = False
    ) -> Embedded:
        """Score texts, or pairs of texts, by each label of a classifier: `scores`.

        They are what the model's activation makes of its logits, unless `raw`: shares that add up
        to 1, or a sigmoid for each label where each is its own question. Of a single label, also of
        a reranker, it is always the sigmoid. Raises what `embed` raises.
        """
        taken = request.taken or self._select(request, CLASSES)
        scored = self._run(replace(request, outputs=SCORE, taken=taken), inputs)
        facts = scored.loaded.facts
        if raw or facts.device == "remote":  # a provider's scores are what it makes of its own
            return scored
        activation = facts.activation if len(facts.labels) > 1 else "sigmoid"
        return replace(scored, columns={"score": activated(scored.scores, activation)})

    def tokenize(
        self,
        inputs: Sequence[str | Pair],
        request: EmbedRequest,
        *,
        add_special_tokens: bool = True,
    ) -> list[list[Token]]:
        """Return the tokens of each whole input, with the prompt that the request asks for.

        Raises TooLarge for a text that is too long and for more than `most_tokens`, BadRequest for
        a model whose tokens are not known here, and what `pieces` and `select` raise.
        """
        _, loaded = request.taken or self._select(request, ())
        embedder = loaded.embedder
        prompt = embedder.prompt(request.prompt_name, request.prompt, request.role)
        most = request.most_tokens
        texts = ((each,) if isinstance(each, str) else each for each in inputs)
        sizes = [len(prompt.text) + sum(map(len, parts)) for parts in texts]
        found: list[list[Token]] = []
        count = 0
        for piece in pieces(request, sizes, "characters"):
            made = embedder.tokenize(inputs[piece], prompt, special=add_special_tokens)
            count += sum(map(len, made))
            if most is not None and count > most:
                raise TooLarge(f"these have more than the {most} tokens that a reply may hold")
            found += made
        return found

    def detokenize(
        self, ids: Sequence[Sequence[int]], request: EmbedRequest, *,
        skip_special_tokens: bool = True,
    ) -> list[str]:  # fmt: skip
        """Return the text of each list of token ids. Raises what `tokenize` raises."""
        _, loaded = request.taken or self._select(request, ())
        texts: list[str] = []
        for piece in pieces(request, [len(each) for each in ids], "token ids"):
            try:
                texts += loaded.embedder.detokenize(ids[piece], skip_special=skip_special_tokens)
            except BadRequest as refused:
                if refused.index is not None:
                    refused.index += piece.start
                raise
        return texts

    def _select(self, request: EmbedRequest, outputs: Sequence[Wish]) -> Taken:
        return select(self.registry, request.model, outputs, request.deadline)

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
        model, loaded = request.taken or self._select(request, request.outputs)
        facts = loaded.facts
        check_dimensions(request.dimensions, facts.dimension)
        prompt = prompt_of(loaded, request)
        truncate = request.truncate or self.truncate
        tracing.describe(model=model.spec.id, texts=len(inputs))
        with self._promised(request, len(inputs), model, loaded) as choice:
            making = functools.partial(
                encode, loaded, request, inputs, prompt, truncate, choice, LARGEST_KEPT
            )
            if self._cache is None:
                rows, hits = making(range(len(inputs))), 0
            else:
                keys = keys_of(facts, prompt, truncate, request.outputs, inputs)
                rows, hits = self._recall(self._cache, keys, facts, making, request, choice)
            tokens, truncated = sum(rows.tokens), sum(rows.truncated)
            choice.weigh(tokens)  # by all of its tokens, so that it does not tell what was cached
        tracing.describe(tokens=tokens)
        metrics.TRUNCATED.labels(model.spec.id).inc(truncated)
        own = model.normalize or facts.normalizes
        columns = finished(rows.columns, request, own)
        took_ms = (time.monotonic() - started) * 1000
        return Embedded(columns, len(inputs), model, loaded, tokens, truncated, hits, took_ms)

    @contextmanager
    def _promised(
        self, request: EmbedRequest, inputs: int, model: Model, loaded: Loaded
    ) -> Iterator[Choice]:
        """Give the choice of a request's lane; count it if it takes longer than was promised.

        One whose caller hung up is not counted: nobody waits for it.
        """
        started = time.monotonic()
        choice = self.lanes.choice(request.lane, inputs, request.admit_bulk)
        choice.weigh(0)
        try:
            yield choice
            took_s = time.monotonic() - started
            metrics.MODEL_SECONDS.labels(model.spec.id, choice.lane).observe(took_s)
        finally:
            late = choice.is_late(time.monotonic() - started) and loaded.facts.device != "remote"
            if late and not (request.gone is not None and request.gone()):
                metrics.PROMISE_MISSED.labels(model.spec.id).inc()

    def _recall(
        self, cache: Cache, keys: Sequence[bytes], facts: Facts, encode: Encode,
        request: EmbedRequest, choice: Choice,
    ) -> tuple[Rows, int]:  # fmt: skip
        """Return the row of each key, and how many of them were not encoded for this request."""
        outputs = request.outputs
        places: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)
        hits: dict[bytes, Entry] = {}
        made: dict[bytes, Entry] = {}

        def make(keys: Iterable[bytes], own: InFlight | None = None) -> None:
            missing = [key for key in keys if key not in hits and key not in made]
            if not missing:
                return
            rows = encode([places[key] for key in missing])
            values: Any = zip(*(rows.columns[output] for output in outputs), strict=True)
            entries = map(Entry, values, rows.tokens, rows.truncated)
            made.update(zip(missing, entries, strict=True))
            shared = {key: made[key] for at, key in enumerate(missing) if at not in rows.own}
            if own is not None:
                own.end(shared)
            _keep(cache, outputs, shared)

        def gather() -> None:
            lane = choice.lane
            wanted = [key for key in places if key not in hits and key not in made]
            own, others = self._claim(wanted, lane)
            try:
                with tracing.stage("cache"):
                    found = _look_up(cache, own.keys, outputs, facts)
                hits.update(found)
                own.looked_up(found)
                make(own.keys, own)
            finally:
                self._release(own, lane)
            for other, shared in others.items():
                hits.update(other.wait(shared, request.deadline, len(places)))
            # The other requests may have failed, or encode too many texts to wait for.
            make(places)

        choice.claims = True
        try:
            gather()
        except TurnedBulk:  # whoever waits for it is interactive; it may wait for others of bulk
            gather()
        count = sum(key in hits for key in keys)
        metrics.CACHE.labels("hit").inc(count)
        metrics.CACHE.labels("miss").inc(len(keys) - count)
        known = hits | made
        return _rows([known[key] for key in keys], outputs, facts), count

    def _claim(
        self, keys: Iterable[bytes], lane: Lane
    ) -> tuple[InFlight, dict[InFlight, list[bytes]]]:
        """Claim the keys that no request of the lane encodes now.

        Returns them, and who has the others.
        """
        own = InFlight()
        others: dict[InFlight, list[bytes]] = {}
        with self._lock:
            for key in keys:
                holder = self._in_flight.setdefault((lane, key), own)
                (own.keys if holder is own else others.setdefault(holder, [])).append(key)
        return own, others

    def _release(self, own: InFlight, lane: Lane) -> None:
        """Release the claimed keys. Requests that still wait get the rows so far."""
        own.looked.set()
        own.ended.set()
        with self._lock:
            for key in own.keys:
                del self._in_flight[lane, key]


def _keep(cache: Cache, outputs: Sequence[Output], entries: Mapping[bytes, Entry]) -> None:
    """Put what is finite into the cache, but no value that would take the room of thousands."""
    small = {key: entry for key, entry in entries.items() if entry.size <= LARGEST_KEPT}
    cache.put({key: pack(key, outputs, each) for key, each in small.items() if each.finite})


def _look_up(
    cache: Cache, keys: Sequence[bytes], outputs: Sequence[Output], facts: Facts
) -> dict[bytes, Entry]:
    """Return what the cache holds of these keys. What is damaged is dropped there."""
    width = len(facts.labels) if "score" in outputs else facts.dimension
    if "tokens" in outputs:
        width = facts.token_dimension
    if not width and outputs != ("sparse",):  # of a remote model before its first reply
        return {}
    values = zip(keys, cache.get(keys), strict=True)
    kept = {key: value for key, value in values if value is not None}
    found = unpack(kept, outputs, width, facts.vocabulary)
    if damaged := [key for key in kept if key not in found]:
        metrics.CACHE.labels("damaged").inc(len(damaged))
        cache.drop(damaged)
    return found


def _rows(entries: Sequence[Entry], outputs: Sequence[Output], facts: Facts) -> Rows:
    columns = {
        output: column_of(output, [entry.values[at] for entry in entries], facts)
        for at, output in enumerate(outputs)
    }
    return Rows(columns, [e.tokens for e in entries], [e.truncated for e in entries])
