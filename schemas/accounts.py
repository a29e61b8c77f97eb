"""The JSON of users, keys and signing in."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from accounts.api_keys import ApiKey
from accounts.users import User
from schemas.strict import Strict

RoleName = Literal["admin", "user", "reader"]
Password = Field(min_length=8, max_length=1024, repr=False)


class TokenBody(Strict):
    """Body of `POST /token`, as JSON or as OAuth's password form; other form fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    username: StrictStr = Field(max_length=190)
    password: StrictStr = Field(max_length=1024, repr=False)


class TokenReply(BaseModel):
    """Reply of `POST /token`."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int


class UserBody(Strict):
    """Body of `POST /users`."""

    username: StrictStr
    password: StrictStr = Password
    role: RoleName = "user"


class UserChangeBody(Strict):
    """Body of `POST /users/{username}/password` and of `/role`."""

    password: StrictStr | None = Field(None, min_length=8, max_length=1024, repr=False)
    current_password: StrictStr | None = Field(None, max_length=1024, repr=False)
    role: RoleName | None = None


class KeyBody(Strict):
    """Body of `POST /users/{username}/api-key`; may be left out."""

    label: StrictStr = Field("", max_length=190)
    role: RoleName | None = Field(None, description="At most this role, whatever the user's.")
    collections: list[StrictStr] | None = Field(
        None, max_length=1000, description="Only for these; null is all."
    )
    expires_in_days: float | None = Field(None, gt=0, le=36500)


class RotateBody(Strict):
    """Body of `POST /users/{username}/api-keys/{id}/rotate`; may be left out."""

    overlap_s: float = Field(3600, ge=0, le=86400 * 30, description="How long the old one is good.")


def dump_user(user: User) -> dict[str, Any]:
    """Write a user, without what is secret."""
    return {"username": user.username, "role": user.role, "created": user.created}


def dump_key(key: ApiKey) -> dict[str, Any]:
    """Write a key, without what is secret."""
    row = {name: value for name, value in vars(key).items() if name != "hash"}
    return {**row, "collections": None if key.collections is None else list(key.collections)}
