"""The JSON of users, API keys and signing in."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StrictStr, model_validator
from typing_extensions import TypedDict

from accounts.users import Role
from config.serving import Lane
from schemas.base import Seconds, Strict, doc, optional


class TokenBody(Strict):
    """Body of `POST /token`, as JSON or as OAuth's password form; other form fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    username: StrictStr = Field(max_length=190)
    password: StrictStr = Field(max_length=1024, repr=False)


class TokenReply(TypedDict):
    """Reply of `POST /token`."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: Annotated[int, doc("Seconds.")]


class UserBody(Strict):
    """Body of `POST /users`."""

    username: StrictStr
    password: StrictStr = Field(min_length=8, max_length=1024, repr=False)
    role: Role = "user"


class UserChangeBody(Strict):
    """Body of `POST /users/{username}/password`."""

    password: StrictStr | None = Field(None, min_length=8, max_length=1024, repr=False)
    current_password: StrictStr | None = Field(None, max_length=1024, repr=False)
    role: Role | None = None


class UserReply(TypedDict):
    """One user."""

    username: str
    role: Role
    created: Seconds


class UsersReply(TypedDict):
    """All users."""

    users: list[UserReply]


class MeReply(TypedDict):
    """The caller."""

    username: str
    role: Annotated[str, doc("`admin`, `user`, `reader` or `anonymous`.")]
    collections: Annotated[list[str] | None, doc("The collections of the API key; null is all.")]
    auth_enabled: bool


class SessionBody(Strict):
    """Body of `POST /session`: a username and a password, or a key."""

    username: StrictStr | None = Field(None, max_length=190)
    password: StrictStr | None = Field(None, max_length=1024, repr=False)
    key: StrictStr | None = Field(
        None, max_length=4096, repr=False,
        description="An API key or a token; ADMIN_TOKEN while AUTH_ENABLED is false.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("username", "password", "key") if getattr(self, name)]
        if given not in (["username", "password"], ["key"]):
            raise ValueError("give a username and a password, or a key")
        return self


class SessionReply(TypedDict):
    """Who the browser is signed in as; nulls where it has to sign in first."""

    username: Annotated[str | None, doc("The address, if nobody has to sign in.")]
    role: Annotated[str | None, doc("`admin`, `user`, `reader` or `anonymous`.")]
    collections: Annotated[list[str] | None, doc("The collections of the API key; null is all.")]
    auth_enabled: bool
    signed_in: Annotated[bool, doc("Whether this is by the cookie of `POST /session`.")]
    takes: Annotated[
        list[Literal["password", "key", "admin_token"]],
        doc("What one can sign in with; none while AUTH_ENABLED is false without ADMIN_TOKEN."),
    ]


class SignedOutReply(TypedDict):
    """Reply of `DELETE /session`."""

    signed_in: Literal[False]


class KeyBody(Strict):
    """Body of `POST /users/{username}/api-key`; may be left out."""

    label: StrictStr = Field("", max_length=190)
    role: Role | None = optional("The key's role, if lower than the user's.")
    collections: list[StrictStr] | None = optional(
        "The only collections it may use; null is all.", max_length=1000
    )
    priority: Lane | None = optional(
        "`bulk`: its requests are bulk, whatever they ask for. `interactive`: they are interactive "
        "unless they ask to be bulk."
    )
    expires_in_days: float | None = Field(None, gt=0, le=36500)


class RotateBody(Strict):
    """Body of `POST /users/{username}/api-keys/{id}/rotate`; may be left out."""

    overlap_s: float = Field(
        3600, ge=0, le=86400 * 30, description="Seconds for which the old key still works."
    )


class KeyReply(TypedDict):
    """One API key, without its secret."""

    id: str
    owner: str
    label: str
    role: Role | None
    collections: list[str] | None
    priority: Lane | None
    created: Seconds
    expires: float | None
    revoked: float | None
    last_used: float | None


class NewKeyReply(KeyReply):
    """A new API key with its secret, which is shown only once."""

    api_key: str
    note: str


class KeysReply(TypedDict):
    """The API keys of a user."""

    api_keys: list[KeyReply]


class RevokedReply(TypedDict):
    """The id of the revoked key."""

    revoked: str
