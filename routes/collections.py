"""The vector store's routes: collections, their vectors, search, texts stored and re-embedded."""

import bisect
import contextlib
from dataclasses import asdict, replace
from typing import Any

from flask import g

from auth import allow_collection, caller, visible
from context import services
from documents import Query
from documents.rules import Draft
from engine import EmbedRequest
from errors import NotFound
from rate_limits import throttle
from routes.bounds import budget_of_request, known
from routes.embed import facts_headers
from routes.parse import client_gone
from routes.table import Reply, route
from schemas import Options
from schemas.collections import (
    AliasBody,
    CollectionsQuery,
    CountBody,
    CreateBody,
    DeleteBody,
    IdsBody,
    ScrollBody,
    SearchBody,
    dump_collection,
    dump_found,
    dump_record,
)
from schemas.items import AddBody, StoreTextsBody
from schemas.replies import (
    CollectionReply,
    CollectionsReply,
    CountReply,
    DeletedCountReply,
    DeletedReply,
    FoundReply,
    PageReply,
    RecordReply,
    RecordsReply,
    StoredReply,
    WrittenReply,
)
from store import CollectionInfo
from store.base import SUCCESSOR

TAG = "collections"
READ = (400, 404, 413, 422, 503, 504)
WRITE = (400, 404, 409, 413, 415, 422, 503, 504, 507)


@route(
    "POST",
    "/collections",
    access="write",
    body=CreateBody,
    reply=CollectionReply,
    errors=WRITE,
    tag=TAG,
    success=(200, 201),
)
def create(body: CreateBody) -> Reply:
    """Make a collection."""
    allow_collection(body.name)
    info, new = services().library.create(
        body.name, body.dimension, body.metric, body.model, body.if_exists, body.indexed
    )
    return Reply(_described(info, body.name), 201 if new else 200)


@route("GET", "/collections", access="read", query=CollectionsQuery, reply=CollectionsReply,
       errors=READ, tag=TAG)  # fmt: skip
def collections(query: CollectionsQuery) -> dict[str, Any]:
    """List the collections by name; `next_cursor` leads to more where not all fit."""
    store, budget, scope = services().library.store, budget_of_request(), caller().collections
    names = sorted(store.names() if scope is None else scope)
    rows: dict[str, dict[str, Any]] = {}  # by uuid: a key may know one by several names
    last = None
    for name in names[bisect.bisect_right(names, query.cursor or "") :]:
        if name.startswith(SUCCESSOR):
            continue
        with contextlib.suppress(NotFound):  # dropped meanwhile
            info = store.info(name)
            row = _described(info, name)
            if len(rows) == query.limit or (not budget.takes(row) and rows):
                return {"collections": list(rows.values()), "next_cursor": last}
            rows.setdefault(info.uuid, row)
        last = name
    return {"collections": list(rows.values()), "next_cursor": None}


@route("GET", "/collections/<name>", access="read", reply=CollectionReply, errors=READ, tag=TAG)
def collection(name: str) -> dict[str, Any]:
    """Describe a collection."""
    return _described(services().library.store.info(name), name)


@route("DELETE", "/collections/<name>", access="write", reply=DeletedReply, errors=WRITE, tag=TAG)
def drop(name: str) -> dict[str, Any]:
    """Delete a collection with all it holds."""
    services().library.store.drop(name)
    return {"deleted": name}


@route(
    "POST",
    "/collections/<name>/aliases",
    access="write",
    body=AliasBody,
    reply=CollectionReply,
    errors=WRITE,
    tag=TAG,
    success=(201,),
)
def alias(name: str, body: AliasBody) -> Reply:
    """Give a collection another name, at once if the name pointed elsewhere."""
    allow_collection(body.alias)
    return Reply(_described(services().library.alias(body.alias, name), name), 201)


@route("DELETE", "/collections/<name>/aliases/<alias_name>", access="write", reply=DeletedReply,
       errors=WRITE, tag=TAG)  # fmt: skip
def unalias(name: str, alias_name: str) -> dict[str, Any]:
    """Take an alias away."""
    allow_collection(alias_name)
    if alias_name not in services().library.store.info(name).aliases:
        raise NotFound(f"collection {name!r} has no alias {alias_name[:64]!r}")
    services().library.store.unalias(alias_name)
    return {"deleted": alias_name}


@route(
    "POST",
    "/collections/<name>/vectors",
    access="write",
    large=True,
    body=AddBody,
    reply=WrittenReply,
    errors=WRITE,
    tag=TAG,
    success=(201,),
)
def add(name: str, body: AddBody) -> Reply:
    """Store one vector or text, or many, all or none."""
    drafts = [Draft(*row) for row in body.rows]
    _note(len(drafts))
    stored = services().library.add(name, drafts, body.mode, _request(body))
    headers = facts_headers(stored.embedded) if stored.embedded else {}
    return Reply({"ids": stored.ids, **asdict(stored.written)}, 201, headers)


@route("POST", "/embed-and-store", access="write", large=True, body=StoreTextsBody,
       reply=StoredReply, errors=(*WRITE, 429), tag=TAG, success=(201,))  # fmt: skip
def embed_and_store(body: StoreTextsBody) -> Reply:
    """Embed one text or many and store them; the collection is made if it is not there."""
    allow_collection(body.collection)
    drafts = [Draft(*row) for row in body.rows]
    _note(len(drafts))
    stored = services().library.store_texts(
        body.collection, drafts, body.mode, _request(body, body.model), body.create
    )
    reply = {
        "collection": known(stored.collection.name, body.collection),
        "created": stored.created,
        "ids": stored.ids,
        **asdict(stored.written),
        "dimension": stored.collection.dim,
        "model": stored.embedded.model.spec.model_name if stored.embedded else None,
    }
    return Reply(reply, 201, facts_headers(stored.embedded) if stored.embedded else {})


@route("POST", "/collections/<name>/search", access="read", large=True, body=SearchBody,
       reply=FoundReply, errors=(*READ, 409, 415, 429), tag=TAG)  # fmt: skip
def search(name: str, body: SearchBody) -> Reply:
    """Find the nearest to a vector, a text or a stored id; or to many at once."""
    options = {"filter": body.filter, "min_score": body.min_score, "include": body.include,
               "exact": body.exact}  # fmt: skip
    vectors = [body.vector] if body.vector is not None else body.vectors
    texts = [body.text] if body.text is not None else body.texts
    _note(len(texts or ()))
    query = Query(vectors, texts, body.id, body.k, body.offset, options)
    found, embedded = services().library.search(name, query, _request(body), budget_of_request())
    return Reply(dump_found(found, body.many), headers=facts_headers(embedded) if embedded else {})


@route("GET", "/collections/<name>/vectors/<path:id_>", access="read", reply=RecordReply,
       errors=READ, tag=TAG)  # fmt: skip
def get_vector(name: str, id_: str) -> dict[str, Any]:
    """Return one record, its vector exactly as it was sent."""
    records = services().library.store.get(name, [id_], budget=budget_of_request())
    if not records:
        raise NotFound(f"no vector {id_[:64]!r} in collection {name!r}")
    return dump_record(records[0])


@route("DELETE", "/collections/<name>/vectors/<path:id_>", access="write", reply=DeletedCountReply,
       errors=WRITE, tag=TAG)  # fmt: skip
def delete_vector(name: str, id_: str) -> dict[str, Any]:
    """Delete one record."""
    if not services().library.store.delete(name, [id_]):
        raise NotFound(f"no vector {id_[:64]!r} in collection {name!r}")
    return {"deleted": 1}


@route("POST", "/collections/<name>/vectors/delete", access="write", large=True, body=DeleteBody,
       reply=DeletedCountReply, errors=WRITE, tag=TAG)  # fmt: skip
def delete(name: str, body: DeleteBody) -> dict[str, Any]:
    """Delete by ids or by filter; say how many were there."""
    store = services().library.store
    return {"deleted": store.delete(name, body.ids, body.filter, budget_of_request())}


@route("POST", "/collections/<name>/vectors/get", access="read", large=True, body=IdsBody,
       reply=RecordsReply, errors=READ, tag=TAG)  # fmt: skip
def get_vectors(name: str, body: IdsBody) -> dict[str, Any]:
    """Return those of the ids that exist, in the order asked."""
    records = services().library.store.get(name, body.ids, body.include, budget_of_request())
    return {"vectors": [dump_record(record) for record in records]}


@route("POST", "/collections/<name>/vectors/scroll", access="read", large=True, body=ScrollBody,
       reply=PageReply, errors=READ, tag=TAG)  # fmt: skip
def scroll(name: str, body: ScrollBody) -> dict[str, Any]:
    """Return the next records by id: as many as were asked for, or as a reply may have."""
    page = services().library.store.scroll(
        name, body.cursor, body.limit, body.filter, body.include, budget_of_request()
    )
    return {"vectors": [dump_record(r) for r in page.records], "next_cursor": page.next_cursor}


@route("POST", "/collections/<name>/vectors/count", access="read", large=True, body=CountBody,
       reply=CountReply, errors=READ, tag=TAG)  # fmt: skip
def count(name: str, body: CountBody) -> dict[str, Any]:
    """Count the records that match a filter."""
    return {"count": services().library.store.count(name, body.filter, budget_of_request())}


def _described(info: CollectionInfo, asked: str) -> dict[str, Any]:
    """Write what is known of a collection, with those of its names that the caller may know."""
    name = known(info.name, asked)
    aliases = tuple(each for each in info.aliases if visible(each) and each != name)
    return dump_collection(replace(info, name=name, aliases=aliases))


def _request(options: Options, model: str | None = None) -> EmbedRequest:
    return EmbedRequest(
        inputs=(),
        model=model,
        dimensions=options.dimensions,
        truncate=options.truncate,
        prompt_name=options.prompt_name,
        prompt=options.prompt,
        role=options.input_type,
        deadline=g.deadline,
        gone=client_gone(),
    )


def _note(texts: int) -> None:
    throttle().count_texts(texts)
    g.facts = {"texts": texts}
