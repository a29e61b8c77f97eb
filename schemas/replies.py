"""The JSON of what collections, jobs and accounts reply: what clients may rely on being there.

Made by hand from plain values; the API's description is made of these, and tests hold every real
reply against it.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from schemas.accounts import RoleName

SECONDS = "Seconds since 1970."


class UserReply(BaseModel):
    """One user."""

    username: str
    role: RoleName
    created: float = Field(description=SECONDS)


class UsersReply(BaseModel):
    """Every user."""

    users: list[UserReply]


class MeReply(BaseModel):
    """Who is calling."""

    username: str
    role: str = Field(description="`admin`, `user`, `reader` or `anonymous`.")
    collections: list[str] | None = Field(description="What a key is for; null is all.")
    auth_enabled: bool


class KeyReply(BaseModel):
    """One API key, without its secret."""

    id: str
    owner: str
    label: str
    role: RoleName | None
    collections: list[str] | None
    created: float = Field(description=SECONDS)
    expires: float | None
    revoked: float | None
    last_used: float | None


class NewKeyReply(KeyReply):
    """One API key with its secret, which is shown only now."""

    api_key: str
    note: str


class KeysReply(BaseModel):
    """A user's keys."""

    api_keys: list[KeyReply]


class RevokedReply(BaseModel):
    """Which key was revoked."""

    revoked: str


class DeletedReply(BaseModel):
    """What was deleted, by name."""

    deleted: str


class DeletedCountReply(BaseModel):
    """How many records were deleted."""

    deleted: int


class CollectionReply(BaseModel):
    """One collection."""

    name: str
    dimension: int
    metric: Literal["cosine", "dot"]
    count: int
    model: str | None = Field(description="Whose vectors it holds; null if that was not said.")
    fingerprint: str | None
    aliases: list[str]
    indexed: list[str] = Field(description="The fields declared when it was made.")
    created: float = Field(description=SECONDS)


class CollectionsReply(BaseModel):
    """The collections that the caller may see, by name."""

    collections: list[CollectionReply]
    next_cursor: str | None = Field(description="Where the next list begins; null on the last.")


class WrittenReply(BaseModel):
    """What a write did."""

    ids: list[str]
    inserted: int
    updated: int


class StoredReply(WrittenReply):
    """What embedding and storing did."""

    collection: str
    created: bool = Field(description="Whether the collection was made for it.")
    dimension: int
    model: str | None


class RecordReply(BaseModel):
    """One record, with the parts that were asked for and that it has."""

    id: str
    text: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)
    vector: list[float] = Field(default_factory=list)


class HitReply(RecordReply):
    """One record that was found."""

    score: float


class FoundReply(BaseModel):
    """What a search found: a list for one query, a list of lists for many."""

    results: list[HitReply] | list[list[HitReply]]
    exact: bool = Field(description="Whether every record was compared.")


class RecordsReply(BaseModel):
    """Several records."""

    vectors: list[RecordReply]


class PageReply(RecordsReply):
    """Records in the order of their ids, and where the next ones begin."""

    next_cursor: str | None


class CountReply(BaseModel):
    """How many records match."""

    count: int


class JobReply(BaseModel):
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
    created: float = Field(description=SECONDS)
    updated: float = Field(description=SECONDS)


class JobsReply(BaseModel):
    """Background jobs, the newest first."""

    jobs: list[JobReply]
