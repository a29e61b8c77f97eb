"""The JSON of a collection's map."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from documents.projection import Chart
from schemas.strict import Strict


class MapQuery(BaseModel):
    """Query string of `GET /collections/{name}/map`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(
        1000,
        ge=1,
        le=2000,
        description="Most records to place; of more, a random choice that stays while they do.",
    )


class PlaceBody(Strict):
    """Body of `POST /collections/{name}/map`."""

    ids: list[StrictStr] = Field(min_length=1, max_length=100)
    limit: StrictInt = Field(1000, ge=1, le=2000, description="The `limit` of the map they go on.")


class PointReply(BaseModel):
    """One record's place."""

    id: str
    text: str | None
    x: float = Field(description="Between -1 and 1, as `y`.")
    y: float


class MapReply(BaseModel):
    """A collection on a plane."""

    points: list[PointReply]
    count: int = Field(description="Records in the collection, placed or not.")
    explained: list[float] = Field(description="Share of the variance along x and along y.")


def dump_map(chart: Chart) -> dict[str, Any]:
    """Write a chart; places are rounded to what a screen can show."""
    rows = zip(chart.records, chart.plane.points.tolist(), strict=True)
    return {
        "points": [
            {"id": record.id, "text": record.text, "x": round(x, 4), "y": round(y, 4)}
            for record, (x, y) in rows
        ],
        "count": chart.total,
        "explained": [round(share, 4) for share in chart.plane.explained],
    }
