"""A collection's map: its records as points that a person can look at."""

from typing import Any

from context import services
from routes.table import route
from schemas.maps import MapQuery, MapReply, PlaceBody, dump_map
from store.plane import chart, chart_of


@route("GET", "/collections/<name>/map", access="read", query=MapQuery, reply=MapReply,
       errors=(404, 422, 503), tag="collections")  # fmt: skip
def collection_map(name: str, query: MapQuery) -> dict[str, Any]:
    """Place a collection's records on a plane by their first two principal components."""
    return dump_map(chart(services().library.store, name, query.limit))


@route("POST", "/collections/<name>/map", access="read", large=True, body=PlaceBody, reply=MapReply,
       errors=(404, 413, 422, 503), tag="collections")  # fmt: skip
def place_on_map(name: str, body: PlaceBody) -> dict[str, Any]:
    """Place the records asked for on the axes of the map, whether it shows them or not."""
    return dump_map(chart_of(services().library.store, name, body.limit, body.ids))
