"""Signing in, users, and their keys."""

from typing import Any

from flask import g, request

from accounts import Accounts, seconds_from
from auth import address, caller, require_unlimited
from context import services
from errors import Conflict, Forbidden
from routes.parse import parse_body, parse_form
from routes.table import Reply, route
from schemas.accounts import (
    KeyBody,
    RotateBody,
    TokenBody,
    TokenReply,
    UserBody,
    UserChangeBody,
    dump_key,
    dump_user,
)
from schemas.replies import (
    DeletedReply,
    KeysReply,
    MeReply,
    NewKeyReply,
    RevokedReply,
    UserReply,
    UsersReply,
)

TAG = "accounts"
ERRORS = (400, 404, 409, 413, 415, 422, 503)


@route("POST", "/token", access="public", reads=TokenBody, form=True, reply=TokenReply,
       errors=(*ERRORS, 401, 403, 429), tag=TAG)  # fmt: skip
def token() -> Reply:
    """Sign in with a username and a password, as a form or as JSON."""
    accounts = _accounts()
    if not accounts.enabled:
        raise Conflict("AUTH_ENABLED is false: nobody signs in")
    form = request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data")
    body = parse_form(TokenBody) if form else parse_body(TokenBody)
    g.facts = {"user": body.username}  # whom somebody tries to be
    issued = accounts.login(body.username, body.password, address())
    reply = {
        "access_token": issued,
        "token_type": "bearer",  # nosec B105
        "expires_in": accounts.tickets.lifetime_s,
    }
    return Reply(reply, headers={"Cache-Control": "no-store"})


@route("GET", "/users", access="admin", reply=UsersReply, errors=ERRORS, tag=TAG)
def users() -> dict[str, Any]:
    """List the users."""
    return {"users": [dump_user(user) for user in _accounts().users.list()]}


@route("POST", "/users", access="admin", body=UserBody, reply=UserReply, errors=ERRORS, tag=TAG,
       success=(201,))  # fmt: skip
def add_user(body: UserBody) -> Reply:
    """Make a user."""
    return Reply(dump_user(_accounts().users.add(body.username, body.password, body.role)), 201)


@route("GET", "/users/me", access="embed", reply=MeReply, errors=ERRORS, tag=TAG)
def me() -> dict[str, Any]:
    """Tell who is calling."""
    return {
        "username": caller().name,
        "role": caller().role,
        "collections": caller().collections,
        "auth_enabled": _accounts().enabled,
    }


@route("DELETE", "/users/<username>", access="admin", reply=DeletedReply, errors=ERRORS, tag=TAG)
def remove_user(username: str) -> dict[str, Any]:
    """Delete a user with all keys; what they signed in with ends at once."""
    _accounts().users.remove(username)
    return {"deleted": username}


@route("POST", "/users/<username>/password", access="embed", body=UserChangeBody,
       reply=UserReply, errors=ERRORS, tag=TAG)  # fmt: skip
def change_user(username: str, body: UserChangeBody) -> dict[str, Any]:
    """Set a password (one's own with the current one) or, as an admin, a role."""
    _oneself_or_admin(username)
    accounts, known = _accounts(), None
    if caller().role != "admin":
        if body.role is not None:
            raise Forbidden("only an admin gives roles")
        known = accounts.check_password(username, body.current_password or "", address())
    accounts.users.change(username, body.password, body.role, known)
    return dump_user(accounts.users.require(username))


@route("POST", "/users/<username>/api-key", access="embed", reads=KeyBody, reply=NewKeyReply,
       errors=ERRORS, tag=TAG, success=(201,))  # fmt: skip
def add_key(username: str) -> Reply:
    """Make an API key; it is shown only now."""
    _oneself_or_admin(username)
    body = parse_body(KeyBody, optional=True)
    key, text = _accounts().keys.add(
        username, body.label, body.role, body.collections, seconds_from(body.expires_in_days)
    )
    return _shown_once(dump_key(key), text)


@route("GET", "/users/<username>/api-keys", access="embed", reply=KeysReply, errors=ERRORS, tag=TAG)
def keys(username: str) -> dict[str, Any]:
    """List a user's keys, without their secrets."""
    _oneself_or_admin(username)
    _accounts().users.require(username)
    return {"api_keys": [dump_key(key) for key in _accounts().keys.of(username)]}


@route("DELETE", "/users/<username>/api-keys/<id_>", access="embed", reply=RevokedReply,
       errors=ERRORS, tag=TAG)  # fmt: skip
def revoke_key(username: str, id_: str) -> dict[str, Any]:
    """Revoke a key."""
    _oneself_or_admin(username)
    _accounts().keys.revoke(username, id_)
    return {"revoked": id_}


@route(
    "POST",
    "/users/<username>/api-keys/<id_>/rotate",
    access="embed",
    reads=RotateBody,
    reply=NewKeyReply,
    errors=ERRORS,
    tag=TAG,
    success=(201,),
)
def rotate_key(username: str, id_: str) -> Reply:
    """Make a new key in place of one, which stays good for a while."""
    _oneself_or_admin(username)
    body = parse_body(RotateBody, optional=True)
    key, text = _accounts().keys.rotate(username, id_, body.overlap_s)
    return _shown_once(dump_key(key), text)


def _accounts() -> Accounts:
    return services().accounts


def _oneself_or_admin(username: str) -> None:
    """Let users at their own things and admins at all; a limited key at nobody's.

    A caller without an account is nobody's self, though a user be called like its address.
    """
    require_unlimited()
    if caller().role == "admin":
        return
    if caller().role == "anonymous" or caller().name != username:
        raise Forbidden("this is for the user themself, or for an admin")


def _shown_once(row: dict[str, Any], text: str) -> Reply:
    body = {**row, "api_key": text, "note": "keep it now: it cannot be shown again"}
    return Reply(body, 201, {"Cache-Control": "no-store"})
