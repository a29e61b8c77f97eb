"""The JSON of the vector store's routes, but for what is written into it (`items.py`).

Only shapes are checked here; what a name, an id, a vector or a filter may be is the store's rule.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from schemas.embed import Options
from schemas.items import LIMITS, Body
from schemas.vectors import BASE64, Float, Vector
from store import CollectionInfo, Found, Record
from store.base import PARTS
from store.validation import MAX_INDEXED

Parts = Annotated[list[Literal["vector", "text", "metadata"]], Field(max_length=len(PARTS))]
Ids = Annotated[list[StrictStr], Field(max_length=LIMITS.items)]


class CollectionsQuery(BaseModel):
    """Query string of `GET /collections`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(10_000, ge=1, le=10_000, description="Most collections to describe.")
    cursor: str | None = Field(None, description="The `next_cursor` of the list before.")


class CreateBody(Body):
    """Body of `POST /collections`."""

    name: StrictStr
    dimension: StrictInt | None = Field(
        None,
        validation_alias=AliasChoices("dimension", "dim"),
        description="Numbers per vector; may be left out where a model is named.",
    )
    metric: StrictStr = Field("cosine", description="`cosine` or `dot`.")
    model: StrictStr | None = Field(
        None,
        validation_alias=AliasChoices("model", "model_id"),
        description="The model whose vectors it will hold.",
    )
    if_exists: Literal["error", "ok"] = "error"
    indexed: list[StrictStr] = Field(
        [],
        max_length=MAX_INDEXED,
        description="Metadata fields as filters name them, kept ready for the first filter.",
    )


class SearchBody(Options):
    """Body of `POST /collections/{name}/search`: one query, or many in `vectors` or `texts`."""

    model_config = ConfigDict(protected_namespaces=(), **BASE64)

    vector: Vector | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=LIMITS.queries)] | None = None
    text: StrictStr | None = Field(None, validation_alias=AliasChoices("text", "query"))
    texts: Annotated[list[StrictStr], Field(min_length=1, max_length=LIMITS.queries)] | None = None
    id: StrictStr | None = Field(None, description="More like this one, which is left out.")
    k: StrictInt = Field(10, validation_alias=AliasChoices("k", "top_k", "limit"))
    filter: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("filter", "where"))
    min_score: Float | None = None
    offset: StrictInt = 0
    include: Parts = ["text", "metadata"]
    exact: StrictBool = False

    @model_validator(mode="after")
    def _one_query_form(self) -> Self:
        forms = (self.vector, self.vectors, self.text, self.texts, self.id)
        if sum(form is not None for form in forms) != 1:
            raise PydanticCustomError("query", "give one of vector, vectors, text, texts, id")
        return self

    @property
    def many(self) -> bool:
        """Whether several queries were asked at once."""
        return self.vectors is not None or self.texts is not None


class IdsBody(Body):
    """Body of `.../vectors/get`."""

    ids: Ids = Field(min_length=1)
    include: Parts = ["vector", "text", "metadata"]


class DeleteBody(Body):
    """Body of `.../vectors/delete`: ids or a filter."""

    ids: Ids | None = None
    filter: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("filter", "where"))

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise PydanticCustomError("delete", "give either ids or filter")
        return self


class ScrollBody(Body):
    """Body of `.../vectors/scroll`."""

    cursor: StrictStr | None = None
    limit: StrictInt = 100
    filter: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("filter", "where"))
    include: Parts = ["text", "metadata"]


class CountBody(Body):
    """Body of `.../vectors/count`."""

    filter: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("filter", "where"))


class AliasBody(Body):
    """Body of `POST /collections/{name}/aliases`."""

    alias: StrictStr


class ReembedBody(Body):
    """Body of `POST /collections/{name}/reembed`."""

    model: StrictStr = Field(validation_alias=AliasChoices("model", "model_id"))


def dump_collection(info: CollectionInfo) -> dict[str, Any]:
    """Write what is known of a collection."""
    return {
        "name": info.name,
        "dimension": info.dim,
        "metric": info.metric,
        "count": info.count,
        "model": info.model,
        "fingerprint": info.fingerprint,
        "aliases": list(info.aliases),
        "indexed": list(info.indexed),
        "created": info.created,
    }


def dump_record(record: Record) -> dict[str, Any]:
    """Write a record or hit with the parts it has."""
    body: dict[str, Any] = {"id": record.id}
    score = getattr(record, "score", None)
    if score is not None:
        body["score"] = score
    for part in ("text", "metadata", "vector"):
        value = getattr(record, part)
        if value is not None:
            body[part] = value
    return body


def dump_found(found: Found, many: bool) -> dict[str, Any]:
    """Write the hits: a list for one query, a list of lists for many."""
    rows = [[dump_record(hit) for hit in hits] for hits in found.hits]
    return {"results": rows if many else rows[0], "exact": found.exact}
