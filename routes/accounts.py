"""Signing in, users, and their API keys."""

import contextlib
from functools import partial

from flask import g, request
from werkzeug.http import dump_cookie

import cors
from accounts import Accounts, Caller, seconds_from
from accounts.api_keys import ApiKey
from auth import address, caller, cookie_name, identified, require_unlimited, session_token
from context import services
from errors import Conflict, Forbidden, Unauthorized
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
    form = request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data")
    body = parse_form(schema.TokenBody) if form else parse_body(schema.TokenBody)
    issued = _login(body.username, body.password)
    lasts = _accounts().tokens.lifetime_s
    return Reply(
        {"access_token": issued, "token_type": "bearer", "expires_in": lasts},  # nosec B105
        headers=SECRET,
    )


@Route("GET", "/session", access="public", tag="accounts", errors=(403, 503))
def session() -> Reply[schema.SessionReply]:
    """Describe who the browser is signed in as."""
    token = session_token()
    found = None
    with contextlib.suppress(Unauthorized):
        found = identified()
    held = found is not None and _accounts().holds(token)
    # A cookie that does not count any more goes.
    gone = _cookie("") if token and not held else {}
    return Reply(_session(found, held), headers=SECRET | gone)


@Route("POST", "/session", access="public", tag="accounts", errors=(*ERRORS, 401, 403, 429))
def sign_in(body: schema.SessionBody) -> Reply[schema.SessionReply]:
    """Sign the browser in: a cookie that no script can read holds an access token.

    A request by this cookie counts only if a page of the service itself sent it.
    """
    _require_own_page()
    accounts, at = _accounts(), address()
    if body.key:
        issued = accounts.token_for(body.key, at)
    else:
        issued = _login(body.username or "", body.password or "")
    found = accounts.identify(issued, local=False, address=at)
    return Reply(_session(found, signed_in=True), headers=SECRET | _cookie(issued))


@Route("DELETE", "/session", access="public", tag="accounts", errors=(403, 503))
def sign_out() -> Reply[schema.SignedOutReply]:
    """Sign the browser out."""
    _require_own_page()
    return Reply({"signed_in": False}, headers=SECRET | _cookie(""))


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


def _login(username: str, password: str) -> str:
    """Return an access token. Raises Unauthorized, RateLimited, Conflict."""
    if not _accounts().enabled:
        raise Conflict("AUTH_ENABLED is false: there is no signing in with a password")
    g.facts = {"user": username}  # for the log line: the user that was tried
    return _accounts().login(username, password, address())


def _session(found: Caller | None, signed_in: bool) -> schema.SessionReply:
    """Describe the caller, who has to sign in if there is none."""
    return {
        "username": found.name if found else None,
        "role": found.role if found else None,
        "collections": list(found.collections) if found and found.collections else None,
        "auth_enabled": _accounts().enabled,
        "signed_in": signed_in,
        "takes": _accounts().takes,
    }


def _require_own_page() -> None:
    """Raise Forbidden for a page of another origin, even one that CORS_ORIGINS names."""
    if cors.from_another_origin():
        raise Forbidden("only the console signs a browser in or out; send a key or token instead")


def _cookie(token: str) -> dict[str, str]:
    """Return the header that sets the console's cookie, or deletes it if there is no token."""
    lasts = _accounts().tokens.lifetime_s if token else 0
    # A proxy that speaks TLS need not be known: the browser says how it called.
    secure = request.is_secure or request.headers.get("Origin", "").startswith("https://")
    return {
        "Set-Cookie": dump_cookie(
            cookie_name(), token, max_age=lasts, secure=secure, httponly=True, samesite="Strict"
        )
    }


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
