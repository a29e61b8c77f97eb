"""The JSON of collections: their names and properties, their map, and jobs that re-embed them.

Only shapes are checked here; what a name or a model may be is the store's rule.
"""

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, StrictInt, StrictStr
from typing_extensions import TypedDict

from documents.projection import Chart
from schemas.base import Query, Seconds, Strict, doc, optional
from store.base import Metric
from store.validation import MAX_INDEXED

MAP_LIMIT = Field(
    1000,
    ge=1,
    le=2000,
    description="Most records to place; of more, a random choice that stays while they do.",
)


class CreateBody(Strict, protected_namespaces=()):
    """Body of `POST /collections`."""

    name: StrictStr
    dimension: StrictInt | None = Field(
        None,
        validation_alias=AliasChoices("dimension", "dim"),
        description="Numbers per vector; not needed where a model is named.",
    )
    metric: StrictStr = Field("cosine", description="`cosine` or `dot`.")
    model: StrictStr | None = Field(
        None,
        validation_alias=AliasChoices("model", "model_id"),
        description="The model that makes the collection's vectors.",
    )
    if_exists: Literal["error", "ok"] = "error"
    indexed: list[StrictStr] = Field(
        [],
        max_length=MAX_INDEXED,
        description="Metadata fields, as filters name them, that are indexed from the start.",
    )


class CollectionsQuery(Query):
    """Query string of `GET /collections`."""

    limit: int = Field(10_000, ge=1, le=10_000, description="Most collections to describe.")
    cursor: str | None = optional("The `next_cursor` of the list before.")


class CollectionReply(TypedDict):
    """One collection."""

    name: str
    dimension: int
    metric: Metric
    count: int
    model: Annotated[str | None, doc("The model that makes its vectors; null if none is recorded.")]
    fingerprint: str | None
    aliases: list[str]
    indexed: Annotated[list[str], doc("The metadata fields indexed from the start.")]
    created: Seconds


class CollectionsReply(TypedDict):
    """The collections that the caller may see, by name."""

    collections: list[CollectionReply]
    damaged: Annotated[list[str], doc("Those whose files are damaged, which are left out.")]
    next_cursor: Annotated[str | None, doc("Where the next list begins; null on the last.")]


class AliasBody(Strict):
    """Body of `POST /collections/{name}/aliases`."""

    alias: StrictStr


class DeletedReply(TypedDict):
    """The name of what was deleted."""

    deleted: str


class MapQuery(Query):
    """Query string of `GET /collections/{name}/map`."""

    limit: int = MAP_LIMIT


class PlaceBody(Strict):
    """Body of `POST /collections/{name}/map`."""

    ids: list[StrictStr] = Field(min_length=1, max_length=100)
    limit: StrictInt = Field(1000, ge=1, le=2000, description="The `limit` of the map they go on.")


class PointReply(TypedDict):
    """The place of one record."""

    id: str
    text: str | None
    x: Annotated[float, doc("Between -1 and 1, as `y`.")]
    y: float


class MapReply(TypedDict):
    """A collection as points on a plane."""

    points: list[PointReply]
    count: Annotated[int, doc("Records in the collection, placed or not.")]
    explained: Annotated[list[float], doc("Share of the variance along x and along y.")]


class ReembedBody(Strict, protected_namespaces=()):
    """Body of `POST /collections/{name}/reembed`."""

    model: StrictStr = Field(validation_alias=AliasChoices("model", "model_id"))


class JobReply(TypedDict):
    """One background job."""

    id: str
    collection: str
    source: str
    model: str
    state: Literal["running", "done", "failed"]
    done: int
    total: int
    cursor: str | None
    error: str | None
    created: Seconds
    updated: Seconds


class JobsReply(TypedDict):
    """Background jobs, the newest first."""

    jobs: list[JobReply]


def map_reply(chart: Chart) -> MapReply:
    """Return a map; places are rounded to what a screen can show."""
    places = zip(chart.records, chart.plane.points.tolist(), strict=True)
    return {
        "points": [
            {"id": record.id, "text": record.text, "x": round(x, 4), "y": round(y, 4)}
            for record, (x, y) in places
        ],
        "count": chart.total,
        "explained": [round(share, 4) for share in chart.plane.explained],
    }
