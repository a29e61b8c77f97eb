"""A collection's map: its records as points that a person can look at."""

from typing import Any

from context import services
from documents.projection import chart, chart_of
from routes.bounds import budget_of_request
from routes.table import route
from schemas.maps import MapQuery, MapReply, PlaceBody, dump_map

ERRORS = (404, 413, 422, 503, 504)


@route("GET", "/collections/<name>/map", access="read", query=MapQuery, reply=MapReply,
       errors=ERRORS, tag="collections")  # fmt: skip
def collection_map(name: str, query: MapQuery) -> dict[str, Any]:
    """Place a collection's records on a plane by their first two principal components."""
    store = services().library.store
    return dump_map(chart(store, name, query.limit, budget_of_request()))


@route("POST", "/collections/<name>/map", access="read", large=True, body=PlaceBody, reply=MapReply,
       errors=ERRORS, tag="collections")  # fmt: skip
def place_on_map(name: str, body: PlaceBody) -> dict[str, Any]:
    """Place the records asked for on the axes of the map, whether it shows them or not."""
    store = services().library.store
    return dump_map(chart_of(store, name, body.limit, body.ids, budget_of_request()))
