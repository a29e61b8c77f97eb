"""Records of collections: stored, embedded and stored, searched, read, deleted."""

from flask import g

from auth import shown
from context import services
from documents import Query
from documents.facets import facets
from errors import NotFound
from rate_limits import throttle
from routes.budget import budget_of_request
from routes.collections import READ, WRITE, Read, Write, known
from routes.embed import facts_headers, request_of
from routes.table import Reply
from schemas import records as schema
from schemas.base import reply
from schemas.facets import FacetsBody, FacetsReply, facets_reply


@Write("POST", "/collections/<name>/vectors", scope=("name",), large=True, success=(201,))
def add(name: str, body: schema.AddBody) -> Reply[schema.WrittenReply]:
    """Store one vector or text, or many; all or none."""
    drafts = body.drafts
    _count_texts(len(drafts))
    stored = services().documents.add(name, drafts, body.mode, request_of(body))
    answer = reply(schema.WrittenReply, stored.written, ids=stored.ids)
    return Reply(answer, 201, facts_headers(stored.embedded))


@Write("POST", "/embed-and-store", scope=("collection",), large=True, errors=(*WRITE, 429),
       success=(201,))  # fmt: skip
def embed_and_store(body: schema.StoreTextsBody) -> Reply[schema.StoredReply]:
    """Embed one text or many and store them; the collection is created if it does not exist."""
    drafts = body.drafts
    _count_texts(len(drafts))
    stored = services().documents.add(
        body.collection, drafts, body.mode, request_of(body, model=body.model), body.create
    )
    answer = reply(
        schema.StoredReply,
        stored.written,
        collection=known(stored.collection.name, body.collection),
        created=stored.created,
        ids=stored.ids,
        dimension=stored.collection.dim,
        model=shown(stored.embedded.model.spec.model_name) if stored.embedded else None,
    )
    return Reply(answer, 201, facts_headers(stored.embedded))


@Read("POST", "/collections/<name>/search", scope=("name",), large=True,
      errors=(*READ, 409, 415, 429))  # fmt: skip
def search(name: str, body: schema.SearchBody) -> Reply[schema.FoundReply]:
    """Find the records nearest to a vector, a text or a stored id, or to several at once."""
    options = {"filter": body.filter, "min_score": body.min_score, "include": body.include,
               "exact": body.exact}  # fmt: skip
    vectors = [body.vector] if body.vector is not None else body.vectors
    texts = [body.text] if body.text is not None else body.texts
    _count_texts(len(texts or ()))
    query = Query(vectors, texts, body.id, body.k, body.offset, options)
    found, embedded = services().documents.search(
        name, query, request_of(body), budget_of_request()
    )
    return Reply(schema.found_reply(found, body.many), headers=facts_headers(embedded))


@Read("GET", "/collections/<name>/vectors/<path:id_>", scope=("name",))
def get_vector(name: str, id_: str) -> schema.RecordReply:
    """Return one record, its vector exactly as it was sent."""
    records = services().documents.store.get(name, [id_], budget=budget_of_request())
    if not records:
        raise NotFound(f"no vector {id_[:64]!r} in collection {name!r}")
    return schema.record_reply(records[0])


@Write("DELETE", "/collections/<name>/vectors/<path:id_>", scope=("name",))
def delete_vector(name: str, id_: str) -> schema.DeletedCountReply:
    """Delete one record."""
    if not services().documents.store.delete(name, [id_]):
        raise NotFound(f"no vector {id_[:64]!r} in collection {name!r}")
    return {"deleted": 1}


@Write("POST", "/collections/<name>/vectors/delete", scope=("name",), large=True)
def delete(name: str, body: schema.DeleteBody) -> schema.DeletedCountReply:
    """Delete records by ids or by a filter; return how many existed."""
    store = services().documents.store
    return {"deleted": store.delete(name, body.ids, body.filter, budget_of_request())}


@Read("POST", "/collections/<name>/vectors/get", scope=("name",), large=True)
def get_vectors(name: str, body: schema.IdsBody) -> schema.RecordsReply:
    """Return the records with these ids, in this order, without those that do not exist."""
    records = services().documents.store.get(name, body.ids, body.include, budget_of_request())
    return {"vectors": [schema.record_reply(record) for record in records]}


@Read("POST", "/collections/<name>/vectors/scroll", scope=("name",), large=True)
def scroll(name: str, body: schema.ScrollBody) -> schema.PageReply:
    """Return the next records by id: as many as asked for, or as fit into a reply."""
    page = services().documents.store.scroll(
        name, body.cursor, body.limit, body.filter, body.include, budget_of_request()
    )
    return {
        "vectors": [schema.record_reply(r) for r in page.records],
        "next_cursor": page.next_cursor,
    }


@Read("POST", "/collections/<name>/vectors/count", scope=("name",), large=True)
def count(name: str, body: schema.CountBody) -> schema.CountReply:
    """Count the records that match a filter."""
    return {"count": services().documents.store.count(name, body.filter, budget_of_request())}


@Read("POST", "/collections/<name>/facets", scope=("name",), large=True)
def describe_metadata(name: str, body: FacetsBody) -> FacetsReply:
    """Describe the metadata of a collection's records: fields, top values, ranges of numbers."""
    budget = budget_of_request()
    found = facets(
        services().documents.store, name, body.filter, body.fields, body.limit, body.values, budget
    )
    return facets_reply(found, budget)


def _count_texts(texts: int) -> None:
    throttle().count_texts(texts)
    g.facts = {"texts": texts}
