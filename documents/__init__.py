"""Documents in collections: stores and searches texts, and never mixes two models' vectors.

A collection remembers whose vectors it holds; another model's are refused with what to do.
Re-embedding in the background is in `reembed.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar, cast
from uuid import uuid4

import numpy as np

from embedders.base import DENSE
from engine import Embedded, EmbedRequest, Engine
from errors import Conflict, Invalid, NotFound, ServiceError, TooLarge
from observability import tracing
from observability.names import public_name
from serving.model import Loaded
from serving.selection import select
from store import CollectionInfo, Found, Item, Limits, VectorStore, Written, validation
from store.base import SUCCESSOR, Identity, IfExists, Metric, Mode, successor
from store.budget import UNBOUNDED, Budget
from store.filters import FIELD, FIELD_CHARS, path_of
from store.values import brief

# A re-embedding may switch another collection in under a name while one is searched or texts are
# embedded for it. Its uuid shows that, and all is done again with the new one.
ATTEMPTS = 3
MOST_ALIASES = 100  # of one collection: every description lists them all
# Clients resolve dot segments before they send a path (RFC 3986, 5.2.4; browsers between
# backslashes too), so `vectors/..` would be another address. Control characters are removed or
# refused on the way.
UNSAFE = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)|[\x00-\x1f\x7f-\x9f]")

T = TypeVar("T")


class Draft(NamedTuple):
    """A record to store: its vector, or a text to embed."""

    id: str | None = None
    vector: Any = None
    text: str | None = None
    metadata: dict[str, Any] = {}  # never modified


@dataclass(frozen=True)
class Stored:
    """What was stored, and what embedding cost if anything was embedded."""

    ids: list[str]
    written: Written
    collection: Identity
    created: bool = False
    embedded: Embedded | None = None


@dataclass(frozen=True)
class Query:
    """What to search for: vectors, texts, or the neighbours of a stored id."""

    vectors: Sequence[Any] | None = None
    texts: Sequence[str] | None = None
    id: str | None = None
    k: int = 10
    offset: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # the store's own: filter, min_score, ...


class Documents:
    """Stores and finds texts. `limits` are the store's."""

    def __init__(self, engine: Engine, store: VectorStore, limits: Limits | None = None) -> None:
        self._engine = engine
        self.store = store
        self.limits = limits or Limits()

    def create(
        self, name: str, dimension: int | None, metric: str, model: str | None, if_exists: str,
        indexed: Sequence[str] = (),
    ) -> tuple[CollectionInfo, bool]:  # fmt: skip
        """Create a collection; return it, and whether it is new.

        With a model its dimension and fingerprint are the model's. Raises Invalid, Conflict.
        """
        fingerprint = None
        if model is not None:
            found, loaded = select(self._engine.registry, model, DENSE)
            facts = loaded.facts
            if dimension is not None and dimension != facts.dimension:
                own = f"vectors of {model!r} have {facts.dimension}"
                raise Invalid(f"dimension {dimension}: {own}", param="dimension")
            dimension, model = facts.dimension, found.spec.model_name
            fingerprint = facts.fingerprint
        check_own_name(name)
        if dimension is None:
            raise Invalid("give a dimension or a model", param="dimension")
        return self.store.create(
            name, dimension, cast(Metric, metric), model, fingerprint, cast(IfExists, if_exists),
            indexed,
        )  # fmt: skip

    def add(
        self, name: str, drafts: Sequence[Draft], mode: Mode, embed: EmbedRequest,
        create: bool = False, uuid: str | None = None,
    ) -> Stored:  # fmt: skip
        """Store drafts, embedding the texts that have no vector.

        With `create` a missing collection is made for the model, once everything it will hold is
        known: a refused request leaves no collection behind. With `uuid` they go into that
        collection and no other of the name. Raises NotFound, Conflict, Invalid, TooLarge, and what
        the engine raises.
        """
        if len(drafts) > self.limits.items:
            raise TooLarge(f"{len(drafts)} items; at most {self.limits.items} in one call")
        for i, draft in enumerate(drafts):
            check_new(i, draft)
        items = [
            Item(draft.id if draft.id is not None else uuid4().hex, draft.vector,
                 draft.text, draft.metadata)
            for draft in drafts
        ]  # fmt: skip
        create = create and mode != "update"
        return self._again_if_replaced(
            name, lambda found: self._add(found, name, items, mode, embed, uuid), create,
            writes=True,
        )  # fmt: skip

    def search(
        self, name: str, query: Query, embed: EmbedRequest, budget: Budget = UNBOUNDED
    ) -> tuple[Found, Embedded | None]:
        """Return the records nearest to each query, all of them in one state of the collection.

        Texts are embedded again, at most twice, if another collection comes under the name
        meanwhile. Raises NotFound, Conflict, Invalid, TooLarge, and what the engine raises.
        """

        return self._again_if_replaced(
            name, lambda found: self._search(found, name, query, embed, budget.anew())
        )

    def alias(self, alias: str, name: str) -> CollectionInfo:
        """Give a collection another name; return its description. Raises Invalid, NotFound."""
        check_own_name(alias)
        aliases = self.store.info(name).aliases
        if len(aliases) >= MOST_ALIASES and alias not in aliases:
            most = f"{len(aliases)} aliases, at most {MOST_ALIASES}"
            raise Invalid(f"collection {name!r} has {most}: delete one", param="alias")
        self.store.alias(alias, name)
        return self.store.info(name)

    # ---- which collection

    def _find(self, name: str, missing_ok: bool = True) -> Identity | None:
        try:
            return self.store.identity(name)
        except NotFound:
            if missing_ok:
                return None
            raise

    def _again_if_replaced(
        self, name: str, work: Callable[[Identity | None], T], missing_ok: bool = False,
        writes: bool = False,
    ) -> T:  # fmt: skip
        """Return `work(collection)`, done with one collection of that name from start to end.

        An error is final unless another collection came under the name meanwhile. A result is
        final too if `work` writes, since it writes into that collection or fails.
        """
        for _ in range(ATTEMPTS - 1):
            found = self._find(name, missing_ok)
            try:
                result = work(found)
            except ServiceError:
                if self._is_still(found, name):
                    raise
                continue
            if writes or self._is_still(found, name):
                return result
        return work(self._find(name, missing_ok))

    def _is_still(self, found: Identity | None, name: str) -> bool:
        now = self._find(name)
        return (now and now.uuid) == (found and found.uuid)

    # ---- steps

    def _add(
        self, found: Identity | None, name: str, items: list[Item], mode: Mode,
        embed: EmbedRequest, uuid: str | None,
    ) -> Stored:  # fmt: skip
        """Store items in the collection that was found and in no other, or in a new one."""
        if found is not None:
            validation.check_uuid(found.uuid, uuid, name)
        if found is None:
            check_own_name(name)
        texts = [str(item.text) for item in items if item.vector is None and item.text is not None]
        embedded, created = None, False
        if texts or found is None:
            validation.check_columns(items, self.limits)  # before the work of embedding
            if found and self._find(successor(found.uuid)):
                raise validation.being_replaced()
            embedded = self._embed(found, name, replace(embed, inputs=texts), "document")
            vectors = iter(embedded.vectors)
            items = [i if i.vector is not None else replace(i, vector=next(vectors)) for i in items]
        if embedded and (found is None or found.model is None or found.fingerprint is None):
            # A refused write must neither create a collection nor bind one to a model. The model
            # is recorded before the write, so that two models cannot both write first.
            dim = found.dim if found else embedded.vectors.shape[1]
            metric: Metric = found.metric if found else "cosine"
            validation.check_items(items, dim, metric, self.limits)
            model, mark = embedded.model.spec.model_name, fingerprint_of(embedded.loaded, embed)
            if found is None:
                found, created = self.store.create(name, dim, metric, model, mark, if_exists="ok")
            else:
                validation.check_mode(mode)
                if mode != "upsert":
                    ids = [item.id for item in items]
                    there = {record.id for record in self.store.get(name, ids, ())}
                    validation.check_present(mode, ids, there)
                self.store.stamp(name, model, mark)
        assert found is not None
        with tracing.stage("store"):
            written = self.store.upsert(name, items, mode, found.uuid)
        return Stored([item.id for item in items], written, found, created, embedded)

    def _search(
        self, found: Identity | None, name: str, query: Query, embed: EmbedRequest, budget: Budget
    ) -> tuple[Found, Embedded | None]:
        embedded = None
        options = query.options | {"budget": budget}
        vectors: Any = query.vectors
        if query.id is not None:
            records = self.store.get(name, [query.id], ["vector"], budget.unmetered())
            if not records:
                raise NotFound(f"no vector {query.id[:64]!r} in collection {name!r}")
            vectors = np.asarray(records[0].vector)[None, :]
            options["without"] = query.id
        elif query.texts is not None:
            if len(query.texts) > self.limits.queries:
                most = f"at most {self.limits.queries} in one call"
                raise TooLarge(f"{len(query.texts)} queries; {most}")
            embedded = self._embed(found, name, replace(embed, inputs=list(query.texts)), "query")
            vectors = embedded.vectors
        with tracing.stage("store"):
            result = self.store.search(name, vectors, query.k, offset=query.offset, **options)
        return result, embedded

    def _embed(
        self, found: Identity | None, name: str, request: EmbedRequest, role: str
    ) -> Embedded:
        """Embed with the collection's own model. Raises Conflict for any other."""
        asked = request.model if request.model is not None else (found.model if found else None)
        taken = model, loaded = select(self._engine.registry, asked, DENSE, request.deadline)
        mark = fingerprint_of(loaded, request)
        if found and found.fingerprint is not None and found.fingerprint != mark:
            raise Conflict(
                f"collection {name!r} holds vectors of {public_name(found.model or '')} "
                f"(fingerprint {found.fingerprint}), not of {public_name(model.spec.model_name)} "
                f"({mark}): ask for the model it holds, use another collection, or POST "
                f"/collections/{name}/reembed"
            )
        role = request.role if request.role is not None else role
        return self._engine.embed(replace(request, model=model.spec.id, role=role, taken=taken))


def check_own_name(name: str) -> None:
    """Raise Invalid for a name that is not allowed, or is one of a re-embedding."""
    if validation.check_name(name).startswith(SUCCESSOR):
        raise Invalid(
            f"names that begin with {SUCCESSOR!r} are for vectors in the making: choose another",
            param="name",
        )


def fingerprint_of(loaded: Loaded, request: EmbedRequest) -> str:
    """Return the fingerprint of a request's vectors: the model's, or its cut to `dimensions`."""
    full, cut = loaded.facts.fingerprint, request.dimensions
    return full if cut is None or cut == loaded.facts.dimension else f"{full}/{cut}"


def check_new(i: int, draft: Draft) -> None:
    """Raise Invalid for an id that a URL cannot carry, or metadata that no filter can name.

    The stores accept them, for programs that use one without HTTP.
    """
    if draft.id is not None and UNSAFE.search(draft.id):
        raise Invalid(
            f"item {i}: {brief(draft.id)} cannot be an id: in a URL clients resolve . and .. "
            "between slashes, and drop control characters; leave them out",
            param="id",
        )
    _check_keys(i, draft.metadata)


def _check_keys(i: int, value: object, path: str | None = "") -> None:
    """Check the keys of a value at `path`, as filters name it; None inside a list."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not key or "." in key or key[0] == "$":
                other = key.replace(".", "_").lstrip("$") or "name"
                raise Invalid(
                    f"item {i}: the metadata key {brief(key)} cannot be named in a filter: a name "
                    "is not empty, a dot steps into an object and $ starts an operator; use for "
                    f"example {brief(other)}, or a nested object",
                    param="metadata",
                )
            inner = None if path is None else f"{path}.{key}" if path else key
            if inner is not None and path_of(inner) is None:
                raise Invalid(
                    f"item {i}: the metadata key {brief(key)} cannot be named in a filter: a field "
                    f"is {FIELD}, {FIELD_CHARS} characters at most; use shorter keys or nest less",
                    param="metadata",
                )
            _check_keys(i, each, inner)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, Mapping | list):  # not a long list's numbers, one by one
                _check_keys(i, each, None)
