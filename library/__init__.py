"""Texts in collections: embeds what is stored and what is asked, and never mixes two models.

Joins the engine and the vector store. A collection remembers whose vectors it holds; another
model's are refused with what to do. Knows no HTTP; the background re-embedding is `reembed.py`.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

import tracing
from engine import Embedded, EmbedRequest, Engine
from errors import Conflict, Invalid, NotFound, ServiceError, TooLarge
from serving.registry import Loaded
from store import CollectionInfo, Found, Item, Limits, VectorStore, Written
from store.base import IfExists, Metric, Mode

# Vectors (or hits of a deleted collection) may move under a search when a re-embedding is switched
# in; a collection's uuid tells, and the search is made again on what is there now.
SEARCH_ATTEMPTS = 3


@dataclass(frozen=True)
class Draft:
    """What a caller wants to store: its vector, or a text whose vector is to be made."""

    id: str | None = None
    vector: Any = None
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """What storing did, and what embedding cost where there was any."""

    ids: list[str]
    written: Written
    collection: CollectionInfo
    created: bool = False
    embedded: Embedded | None = None


@dataclass(frozen=True)
class Query:
    """What is searched for: vectors, texts, or the neighbours of a stored id."""

    vectors: Sequence[Any] | None = None
    texts: Sequence[str] | None = None
    id: str | None = None
    k: int = 10
    offset: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # the store's own: filter, min_score, ...


class Library:
    """Stores and finds texts. `limits` are the store's."""

    def __init__(self, engine: Engine, store: VectorStore, limits: Limits | None = None) -> None:
        self._engine = engine
        self.store = store
        self.limits = limits or Limits()

    def create(
        self, name: str, dimension: int | None, metric: str, model: str | None, if_exists: str
    ) -> tuple[CollectionInfo, bool]:
        """Make a collection; with a model its dimension and fingerprint are the model's."""
        fingerprint = None
        if model is not None:
            found = self._engine.registry.get(model)
            facts = found.loaded.facts
            if dimension is not None and dimension != facts.dimension:
                raise Invalid(
                    f"dimension {dimension}: vectors of {model!r} have {facts.dimension}",
                    param="dimension",
                )
            dimension, model = facts.dimension, found.spec.model_name
            fingerprint = facts.fingerprint
        if dimension is None:
            raise Invalid("give a dimension, or a model whose it is", param="dimension")
        return self.store.create(
            name, dimension, cast(Metric, metric), model, fingerprint, cast(IfExists, if_exists)
        )

    def add(self, name: str, drafts: Sequence[Draft], mode: Mode, embed: EmbedRequest) -> Stored:
        """Store drafts in an existing collection, embedding those texts that have no vector."""
        self._refuse_while_reembedding(name)
        info = self.store.info(name)
        return self._write(info, name, drafts, mode, embed, created=False)

    def store_texts(
        self, name: str, drafts: Sequence[Draft], mode: Mode, embed: EmbedRequest, create: bool
    ) -> Stored:
        """Embed texts and store them; the collection is made for the model if it is not there."""
        try:
            return self.add(name, drafts, mode, embed)
        except NotFound:
            if not create or self._exists(name):
                raise
        self._check_count(drafts)
        model = self._engine.registry.get(embed.model)
        dimension = embed.dimensions or model.loaded.facts.dimension
        info, created = self.store.create(
            name, dimension, model=model.spec.model_name,
            fingerprint=fingerprint_of(model.loaded, embed), if_exists="ok",
        )  # fmt: skip
        return self._write(info, name, drafts, mode, embed, created=created)

    def search(self, name: str, query: Query, embed: EmbedRequest) -> tuple[Found, Embedded | None]:
        """Find the nearest records to each query, all of them in one state of the collection."""
        for _ in range(SEARCH_ATTEMPTS - 1):
            info = self.store.info(name)
            try:
                found = self._search(info, name, query, embed)
            except ServiceError:  # right, unless the collection was switched in between
                if self.store.info(name).uuid == info.uuid:
                    raise
                continue
            if self.store.info(name).uuid == info.uuid:
                return found
        return self._search(self.store.info(name), name, query, embed)

    # -- steps -----------------------------------------------------------------------------------

    def _write(
        self, info: CollectionInfo, name: str, drafts: Sequence[Draft], mode: Mode,
        embed: EmbedRequest, created: bool,
    ) -> Stored:  # fmt: skip
        self._check_count(drafts)
        texts = [draft.text for draft in drafts if draft.vector is None and draft.text is not None]
        embedded = None
        vectors = iter(())
        if texts:
            embedded = self._embed(info, name, replace(embed, inputs=texts), "document")
            self.store.stamp(
                name, embedded.model.spec.model_name, fingerprint_of(embedded.loaded, embed)
            )
            vectors = iter(embedded.vectors)
        items = [
            Item(
                draft.id if draft.id is not None else uuid.uuid4().hex,
                next(vectors) if draft.vector is None else draft.vector,
                draft.text,
                draft.metadata,
            )
            for draft in drafts
        ]
        with tracing.stage("store"):
            written = self.store.upsert(name, items, mode)
        return Stored([item.id for item in items], written, info, created, embedded)

    def _search(
        self, info: CollectionInfo, name: str, query: Query, embed: EmbedRequest
    ) -> tuple[Found, Embedded | None]:
        embedded = None
        options = dict(query.options)
        if query.id is not None:
            return self._like(name, query, options), None
        vectors: Any = query.vectors
        if query.texts is not None:
            if len(query.texts) > self.limits.queries:
                raise TooLarge(
                    f"{len(query.texts)} queries; at most {self.limits.queries} in one call"
                )
            embedded = self._embed(info, name, replace(embed, inputs=list(query.texts)), "query")
            vectors = embedded.vectors
        with tracing.stage("store"):
            found = self.store.search(name, vectors, query.k, offset=query.offset, **options)
        return found, embedded

    def _like(self, name: str, query: Query, options: dict[str, Any]) -> Found:
        """Find the neighbours of a stored record, itself left out."""
        wanted = str(query.id)
        records = self.store.get(name, [wanted], ["vector"])
        if not records:
            raise NotFound(f"no vector {wanted[:64]!r} in collection {name!r}")
        vector = np.asarray(records[0].vector)[None, :]
        found = self.store.search(name, vector, query.k + query.offset + 1, **options)
        others = [hit for hit in found.hits[0] if hit.id != wanted]
        return Found([others[query.offset : query.offset + query.k]], found.exact)

    def _embed(self, info: CollectionInfo, name: str, request: EmbedRequest, role: str) -> Embedded:
        """Embed with the collection's own model. Raises Conflict for any other."""
        asked = request.model if request.model is not None else info.model
        model = self._engine.registry.get(asked)
        mine = fingerprint_of(model.loaded, request)
        if info.fingerprint is not None and info.fingerprint != mine:
            raise Conflict(
                f"collection {name!r} holds vectors of {info.model} (fingerprint "
                f"{info.fingerprint}), not of {model.spec.model_name} ({mine}): ask for the model "
                f"it holds, use another collection, or POST /collections/{name}/reembed"
            )
        if request.prompt is None and request.prompt_name is None:
            known = model.loaded.facts.prompts
            request = replace(request, prompt_name=role if role in known else None)
        return self._engine.embed(replace(request, model=asked))

    def _check_count(self, drafts: Sequence[Draft]) -> None:
        if len(drafts) > self.limits.items:
            raise TooLarge(f"{len(drafts)} items; at most {self.limits.items} in one call")

    def _exists(self, name: str) -> bool:
        try:
            self.store.info(name)
        except NotFound:
            return False
        return True

    def _refuse_while_reembedding(self, name: str) -> None:
        info = self.store.info(name)
        if self._exists(reembedding_name(info)):
            raise Conflict(
                f"collection {name!r} is being re-embedded: searches go on, writes must wait; "
                "GET /jobs shows how far it is",
                retry_after_s=5,
            )

    def delete(self, name: str, ids: Sequence[str] | None, filter: object) -> int:
        """Delete by ids or filter; return how many were there."""
        self._refuse_while_reembedding(name)
        return self.store.delete(name, ids, filter)


def fingerprint_of(loaded: Loaded, request: EmbedRequest) -> str:
    """Return the space a request's vectors live in: the model's, or its cut to fewer dimensions."""
    full = loaded.facts.fingerprint
    cut = request.dimensions
    return full if cut is None or cut == loaded.facts.dimension else f"{full}/{cut}"


def reembedding_name(info: CollectionInfo) -> str:
    """Return the name under which a collection's next vectors are built, beside it."""
    return f"reembed.{info.uuid}"
