"""The JSON of collections: their names and properties, and jobs that re-embed them.

Only shapes are checked here; what a name or a model may be is the store's rule.
"""

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, StrictInt, StrictStr
from typing_extensions import TypedDict

from documents.jobs import JobKind, JobState
from schemas.base import Query, Seconds, Strict, doc, optional
from schemas.files import FileReply
from store.base import Metric
from store.validation import MAX_INDEXED


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


class ReembedBody(Strict, protected_namespaces=()):
    """Body of `POST /collections/{name}/reembed`."""

    model: StrictStr = Field(validation_alias=AliasChoices("model", "model_id"))


class JobReply(TypedDict):
    """One background job: a re-embedding, or the rows of a file that are stored."""

    id: str
    kind: JobKind
    collection: str
    source: str
    model: str | None
    state: Annotated[JobState, doc("`waiting` is a file that was given and not started.")]
    done: Annotated[int, doc("Texts, or rows of the file, that it is done with.")]
    total: int
    cursor: str | None
    error: Annotated[str | None, doc("Why it failed, or what it waits for.")]
    created: Seconds
    updated: Seconds
    file: Annotated[FileReply | None, doc("null unless it is of a file.")]


class JobsReply(TypedDict):
    """Background jobs, the newest first."""

    jobs: list[JobReply]
