"""Texts in collections: embeds what is stored and what is asked, and never mixes two models.

Joins the engine and the vector store. A collection remembers whose vectors it holds; another
model's are refused with what to do. Knows no HTTP; the background re-embedding is `reembed.py`.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, cast

import numpy as np

from documents.rules import Draft, check_new
from engine import Embedded, EmbedRequest, Engine
from errors import Conflict, Invalid, NotFound, ServiceError, TooLarge
from observability import tracing
from serving.registry import Loaded
from store import CollectionInfo, Found, Item, Limits, VectorStore, Written
from store.base import SUCCESSOR, Identity, IfExists, Metric, Mode, successor
from store.budget import UNBOUNDED, Budget
from store.validation import (
    being_replaced,
    check_columns,
    check_items,
    check_mode,
    check_name,
    check_present,
)

# Another collection may come under the name while one is searched or texts are embedded for it, by
# a re-embedding; the uuid tells, and all is done again with what is there now.
ATTEMPTS = 3
# Of one collection: every description of it lists them all.
MOST_ALIASES = 100


@dataclass(frozen=True)
class Stored:
    """What storing did, and what embedding cost where there was any."""

    ids: list[str]
    written: Written
    collection: Identity
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
        self, name: str, dimension: int | None, metric: str, model: str | None, if_exists: str,
        indexed: Sequence[str] = (),
    ) -> tuple[CollectionInfo, bool]:  # fmt: skip
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
        check_own_name(name)
        if dimension is None:
            raise Invalid("give a dimension, or a model whose it is", param="dimension")
        return self.store.create(
            name, dimension, cast(Metric, metric), model, fingerprint, cast(IfExists, if_exists),
            indexed,
        )  # fmt: skip

    def add(self, name: str, drafts: Sequence[Draft], mode: Mode, embed: EmbedRequest) -> Stored:
        """Store drafts in an existing collection, embedding those texts that have no vector."""
        self._check(drafts)
        for _ in range(ATTEMPTS - 1):
            mine = self.store.identity(name)
            try:
                return self._add(mine, name, drafts, mode, embed)
            except (NotFound, Conflict):  # right, unless another was switched in meanwhile
                if self.store.identity(name).uuid == mine.uuid:
                    raise
        return self._add(self.store.identity(name), name, drafts, mode, embed)

    def store_texts(
        self, name: str, drafts: Sequence[Draft], mode: Mode, embed: EmbedRequest, create: bool
    ) -> Stored:
        """Embed texts and store them; the collection is made for the model if it is not there.

        What is refused leaves no collection behind: it is made once all that it will hold is known.
        """
        try:
            return self.add(name, drafts, mode, embed)
        except NotFound:
            if not create or mode == "update" or self._exists(name):
                raise
        check_own_name(name)
        check_columns(_items(drafts, None), self.limits)
        model = self._engine.registry.get(embed.model)
        mark = fingerprint_of(model.loaded, embed)
        new = Identity(name, "", 0, "cosine", model.spec.model_name, mark)
        embedded = self._embed(new, name, replace(embed, inputs=_texts(drafts)), "document")
        items, dimension = _items(drafts, embedded), embedded.vectors.shape[1]
        check_items(items, dimension, new.metric, self.limits)
        info, created = self.store.create(
            name, dimension, new.metric, new.model, new.fingerprint, if_exists="ok"
        )
        with tracing.stage("store"):
            written = self.store.upsert(name, items, mode, info.uuid)
        return Stored([item.id for item in items], written, info, created, embedded)

    def search(
        self, name: str, query: Query, embed: EmbedRequest, budget: Budget = UNBOUNDED
    ) -> tuple[Found, Embedded | None]:
        """Find the nearest records to each query, all of them in one state of the collection."""
        for _ in range(ATTEMPTS - 1):
            mine = self.store.identity(name)
            try:
                found = self._search(mine, name, query, embed, budget.anew())
            except ServiceError:  # right, unless another was switched in meanwhile
                if self.store.identity(name).uuid == mine.uuid:
                    raise
                continue
            if self.store.identity(name).uuid == mine.uuid:
                return found
        return self._search(self.store.identity(name), name, query, embed, budget.anew())

    def alias(self, alias: str, name: str) -> CollectionInfo:
        """Give a collection another name; return what is known of it."""
        check_own_name(alias)
        there = self.store.info(name).aliases
        if len(there) >= MOST_ALIASES and alias not in there:
            raise Invalid(
                f"collection {name!r} has {len(there)} aliases; at most {MOST_ALIASES}: delete one",
                param="alias",
            )
        self.store.alias(alias, name)
        return self.store.info(name)

    # -- steps -----------------------------------------------------------------------------------

    def _add(
        self, mine: Identity, name: str, drafts: Sequence[Draft], mode: Mode, embed: EmbedRequest
    ) -> Stored:
        """Embed for the collection `mine` and write into it, and into no other of its name."""
        embedded = None
        if texts := _texts(drafts):
            check_columns(_items(drafts, None), self.limits)
            if self._exists(successor(mine.uuid)):  # the store refuses too, after the embedding
                raise being_replaced()
            embedded = self._embed(mine, name, replace(embed, inputs=texts), "document")
        items = _items(drafts, embedded)
        if embedded and (mine.model is None or mine.fingerprint is None):
            self._check_write(mine, name, items, mode)
            mark = fingerprint_of(embedded.loaded, embed)
            self.store.stamp(name, embedded.model.spec.model_name, mark)
        with tracing.stage("store"):
            written = self.store.upsert(name, items, mode, mine.uuid)
        return Stored([item.id for item in items], written, mine, False, embedded)

    def _check_write(self, mine: Identity, name: str, items: Sequence[Item], mode: Mode) -> None:
        """Refuse what the store would: a write that is refused must not bind a collection.

        The model is recorded before the write, and not after it, so that two models cannot both
        write first.
        """
        check_items(items, mine.dim, mine.metric, self.limits)
        check_mode(mode)
        if mode != "upsert":
            ids = [item.id for item in items]
            check_present(mode, ids, {record.id for record in self.store.get(name, ids, ())})

    def _search(
        self, mine: Identity, name: str, query: Query, embed: EmbedRequest, budget: Budget
    ) -> tuple[Found, Embedded | None]:
        embedded = None
        options = query.options | {"budget": budget}
        if query.id is not None:
            return self._like(name, query, options), None
        vectors: Any = query.vectors
        if query.texts is not None:
            if len(query.texts) > self.limits.queries:
                raise TooLarge(
                    f"{len(query.texts)} queries; at most {self.limits.queries} in one call"
                )
            embedded = self._embed(mine, name, replace(embed, inputs=list(query.texts)), "query")
            vectors = embedded.vectors
        with tracing.stage("store"):
            found = self.store.search(name, vectors, query.k, offset=query.offset, **options)
        return found, embedded

    def _like(self, name: str, query: Query, options: dict[str, Any]) -> Found:
        """Find the neighbours of a stored record, itself left out."""
        wanted = str(query.id)
        records = self.store.get(name, [wanted], ["vector"], options["budget"].unmetered())
        if not records:
            raise NotFound(f"no vector {wanted[:64]!r} in collection {name!r}")
        vector = np.asarray(records[0].vector)[None, :]
        return self.store.search(
            name, vector, query.k, offset=query.offset, without=wanted, **options
        )

    def _embed(self, mine: Identity, name: str, request: EmbedRequest, role: str) -> Embedded:
        """Embed with the collection's own model. Raises Conflict for any other."""
        asked = request.model if request.model is not None else mine.model
        model = self._engine.registry.get(asked)
        mark = fingerprint_of(model.loaded, request)
        if mine.fingerprint is not None and mine.fingerprint != mark:
            raise Conflict(
                f"collection {name!r} holds vectors of {mine.model} (fingerprint "
                f"{mine.fingerprint}), not of {model.spec.model_name} ({mark}): ask for the model "
                f"it holds, use another collection, or POST /collections/{name}/reembed"
            )
        role = request.role if request.role is not None else role
        return self._engine.embed(replace(request, model=asked, role=role))

    def _check(self, drafts: Sequence[Draft]) -> None:
        if len(drafts) > self.limits.items:
            raise TooLarge(f"{len(drafts)} items; at most {self.limits.items} in one call")
        for i, draft in enumerate(drafts):
            check_new(i, draft)

    def _exists(self, name: str) -> bool:
        try:
            self.store.identity(name)
        except NotFound:
            return False
        return True


def check_own_name(name: str) -> None:
    """Refuse a name that cannot be given, or that only a re-embedding gives."""
    if check_name(name).startswith(SUCCESSOR):
        raise Invalid(
            f"names that begin with {SUCCESSOR!r} are for vectors that are being made: "
            "choose another",
            param="name",
        )


def _texts(drafts: Sequence[Draft]) -> list[str]:
    """Return the texts that are to be embedded."""
    return [draft.text for draft in drafts if draft.vector is None and draft.text is not None]


def _items(drafts: Sequence[Draft], embedded: Embedded | None) -> list[Item]:
    """Return drafts as items, with an id and, where they were embedded, a vector."""
    made: Iterator[Any] = iter(embedded.vectors) if embedded else repeat(None)
    return [
        Item(
            draft.id if draft.id is not None else uuid.uuid4().hex,
            next(made) if draft.vector is None else draft.vector,
            draft.text,
            draft.metadata,
        )
        for draft in drafts
    ]


def fingerprint_of(loaded: Loaded, request: EmbedRequest) -> str:
    """Return the space a request's vectors live in: the model's, or its cut to fewer dimensions."""
    full = loaded.facts.fingerprint
    cut = request.dimensions
    return full if cut is None or cut == loaded.facts.dimension else f"{full}/{cut}"
