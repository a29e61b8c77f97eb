"""The JSON of records: what is written into a collection, and what is read and found in it.

Only shapes are checked here; what an id, a vector, metadata or a filter may be is the store's rule.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from documents import Draft
from schemas.base import BASE64, Float, Matrix, Numbers, Strict, Vector, doc, optional
from schemas.embed import Options
from store import Found, Limits, Record
from store.base import PARTS, Mode

COLUMNS = ("ids", "embeddings", "matrix", "documents", "metadatas")  # of `AddBody`
# Lists are refused by their length before a vector is read: a million vectors take seconds.
LIMITS = Limits()

Metadata = dict[str, Any]
Parts = Annotated[list[Literal["vector", "text", "metadata"]], Field(max_length=len(PARTS))]
Ids = Annotated[list[StrictStr], Field(max_length=LIMITS.items)]
Filter = Annotated[dict[str, Any] | None, Field(validation_alias=AliasChoices("filter", "where"))]


def _other_length(count: int, of: str, **columns: Sequence[Any] | None) -> str | None:
    """Return what is wrong with columns whose length is not `count`, the length of `of`."""
    for name, column in columns.items():
        if column is not None and len(column) != count:
            return f"{count} {of} but {len(column)} {name}; give as many as {of}"
    return None


class ItemBody(Strict):
    """One record to write: a vector, or a text to embed with the collection's model."""

    model_config = BASE64

    id: StrictStr | None = optional("Without it, one is made.")
    vector: Vector | None = None
    text: StrictStr | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.vector is None and self.text is None:
            raise PydanticCustomError("item", "give vector or text")
        return self


class AddBody(Options):
    """Body of `POST /collections/{name}/vectors`: one item, many in `vectors`, or columns.

    Columns have the names that Chroma gives them, and are the fastest form.
    """

    model_config = ConfigDict(protected_namespaces=(), **BASE64)

    vectors: Annotated[list[ItemBody], Field(min_length=1, max_length=LIMITS.items)] | None = Field(
        None, validation_alias=AliasChoices("vectors", "items")
    )
    id: StrictStr | None = None
    vector: Vector | None = None
    text: StrictStr | None = None
    metadata: Metadata = Field(default_factory=dict)
    ids: Annotated[list[StrictStr], Field(min_length=1, max_length=LIMITS.items)] | None = optional(
        "Columns instead of items; each has as many rows as this one."
    )
    embeddings: Annotated[list[Vector], Field(max_length=LIMITS.items)] | None = None
    matrix: Matrix | None = optional(
        "Instead of `embeddings`: base64 of a matrix of little-endian float32, one "
        "vector after the other."
    )
    documents: Annotated[list[StrictStr | None], Field(max_length=LIMITS.items)] | None = None
    metadatas: Annotated[list[Metadata | None], Field(max_length=LIMITS.items)] | None = None
    mode: Mode = Field(
        "upsert", description="`insert` refuses ids that exist, `update` ids that do not."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        one = self.vector is not None or self.text is not None
        columns = any(getattr(self, name) is not None for name in COLUMNS)
        if one + (self.vectors is not None) + columns != 1:
            raise PydanticCustomError(
                "vectors",
                "give one item (vector or text), many in vectors, or columns: ids with "
                "embeddings, matrix or documents",
            )
        if columns and (wrong := self._wrong_columns()):
            raise PydanticCustomError("columns", wrong)
        return self

    def _wrong_columns(self) -> str | None:
        if self.ids is None:
            return "give ids with the columns"
        if self.embeddings is not None and self.matrix is not None:
            return "give either embeddings or matrix"
        if self.embeddings is None and self.matrix is None:
            if self.documents is None:
                return "give embeddings, matrix or documents with ids"
            if None in self.documents:
                return "give a vector where a document is null"
        count, columns = len(self.ids), {"documents": self.documents, "metadatas": self.metadatas}
        if self.matrix is not None and (not len(self.matrix) or len(self.matrix) % count):
            return f"matrix has {len(self.matrix)} numbers: no whole vectors for {count} ids"
        return _other_length(count, "ids", embeddings=self.embeddings, **columns)

    @property
    def drafts(self) -> list[Draft]:
        """The records to write."""
        if self.vectors is not None:
            return [Draft(each.id, each.vector, each.text, each.metadata) for each in self.vectors]
        if self.ids is None:
            return [Draft(self.id, self.vector, self.text, self.metadata)]
        empty: list[None] = [None] * len(self.ids)
        matrix: Any = self.matrix  # decoded: flat float32
        vectors = None if matrix is None else matrix.reshape(len(self.ids), -1)
        columns = zip(
            self.ids,
            self.embeddings or empty if vectors is None else vectors,
            self.documents or empty,
            [each or {} for each in self.metadatas or empty],
            strict=True,
        )
        return [Draft(*row) for row in columns]


class WrittenReply(TypedDict):
    """The result of a write."""

    ids: list[str]
    inserted: int
    updated: int


class StoreTextsBody(Options):
    """Body of `POST /embed-and-store`: texts with ids and metadata, one or many."""

    model_config = ConfigDict(protected_namespaces=())

    collection: StrictStr = Field(validation_alias=AliasChoices("collection", "collection_name"))
    text: StrictStr | None = None
    texts: Annotated[list[StrictStr], Field(min_length=1, max_length=LIMITS.items)] | None = None
    id: StrictStr | None = None
    ids: Annotated[list[StrictStr | None], Field(max_length=LIMITS.items)] | None = optional(
        "An id is made where one is null."
    )
    metadata: (
        Annotated[
            list[Metadata | None],
            Field(max_length=LIMITS.items),
            BeforeValidator(
                lambda v: [v] if isinstance(v, dict) else v,
                json_schema_input_type=Metadata | list[Metadata | None],
            ),
        ]
        | None
    ) = Field(None, validation_alias=AliasChoices("metadata", "metadatas"))
    model: StrictStr | None = Field(None, validation_alias=AliasChoices("model", "model_id"))
    mode: Mode = "upsert"
    create: StrictBool = Field(True, description="Create the collection if it does not exist.")

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise PydanticCustomError("texts", "give either texts or text")
        texts, ids = self._columns()
        if wrong := _other_length(len(texts), "texts", ids=ids, metadata=self.metadata):
            raise PydanticCustomError("columns", wrong)
        return self

    def _columns(self) -> tuple[list[str], Sequence[str | None] | None]:
        """Return the texts, and the ids if there are any."""
        texts = [self.text] if self.text is not None else list(self.texts or ())
        return texts, [self.id] if self.id is not None else self.ids

    @property
    def drafts(self) -> list[Draft]:
        """The records to write."""
        texts, ids = self._columns()
        empty: list[None] = [None] * len(texts)
        metadata = [each or {} for each in self.metadata or empty]
        return [
            Draft(id_, None, text, facts)
            for id_, text, facts in zip(ids or empty, texts, metadata, strict=True)
        ]


class StoredReply(TypedDict):
    """The result of embedding and storing."""

    collection: str
    created: Annotated[bool, doc("Whether the collection was created for it.")]
    ids: list[str]
    inserted: int
    updated: int
    dimension: int
    model: str | None


class SearchBody(Options):
    """Body of `POST /collections/{name}/search`: one query, or many in `vectors` or `texts`."""

    model_config = ConfigDict(protected_namespaces=(), **BASE64)

    vector: Vector | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=LIMITS.queries)] | None = None
    text: StrictStr | None = Field(None, validation_alias=AliasChoices("text", "query"))
    texts: Annotated[list[StrictStr], Field(min_length=1, max_length=LIMITS.queries)] | None = None
    id: StrictStr | None = optional(
        "The id of a record: find what is like it, without the record itself."
    )
    k: StrictInt = Field(10, validation_alias=AliasChoices("k", "top_k", "limit"))
    filter: Filter = None
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
        """Whether the body has several queries."""
        return self.vectors is not None or self.texts is not None


class IdsBody(Strict):
    """Body of `.../vectors/get`."""

    ids: Ids = Field(min_length=1)
    include: Parts = ["vector", "text", "metadata"]


class DeleteBody(Strict):
    """Body of `.../vectors/delete`: ids or a filter."""

    ids: Ids | None = None
    filter: Filter = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise PydanticCustomError("delete", "give either ids or filter")
        return self


class ScrollBody(Strict):
    """Body of `.../vectors/scroll`."""

    cursor: StrictStr | None = None
    limit: StrictInt = 100
    filter: Filter = None
    include: Parts = ["text", "metadata"]


class CountBody(Strict):
    """Body of `.../vectors/count`."""

    filter: Filter = None


class _Parts(TypedDict):
    """The parts that were asked for and that the record has."""

    text: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    vector: NotRequired[Numbers]


class RecordReply(_Parts):
    """One record, with the parts that were asked for and that it has."""

    id: str


class HitReply(_Parts):
    """One record that a search found."""

    id: str
    score: float


class FoundReply(TypedDict):
    """The records that a search found: a list for one query, a list of lists for many."""

    results: list[HitReply] | list[list[HitReply]]
    exact: Annotated[bool, doc("Whether every record was compared.")]


class RecordsReply(TypedDict):
    """Several records."""

    vectors: list[RecordReply]


class PageReply(RecordsReply):
    """Records by id, and where the next ones begin."""

    next_cursor: str | None


class CountReply(TypedDict):
    """The number of records that match."""

    count: int


class DeletedCountReply(TypedDict):
    """The number of deleted records."""

    deleted: int


def record_reply(record: Record) -> RecordReply:
    """Return a record with the parts it has."""
    return {"id": record.id, **_parts(record)}


def found_reply(found: Found, many: bool) -> FoundReply:
    """Return the hits: a list for one query, a list of lists for many."""
    rows: list[list[HitReply]] = [
        [{"id": hit.id, "score": hit.score, **_parts(hit)} for hit in hits] for hits in found.hits
    ]
    return {"results": rows if many else rows[0], "exact": found.exact}


def _parts(record: Record) -> _Parts:
    parts: _Parts = {}
    if record.text is not None:
        parts["text"] = record.text
    if record.metadata is not None:
        parts["metadata"] = record.metadata
    if record.vector is not None:
        parts["vector"] = record.vector
    return parts
