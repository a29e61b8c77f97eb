"""Signing in, users, and their API keys."""

from functools import partial

from flask import g, request

from accounts import Accounts, seconds_from
from accounts.api_keys import ApiKey
from auth import address, caller, require_unlimited
from context import services
from errors import Conflict, Forbidden
from routes.parse import parse_body, parse_form
from routes.table import Reply, Route
from schemas import accounts as schema
from schemas.base import reply
from schemas.collections import DeletedReply

ERRORS = (400, 404, 409, 413, 415, 422, 503)
SECRET = {"Cache-Control": "no-store"}
AccountsRoute = partial(Route, tag="accounts", errors=ERRORS)
Own = partial(AccountsRoute, access="embed", own_account=True)


@Route("POST", "/token", access="public", tag="accounts", optional_body=schema.TokenBody, form=True,
       errors=(*ERRORS, 401, 403, 429))  # fmt: skip
def token() -> Reply[schema.TokenReply]:
    """Sign in with a username and a password, as a form or as JSON."""
    accounts = _accounts()
    if not accounts.enabled:
        raise Conflict("AUTH_ENABLED is false: there is no signing in")
    form = request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data")
    body = parse_form(schema.TokenBody) if form else parse_body(schema.TokenBody)
    g.facts = {"user": body.username}  # for the log line: the user that was tried
    issued = accounts.login(body.username, body.password, address())
    lasts = accounts.tokens.lifetime_s
    return Reply(
        {"access_token": issued, "token_type": "bearer", "expires_in": lasts},  # nosec B105
        headers=SECRET,
    )


@AccountsRoute("GET", "/users", access="admin")
def users() -> schema.UsersReply:
    """List the users."""
    return {"users": [reply(schema.UserReply, user) for user in _accounts().users.list()]}


@AccountsRoute("POST", "/users", access="admin", success=(201,))
def add_user(body: schema.UserBody) -> Reply[schema.UserReply]:
    """Create a user."""
    user = _accounts().users.add(body.username, body.password, body.role)
    return Reply(reply(schema.UserReply, user), 201)


@AccountsRoute("GET", "/users/me", access="embed")
def me() -> schema.MeReply:
    """Describe the caller."""
    return reply(schema.MeReply, caller(), username=caller().name, auth_enabled=_accounts().enabled)


@AccountsRoute("DELETE", "/users/<username>", access="admin")
def remove_user(username: str) -> DeletedReply:
    """Delete a user with all API keys; their tokens stop working at once."""
    _accounts().users.remove(username)
    return {"deleted": username}


@Own("POST", "/users/<username>/password")
def change_user(username: str, body: schema.UserChangeBody) -> schema.UserReply:
    """Set a password (users give their current one) or, as an admin, a role."""
    _require_own_or_admin(username)
    accounts, known = _accounts(), None
    if caller().role != "admin":
        if body.role is not None:
            raise Forbidden("only an admin can change a role")
        known = accounts.check_password(username, body.current_password or "", address())
    accounts.users.change(username, body.password, body.role, known)
    return reply(schema.UserReply, accounts.users.require(username))


@Own("POST", "/users/<username>/api-key", optional_body=schema.KeyBody, success=(201,))
def add_key(username: str) -> Reply[schema.NewKeyReply]:
    """Create an API key; its secret is shown only in this reply."""
    _require_own_or_admin(username)
    body = parse_body(schema.KeyBody, optional=True)
    lasts = seconds_from(body.expires_in_days)
    made = _accounts().keys.add(
        username, body.label, body.role, body.collections, lasts, body.priority
    )
    return _new_key(*made)


@Own("GET", "/users/<username>/api-keys")
def keys(username: str) -> schema.KeysReply:
    """List a user's API keys, without their secrets."""
    _require_own_or_admin(username)
    _accounts().users.require(username)
    return {"api_keys": [reply(schema.KeyReply, key) for key in _accounts().keys.of(username)]}


@Own("DELETE", "/users/<username>/api-keys/<id_>")
def revoke_key(username: str, id_: str) -> schema.RevokedReply:
    """Revoke an API key."""
    _require_own_or_admin(username)
    _accounts().keys.revoke(username, id_)
    return {"revoked": id_}


@Own(
    "POST",
    "/users/<username>/api-keys/<id_>/rotate",
    optional_body=schema.RotateBody,
    success=(201,),
)
def rotate_key(username: str, id_: str) -> Reply[schema.NewKeyReply]:
    """Replace an API key with a new one; the old one works for a while longer."""
    _require_own_or_admin(username)
    body = parse_body(schema.RotateBody, optional=True)
    return _new_key(*_accounts().keys.rotate(username, id_, body.overlap_s))


def _accounts() -> Accounts:
    return services().accounts


def _require_own_or_admin(username: str) -> None:
    """Raise Forbidden unless the caller is this user or an admin, with an unlimited key.

    A caller without an account is no user, even if a user is called like its address.
    """
    require_unlimited()
    who = caller()
    if who.role != "admin" and (who.role == "anonymous" or who.name != username):
        raise Forbidden("only this user or an admin may do this")


def _new_key(key: ApiKey, secret: str) -> Reply[schema.NewKeyReply]:
    note = "keep it now: it cannot be shown again"
    return Reply(reply(schema.NewKeyReply, key, api_key=secret, note=note), 201, SECRET)
