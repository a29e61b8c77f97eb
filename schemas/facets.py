"""The JSON of facets: what a collection's metadata holds."""

from typing import Annotated

from pydantic import Field, StrictInt, StrictStr
from typing_extensions import TypedDict

from documents.facets import Count, Facet, Facets
from schemas.base import Strict, doc, optional
from schemas.records import Filter
from store.budget import Budget

FIELDS_MOST, VALUES_MOST = 200, 100


class FacetsBody(Strict):
    """Body of `POST /collections/{name}/facets`."""

    filter: Filter = None
    fields: list[StrictStr] | None = optional(
        "Only these fields, as filters name them.", min_length=1, max_length=FIELDS_MOST
    )
    limit: StrictInt = Field(
        100, ge=1, le=FIELDS_MOST, description="Fields to describe, those of most records."
    )
    values: StrictInt = Field(
        10, ge=1, le=VALUES_MOST, description="Values to name of each field, the most frequent."
    )


class ValueReply(TypedDict):
    """A value, and how many records have it."""

    value: str | int | float | bool | None
    count: int


# `from` is a word of Python.
RangeReply = TypedDict(
    "RangeReply",
    {
        "from": Annotated[int | float, doc("The least number.")],
        "to": Annotated[int | float, doc("All are below it; in the last range it is the largest.")],
        "count": int,
    },
)
RangeReply.__doc__ = "A range of numbers."


class FacetReply(TypedDict):
    """One field, over the records that were looked at."""

    field: Annotated[str, doc("As filters name it: `author.name`.")]
    kinds: Annotated[
        dict[str, int],
        doc("Records with a string, number, boolean, null, list or object there."),
    ]
    missing: Annotated[int, doc("Records without the field.")]
    distinct: Annotated[
        int | None,
        doc("Different values and elements; null where they are too many, or some too long."),
    ]
    values: Annotated[list[ValueReply], doc("The most frequent values, of 200 characters at most.")]
    elements: Annotated[list[ValueReply], doc("The same of what is in lists, for `$contains`.")]
    ranges: Annotated[list[RangeReply], doc("The numbers, in ranges of about as many records.")]


class FacetsReply(TypedDict):
    """What the metadata of a collection holds, under a filter."""

    count: Annotated[int, doc("Records that match.")]
    looked_at: Annotated[int, doc("Records that all figures are of.")]
    exact: Annotated[bool, doc("Whether that is all of them; else it is a random choice.")]
    fields: Annotated[list[FacetReply], doc("The fields, those of most records first.")]
    left_out: Annotated[int, doc("Fields beyond these, at least.")]


def facets_reply(found: Facets, budget: Budget) -> FacetsReply:
    """Return the fields, as many as fit into the reply."""
    rows: list[FacetReply] = []
    for facet in found.fields:
        row = _row(facet)
        if not budget.takes(row) and rows:
            break
        rows.append(row)
    left_out = found.left_out + len(found.fields) - len(rows)
    return {
        "count": found.count, "looked_at": found.looked_at, "exact": found.exact,
        "fields": rows, "left_out": left_out,
    }  # fmt: skip


def _row(facet: Facet) -> FacetReply:
    return {
        "field": facet.field, "kinds": facet.kinds, "missing": facet.missing,
        "distinct": facet.distinct,
        "values": _values(facet.values), "elements": _values(facet.elements),
        "ranges": [{"from": r.start, "to": r.end, "count": r.records} for r in facet.ranges],
    }  # fmt: skip


def _values(counts: list[Count]) -> list[ValueReply]:
    return [{"value": each.value, "count": each.records} for each in counts]
