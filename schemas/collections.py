"""The JSON of the vector store's routes: what bodies are accepted and how hits are written.

Only shapes are checked here; what a name, an id, a vector or a filter may be is the store's rule.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from schemas.embed import Options
from schemas.vectors import BASE64, Float, Vector
from store import CollectionInfo, Found, Item, Limits, Record

Metadata = dict[str, Any]
Part = Literal["vector", "text", "metadata"]


# The lists of vectors are refused before a vector is read: a million of them take seconds.
LIMITS = Limits()


class Body(BaseModel):
    """A body that refuses unknown fields and numbers that are none."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), **BASE64
    )


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


class ItemBody(Body):
    """One thing to store: a vector, or a text to be embedded with the collection's model."""

    id: StrictStr | None = Field(None, description="Made if it is not given.")
    vector: Vector | None = None
    text: StrictStr | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.vector is None and self.text is None:
            raise PydanticCustomError("item", "give vector or text")
        return self


class AddBody(Options):
    """Body of `POST /collections/{name}/vectors`: one item, or many in `vectors`."""

    model_config = ConfigDict(protected_namespaces=(), **BASE64)

    vectors: Annotated[list[ItemBody], Field(min_length=1, max_length=LIMITS.items)] | None = Field(
        None, validation_alias=AliasChoices("vectors", "items")
    )
    id: StrictStr | None = None
    vector: Vector | None = None
    text: StrictStr | None = None
    metadata: Metadata = Field(default_factory=dict)
    mode: Literal["upsert", "insert", "update"] = Field(
        "upsert", description="Whether an id may, must not or must be there already."
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        one = self.vector is not None or self.text is not None
        if one == (self.vectors is not None):
            raise PydanticCustomError(
                "vectors", "give one item (vector or text), or many in vectors"
            )
        return self

    @property
    def items(self) -> list[ItemBody]:
        """The items, one or many."""
        if self.vectors is not None:
            return list(self.vectors)
        one = ItemBody.model_construct(
            id=self.id, vector=self.vector, text=self.text, metadata=self.metadata
        )
        return [one]


class StoreTextsBody(Options):
    """Body of `POST /embed-and-store`: texts with ids and metadata, one or many."""

    model_config = ConfigDict(protected_namespaces=())

    collection: StrictStr = Field(validation_alias=AliasChoices("collection", "collection_name"))
    text: StrictStr | None = None
    texts: Annotated[list[StrictStr], Field(min_length=1)] | None = None
    id: StrictStr | None = None
    ids: list[StrictStr] | None = None
    metadata: (
        Annotated[
            list[Metadata],
            BeforeValidator(
                lambda v: [v] if isinstance(v, dict) else v,
                json_schema_input_type=Metadata | list[Metadata],
            ),
        ]
        | None
    ) = Field(None, validation_alias=AliasChoices("metadata", "metadatas"))
    model: StrictStr | None = Field(None, validation_alias=AliasChoices("model", "model_id"))
    mode: Literal["upsert", "insert", "update"] = "upsert"
    create: StrictBool = Field(True, description="Make the collection if it is not there.")

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise PydanticCustomError("texts", "give either texts or text")
        count = len(self.inputs)
        for name, column in (("ids", self.all_ids), ("metadata", self.metadata)):
            if column is not None and len(column) != count:
                raise PydanticCustomError(
                    "columns", f"{count} texts but {len(column)} {name}; give as many as texts"
                )
        return self

    @property
    def inputs(self) -> list[str]:
        """The texts, one or many."""
        return [self.text] if self.text is not None else list(self.texts or ())

    @property
    def all_ids(self) -> list[str] | None:
        """The ids, one or many, if any were given."""
        return [self.id] if self.id is not None else self.ids

    @property
    def items(self) -> list[ItemBody]:
        """The texts as items."""
        count = len(self.inputs)
        ids: Sequence[str | None] = self.all_ids or [None] * count
        metadata = self.metadata or [{} for _ in range(count)]
        rows = zip(ids, self.inputs, metadata, strict=True)
        return [ItemBody(id=id_, text=text, metadata=meta) for id_, text, meta in rows]


class SearchBody(Options):
    """Body of `POST /collections/{name}/search`: one query, or many in `vectors` or `texts`."""

    model_config = ConfigDict(protected_namespaces=(), **BASE64)

    vector: Vector | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=LIMITS.queries)] | None = None
    text: StrictStr | None = Field(None, validation_alias=AliasChoices("text", "query"))
    texts: Annotated[list[StrictStr], Field(min_length=1)] | None = None
    id: StrictStr | None = Field(None, description="More like this one, which is left out.")
    k: StrictInt = Field(10, validation_alias=AliasChoices("k", "top_k", "limit"))
    filter: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("filter", "where"))
    min_score: Float | None = None
    offset: StrictInt = 0
    include: list[Part] = ["text", "metadata"]
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

    ids: list[StrictStr] = Field(min_length=1)
    include: list[Part] = ["vector", "text", "metadata"]


class DeleteBody(Body):
    """Body of `.../vectors/delete`: ids or a filter."""

    ids: list[StrictStr] | None = None
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
    include: list[Part] = ["text", "metadata"]


class CountBody(Body):
    """Body of `.../vectors/count`."""

    filter: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("filter", "where"))


class AliasBody(Body):
    """Body of `POST /collections/{name}/aliases`."""

    alias: StrictStr


class ReembedBody(Body):
    """Body of `POST /collections/{name}/reembed`."""

    model: StrictStr = Field(validation_alias=AliasChoices("model", "model_id"))


def to_item(body: ItemBody, id_: str, vector: Any) -> Item:
    """Make the store's item of a body's, with the id and the vector it got."""
    return Item(id_, vector, body.text, body.metadata)


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
