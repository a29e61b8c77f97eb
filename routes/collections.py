"""The vector store's routes: collections, their vectors, search, texts stored and re-embedded."""

from dataclasses import asdict
from typing import Any

from flask import g

from auth import allow_collection, visible
from context import services
from engine import EmbedRequest
from errors import NotFound
from library import Draft, Query
from library.jobs import Job, no_job
from routes.embed import facts_headers
from routes.parse import client_gone
from routes.table import Reply, route
from schemas import Options
from schemas.collections import (
    AliasBody,
    CountBody,
    CreateBody,
    DeleteBody,
    IdsBody,
    ReembedBody,
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
    JobReply,
    JobsReply,
    PageReply,
    RecordReply,
    RecordsReply,
    StoredReply,
    WrittenReply,
)
from store.base import SUCCESSOR
from throttle import throttle

TAG = "collections"
READ = (400, 404, 422, 503)
WRITE = (400, 404, 409, 413, 415, 422, 503, 507)


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
    return Reply(dump_collection(info), 201 if new else 200)


@route("GET", "/collections", access="read", reply=CollectionsReply, errors=READ, tag=TAG)
def collections() -> dict[str, Any]:
    """List every collection."""
    rows = services().library.store.collections()
    return {
        "collections": [
            dump_collection(i) for i in rows if visible(i.name) and not i.name.startswith(SUCCESSOR)
        ]
    }


@route("GET", "/collections/<name>", access="read", reply=CollectionReply, errors=READ, tag=TAG)
def collection(name: str) -> dict[str, Any]:
    """Describe a collection."""
    return dump_collection(services().library.store.info(name))


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
    return Reply(dump_collection(services().library.alias(body.alias, name)), 201)


@route("DELETE", "/collections/<name>/aliases/<alias_name>", access="write", reply=DeletedReply,
       errors=WRITE, tag=TAG)  # fmt: skip
def unalias(name: str, alias_name: str) -> dict[str, Any]:
    """Take an alias away."""
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


@route("POST", "/embed-and-store", access="write", large=True, body=StoreTextsBody, reply=StoredReply,
       errors=(*WRITE, 429, 504), tag=TAG, success=(201,))  # fmt: skip
def embed_and_store(body: StoreTextsBody) -> Reply:
    """Embed one text or many and store them; the collection is made if it is not there."""
    allow_collection(body.collection)
    drafts = [Draft(*row) for row in body.rows]
    _note(len(drafts))
    stored = services().library.store_texts(
        body.collection, drafts, body.mode, _request(body, body.model), body.create
    )
    reply = {
        "collection": stored.collection.name,
        "created": stored.created,
        "ids": stored.ids,
        **asdict(stored.written),
        "dimension": stored.collection.dim,
        "model": stored.embedded.model.spec.model_name if stored.embedded else None,
    }
    return Reply(reply, 201, facts_headers(stored.embedded) if stored.embedded else {})


@route("POST", "/collections/<name>/search", access="read", large=True, body=SearchBody,
       reply=FoundReply, errors=(*READ, 409, 413, 415, 429, 504), tag=TAG)  # fmt: skip
def search(name: str, body: SearchBody) -> Reply:
    """Find the nearest to a vector, a text or a stored id; or to many at once."""
    options = {"filter": body.filter, "min_score": body.min_score, "include": body.include,
               "exact": body.exact}  # fmt: skip
    vectors = [body.vector] if body.vector is not None else body.vectors
    texts = [body.text] if body.text is not None else body.texts
    _note(len(texts or ()))
    query = Query(vectors, texts, body.id, body.k, body.offset, options)
    found, embedded = services().library.search(name, query, _request(body))
    return Reply(dump_found(found, body.many), headers=facts_headers(embedded) if embedded else {})


@route("GET", "/collections/<name>/vectors/<path:id_>", access="read", reply=RecordReply,
       errors=READ, tag=TAG)  # fmt: skip
def get_vector(name: str, id_: str) -> dict[str, Any]:
    """Return one record, its vector exactly as it was sent."""
    records = services().library.store.get(name, [id_])
    if not records:
        raise NotFound(f"no vector {id_[:64]!r} in collection {name!r}")
    return dump_record(records[0])


@route("DELETE", "/collections/<name>/vectors/<path:id_>", access="write", reply=DeletedCountReply,
       errors=WRITE, tag=TAG)  # fmt: skip
def delete_vector(name: str, id_: str) -> dict[str, Any]:
    """Delete one record."""
    if not services().library.delete(name, [id_], None):
        raise NotFound(f"no vector {id_[:64]!r} in collection {name!r}")
    return {"deleted": 1}


@route("POST", "/collections/<name>/vectors/delete", access="write", large=True, body=DeleteBody,
       reply=DeletedCountReply, errors=WRITE, tag=TAG)  # fmt: skip
def delete(name: str, body: DeleteBody) -> dict[str, Any]:
    """Delete by ids or by filter; say how many were there."""
    return {"deleted": services().library.delete(name, body.ids, body.filter)}


@route("POST", "/collections/<name>/vectors/get", access="read", large=True, body=IdsBody, reply=RecordsReply,
       errors=READ, tag=TAG)  # fmt: skip
def get_vectors(name: str, body: IdsBody) -> dict[str, Any]:
    """Return those of the ids that exist, in the order asked."""
    records = services().library.store.get(name, body.ids, body.include)
    return {"vectors": [dump_record(record) for record in records]}


@route("POST", "/collections/<name>/vectors/scroll", access="read", large=True, body=ScrollBody,
       reply=PageReply, errors=READ, tag=TAG)  # fmt: skip
def scroll(name: str, body: ScrollBody) -> dict[str, Any]:
    """Return the next records by id."""
    page = services().library.store.scroll(name, body.cursor, body.limit, body.filter, body.include)
    return {"vectors": [dump_record(r) for r in page.records], "next_cursor": page.next_cursor}


@route("POST", "/collections/<name>/vectors/count", access="read", large=True, body=CountBody, reply=CountReply,
       errors=READ, tag=TAG)  # fmt: skip
def count(name: str, body: CountBody) -> dict[str, Any]:
    """Count the records that match a filter."""
    return {"count": services().library.store.count(name, body.filter)}


@route("POST", "/collections/<name>/reembed", access="write", body=ReembedBody, reply=JobReply,
       errors=WRITE, tag=TAG, success=(202,))  # fmt: skip
def reembed(name: str, body: ReembedBody) -> Reply:
    """Give a collection another model's vectors, in the background."""
    job = services().reembedder.start(name, body.model)
    return Reply(_job(job), 202, {"Location": f"/jobs/{job.id}"})


@route("GET", "/jobs", access="read", reply=JobsReply, errors=(503,), tag=TAG)
def jobs() -> dict[str, Any]:
    """List background jobs, the newest first."""
    found = services().reembedder.jobs()
    return {"jobs": [_job(job) for job in found if visible(job.collection)]}


@route("GET", "/jobs/<id_>", access="read", reply=JobReply, errors=(404, 503), tag=TAG)
def job(id_: str) -> dict[str, Any]:
    """Tell how far a background job is."""
    found = services().reembedder.get(id_)
    if not visible(found.collection):  # as if there were none: that there is says something
        raise no_job(id_)
    return _job(found)


def _job(job: Job) -> dict[str, Any]:
    """Write a job, but for what only its next run needs to know."""
    return {key: value for key, value in asdict(job).items() if key != "target"}


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
