"""The JSON of what is written into collections: one item, many, columns, and texts to embed.

Only shapes are checked here; what an id, a vector or metadata may be is the store's rule.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from schemas.embed import Options
from schemas.strict import Strict
from schemas.vectors import BASE64, Matrix, Vector
from store import Limits

Metadata = dict[str, Any]
Row = tuple[str | None, Any, str | None, Metadata]  # id, vector, text, metadata

COLUMNS = ("ids", "embeddings", "matrix", "documents", "metadatas")  # of `AddBody`
# The lists of vectors are refused before a vector is read: a million of them take seconds.
LIMITS = Limits()


class Body(Strict):
    """A body that may hold vectors, and fields that are called `model`."""

    model_config = ConfigDict(protected_namespaces=(), **BASE64)


def check_lengths(count: int, of: str, **columns: Sequence[Any] | None) -> None:
    """Refuse columns of another length than the one of `count`, which is named `of`."""
    for name, column in columns.items():
        if column is not None and len(column) != count:
            raise PydanticCustomError(
                "columns", f"{count} {of} but {len(column)} {name}; give as many as {of}"
            )


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
    """Body of `POST /collections/{name}/vectors`: one item, many in `vectors`, or columns.

    Columns have the names that Chroma gives them, and are the fastest way in.
    """

    model_config = ConfigDict(protected_namespaces=(), **BASE64)

    vectors: Annotated[list[ItemBody], Field(min_length=1, max_length=LIMITS.items)] | None = Field(
        None, validation_alias=AliasChoices("vectors", "items")
    )
    id: StrictStr | None = None
    vector: Vector | None = None
    text: StrictStr | None = None
    metadata: Metadata = Field(default_factory=dict)
    ids: Annotated[list[StrictStr], Field(min_length=1, max_length=LIMITS.items)] | None = Field(
        None, description="Columns instead of items; each has as many rows as this one."
    )
    embeddings: Annotated[list[Vector], Field(max_length=LIMITS.items)] | None = None
    matrix: Matrix | None = Field(
        None,
        description="In place of `embeddings`: base64 of a matrix of little-endian float32, "
        "one vector behind the other.",
    )
    documents: Annotated[list[StrictStr | None], Field(max_length=LIMITS.items)] | None = None
    metadatas: Annotated[list[Metadata | None], Field(max_length=LIMITS.items)] | None = None
    mode: Literal["upsert", "insert", "update"] = Field(
        "upsert", description="Whether an id may, must not or must be there already."
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
        if columns:
            self._check_columns()
        return self

    def _check_columns(self) -> None:
        if self.ids is None:
            raise PydanticCustomError("columns", "give ids with the columns")
        if self.embeddings is not None and self.matrix is not None:
            raise PydanticCustomError("columns", "give either embeddings or matrix")
        if self.embeddings is None and self.matrix is None:
            if self.documents is None:
                raise PydanticCustomError(
                    "columns", "give embeddings, matrix or documents with ids"
                )
            if None in self.documents:
                raise PydanticCustomError("columns", "give a vector where a document is null")
        count = len(self.ids)
        if self.matrix is not None and (not len(self.matrix) or len(self.matrix) % count):
            raise PydanticCustomError(
                "columns",
                f"matrix has {len(self.matrix)} numbers: no whole vectors for {count} ids",
            )
        check_lengths(
            count, "ids", embeddings=self.embeddings, documents=self.documents,
            metadatas=self.metadatas,
        )  # fmt: skip

    @property
    def rows(self) -> Iterable[Row]:
        """What to store, row by row."""
        if self.vectors is not None:
            return [(item.id, item.vector, item.text, item.metadata) for item in self.vectors]
        if self.ids is None:
            return [(self.id, self.vector, self.text, self.metadata)]
        empty: list[None] = [None] * len(self.ids)
        matrix: Any = self.matrix  # decoded: flat float32
        vectors = None if matrix is None else matrix.reshape(len(self.ids), -1)
        return zip(
            self.ids,
            self.embeddings or empty if vectors is None else vectors,
            self.documents or empty,
            [each or {} for each in self.metadatas or empty],
            strict=True,
        )


class StoreTextsBody(Options):
    """Body of `POST /embed-and-store`: texts with ids and metadata, one or many."""

    model_config = ConfigDict(protected_namespaces=())

    collection: StrictStr = Field(validation_alias=AliasChoices("collection", "collection_name"))
    text: StrictStr | None = None
    texts: Annotated[list[StrictStr], Field(min_length=1, max_length=LIMITS.items)] | None = None
    id: StrictStr | None = None
    ids: Annotated[list[StrictStr | None], Field(max_length=LIMITS.items)] | None = Field(
        None, description="One is made where it is null."
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
    mode: Literal["upsert", "insert", "update"] = "upsert"
    create: StrictBool = Field(True, description="Make the collection if it is not there.")

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise PydanticCustomError("texts", "give either texts or text")
        check_lengths(len(self.inputs), "texts", ids=self.all_ids, metadata=self.metadata)
        return self

    @property
    def inputs(self) -> list[str]:
        """The texts, one or many."""
        return [self.text] if self.text is not None else list(self.texts or ())

    @property
    def all_ids(self) -> Sequence[str | None] | None:
        """The ids, one or many, if any were given."""
        return [self.id] if self.id is not None else self.ids

    @property
    def rows(self) -> Iterable[Row]:
        """What to store, row by row."""
        empty: list[None] = [None] * len(self.inputs)
        metadata = [each or {} for each in self.metadata or empty]
        return zip(self.all_ids or empty, empty, self.inputs, metadata, strict=True)
