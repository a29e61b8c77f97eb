"""Maps of collections: the points, what lies near what, what is common to it, and its metadata."""

import numpy as np

from context import services
from documents.map_values import LOOKED_AT, fields, values
from errors import TooLarge
from routes.budget import budget_of_request
from routes.collections import READ, Read, Write, maps
from schemas import maps as schema

STALE = (*READ, 409)


@Read("GET", "/collections/<name>/map", scope=("name",))
def collection_map(name: str) -> schema.MapReply:
    """Return a collection's records as points; what means the same lies near."""
    budget = budget_of_request()
    picture = maps().picture(name, budget)
    if not budget.takes(picture.ids):
        raise TooLarge("the ids of the map would not fit into a reply (MAX_REPLY_BYTES)")
    known = maps().metadata(name, picture.state, budget, LOOKED_AT)
    return schema.map_reply(picture, fields(known))


@Read("POST", "/collections/<name>/map", scope=("name",), large=True, errors=STALE)
def place_on_map(name: str, body: schema.PlaceBody) -> schema.PlaceReply:
    """Say where the given records lie on the map, also those that it does not show."""
    return schema.place_reply(maps().place(name, body.state, body.ids, budget_of_request()))


@Read("GET", "/collections/<name>/map/groups", scope=("name",), errors=STALE)
def map_groups(name: str, query: schema.GroupsQuery) -> schema.GroupsReply:
    """Return the groups that lie together, named by their words (k-means, c-TF-IDF)."""
    names, of = maps().groups(name, query.state, budget_of_request())
    return {"names": names, "of": of}


@Read("GET", "/collections/<name>/map/values", scope=("name",), errors=STALE)
def map_values(name: str, query: schema.ValuesQuery) -> schema.ValuesReply:
    """Return the values of a metadata field at every point, to colour them."""
    found = maps().metadata(name, query.state, budget_of_request())
    return schema.values_reply(values(found, query.field))


@Read("GET", "/collections/<name>/map/neighbours", scope=("name",), errors=STALE)
def map_neighbours(name: str, query: schema.NeighboursQuery) -> schema.NeighboursReply:
    """Return the nearest neighbours of points from `start` on: of 16,384 at most."""
    most = max(1, services().config.max_reply_bytes // schema.ROW_BYTES)
    n, some = maps().neighbours(name, query.state, query.start, most, budget_of_request())
    return schema.neighbours_reply(n, some)


@Write("PUT", "/collections/<name>/map/layout", scope=("name",), large=True)
def lay_map_out(name: str, body: schema.MapLayoutBody) -> schema.MapLayoutReply:
    """Keep where the points of a map lie, so that others need not compute it."""
    points = np.asarray(body.points)
    maps().lay_out(name, body.state, points.reshape(-1, 2) if points.size % 2 == 0 else points,
                   budget_of_request())  # fmt: skip
    return {"points": len(points) // 2}
