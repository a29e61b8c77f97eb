"""The JSON of maps: a collection's records as points, in columns, since there are many."""

from base64 import b64encode
from typing import Annotated, Literal

from pydantic import Field, StrictStr
from typing_extensions import TypedDict

from documents.map_values import FIELDS, SHADES, Categories, Scale
from documents.maps import MOST, Picture, Placed
from documents.neighbours import MOST as NEIGHBOURS
from documents.neighbours import Neighbours
from schemas.base import BASE64, Matrix, Numbers, Query, Strict, doc

ROW_BYTES = 2 * (2 + 4) * NEIGHBOURS  # of a point's neighbours in a reply, and more than base64's
STATE = Field(description="The map's `state`; 409 if the collection has changed since.")


class MapReply(TypedDict):
    """A collection as points on a plane; the first of a column belongs to the first of another."""

    state: Annotated[str, doc("Names this map in all that is asked about it.")]
    ids: list[str]
    x: Annotated[Numbers, doc("Between -1 and 1, as `y`.")]
    y: Numbers
    layout: Annotated[
        Literal["components", "neighbours"],
        doc("Whether the axes are the principal components, or neighbours stay near (UMAP)."),
    ]
    explained: Annotated[list[float], doc("Share of the variance along the two components.")]
    count: Annotated[int, doc(f"Records in the collection; of over {MOST:,} some, by chance.")]
    fields: Annotated[list[str], doc(f"Metadata to colour by, {FIELDS} fields at most.")]


class GroupsQuery(Query):
    """Query string of `GET /collections/{name}/map/groups`."""

    state: str = STATE


class GroupsReply(TypedDict):
    """Points that lie together, the largest group first."""

    names: Annotated[list[str], doc("What is common in a group's texts and rare in others.")]
    of: Annotated[Numbers, doc("The group of each point, an index into `names`.")]


class ValuesQuery(GroupsQuery):
    """Query string of `GET /collections/{name}/map/values`."""

    field: str = Field(max_length=1024, description="A metadata field, as filters name it.")


class ValuesReply(TypedDict):
    """A metadata field of every point: the commonest values, or numbers."""

    kind: Literal["categories", "numbers"]
    names: Annotated[list[str], doc("The commonest values.")]
    counts: Annotated[list[int], doc("How many points have each of them.")]
    others: Annotated[int, doc("How many have another value.")]
    of: Annotated[
        Numbers,
        doc(
            "Of each point: categories, an index into `names`, or their number for another value; "
            f"numbers, a shade from 0 to {SHADES - 1}; -1 if it has none."
        ),
    ]
    low: Annotated[float, doc("Numbers: the first shade; 2 % are below.")]
    high: Annotated[float, doc("Numbers: the last shade; 2 % are above.")]
    logarithmic: Annotated[bool, doc("Numbers: whether the shades are of their logarithms.")]


class NeighboursQuery(GroupsQuery):
    """Query string of `GET /collections/{name}/map/neighbours`."""

    start: int = Field(0, ge=0, description="The first point whose neighbours are wanted.")


class NeighboursReply(TypedDict):
    """The neighbours of some points, the nearest of each first."""

    points: Annotated[int, doc("Points of the map.")]
    start: int
    rows: Annotated[int, doc("Of so many points from `start` on; ask again from the next one.")]
    neighbours: Annotated[int, doc("Of each point.")]
    indices: Annotated[str, doc("Base64 of little-endian uint16, (rows, neighbours).")]
    distances: Annotated[
        str, doc("Base64 of little-endian float32, (rows, neighbours): 1 minus the cosine.")
    ]


class MapLayoutBody(Strict):
    """Body of `PUT /collections/{name}/map/layout`."""

    model_config = BASE64

    state: StrictStr = STATE
    points: Matrix = Field(
        description="Base64 of little-endian float32: x and y of each point, from -1 to 1."
    )


class MapLayoutReply(TypedDict):
    """How many points were laid out."""

    points: int


class PlaceBody(Strict):
    """Body of `POST /collections/{name}/map`."""

    state: StrictStr = STATE
    ids: list[StrictStr] = Field(min_length=1, max_length=100)


class PlacedReply(TypedDict):
    """A record, and the points of the map it lies between."""

    id: str
    text: str | None
    near: Annotated[list[int], doc("Indices of points: its own, or those of the most alike.")]
    weights: Annotated[list[float], doc("Of these points; their sum is 1.")]


class PlaceReply(TypedDict):
    """The records that exist and lie somewhere on the map."""

    points: list[PlacedReply]


def map_reply(picture: Picture, fields: list[str]) -> MapReply:
    """Return a map; places are rounded to what a screen can show."""
    x, y = picture.points.round(4).T
    return {
        "state": picture.state,
        "ids": picture.ids,
        "x": x.copy(),
        "y": y.copy(),
        "layout": "neighbours" if picture.laid_out else "components",
        "explained": [round(share, 4) for share in picture.explained],
        "count": picture.total,
        "fields": fields,
    }


def values_reply(values: Categories | Scale) -> ValuesReply:
    """Return a field's values; what belongs to the other kind is empty."""
    if isinstance(values, Scale):
        return {"kind": "numbers", "names": [], "counts": [], "others": 0, "of": values.of,
                "low": values.low, "high": values.high,
                "logarithmic": values.logarithmic}  # fmt: skip
    return {"kind": "categories", "names": values.names, "counts": values.counts,
            "others": values.others, "of": values.of, "low": 0.0, "high": 0.0,
            "logarithmic": False}  # fmt: skip


def neighbours_reply(points: int, some: Neighbours) -> NeighboursReply:
    """Return the neighbours of some points as base64: as text they would take thrice as much."""
    rows, k = some.indices.shape
    return {
        "points": points,
        "start": some.start,
        "rows": rows,
        "neighbours": k,
        "indices": b64encode(some.indices.astype("<u2").tobytes()).decode(),
        "distances": b64encode(some.distances.astype("<f4").tobytes()).decode(),
    }


def place_reply(placed: list[Placed]) -> PlaceReply:
    """Return where records lie."""
    return {
        "points": [
            {"id": one.record.id, "text": one.record.text, "near": one.near,
             "weights": [round(weight, 4) for weight in one.weights]}
            for one in placed
        ]
    }  # fmt: skip
