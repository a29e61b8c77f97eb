"""Collections: their names and properties."""

import bisect
from functools import partial

from auth import caller, shown, visible
from context import services
from documents.maps import Maps
from errors import Corrupt, NotFound
from routes.budget import budget_of_request
from routes.table import Reply, Route
from schemas import collections as schema
from schemas.base import reply
from store import CollectionInfo
from store.base import SUCCESSOR

TAG = "collections"
READ = (400, 404, 413, 422, 503, 504)
WRITE = (400, 404, 409, 413, 415, 422, 503, 504, 507)
Read = partial(Route, tag=TAG, access="read", works=True, errors=READ)
Write = partial(Route, tag=TAG, access="write", works=True, errors=WRITE)


@Write("POST", "/collections", scope=("name",), success=(200, 201))
def create(body: schema.CreateBody) -> Reply[schema.CollectionReply]:
    """Create a collection."""
    info, new = services().documents.create(
        body.name, body.dimension, body.metric, body.model, body.if_exists, body.indexed
    )
    return Reply(_described(info, body.name), 201 if new else 200)


@Read("GET", "/collections")
def collections(query: schema.CollectionsQuery) -> schema.CollectionsReply:
    """List the collections by name; `next_cursor` leads to more if they do not all fit."""
    store, budget, scope = services().documents.store, budget_of_request(), caller().collections
    names = sorted(store.names() if scope is None else scope)
    rows: dict[str, schema.CollectionReply] = {}  # by uuid: a key may know one by several names
    damaged: list[str] = []
    last = None
    for name in names[bisect.bisect_right(names, query.cursor or "") :]:
        if name.startswith(SUCCESSOR):
            continue
        try:
            info = store.info(name)
            row = _described(info, name)
            if len(rows) == query.limit or (not budget.takes(row) and rows):
                break
            rows.setdefault(info.uuid, row)
        except NotFound:  # dropped meanwhile
            pass
        except Corrupt:  # it hides no other
            damaged.append(name)
        last = name
    else:
        last = None
    return {"collections": list(rows.values()), "damaged": damaged, "next_cursor": last}


@Read("GET", "/collections/<name>", scope=("name",))
def collection(name: str) -> schema.CollectionReply:
    """Describe a collection."""
    return _described(services().documents.store.info(name), name)


@Write("DELETE", "/collections/<name>", scope=("name",))
def drop(name: str) -> schema.DeletedReply:
    """Delete a collection with all its records."""
    store = services().documents.store
    uuid = store.identity(name).uuid
    store.drop(name)
    maps().forget(uuid)
    return {"deleted": name}


@Write("POST", "/collections/<name>/aliases", scope=("name", "alias"), success=(201,))
def alias(name: str, body: schema.AliasBody) -> Reply[schema.CollectionReply]:
    """Give a collection another name; an existing alias moves to it at once."""
    return Reply(_described(services().documents.alias(body.alias, name), name), 201)


@Write("DELETE", "/collections/<name>/aliases/<alias_name>", scope=("name", "alias_name"))
def unalias(name: str, alias_name: str) -> schema.DeletedReply:
    """Remove an alias."""
    if alias_name not in services().documents.store.info(name).aliases:
        raise NotFound(f"collection {name!r} has no alias {alias_name[:64]!r}")
    services().documents.store.unalias(alias_name)
    return {"deleted": alias_name}


def maps() -> Maps:
    """Return the maps of the store's collections."""
    return Maps(services().documents.store, services().config.store_dir / "maps")


def known(name: str, asked: str) -> str:
    """Return a collection's name, or the one that was asked for if the key is only for that."""
    return name if visible(name) else asked


def _described(info: CollectionInfo, asked: str) -> schema.CollectionReply:
    """Return a collection with those of its names that the caller may know."""
    name = known(info.name, asked)
    aliases = [each for each in info.aliases if visible(each) and each != name]
    model = None if info.model is None else shown(info.model)
    return reply(
        schema.CollectionReply, info, name=name, dimension=info.dim, model=model, aliases=aliases
    )
