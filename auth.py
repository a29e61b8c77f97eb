"""Who may do what: reads a request's credential and checks it against the route's access rule.

This happens before any of the body is read, so that a caller without a credential costs nothing.
"""

import contextlib
from typing import cast

from flask import g, request

import cors
from accounts import Caller
from accounts.api_keys import claimed_id
from accounts.users import ALLOWED, Access
from context import services
from errors import Forbidden, ServiceError, Unauthorized
from observability.names import public_name

KEYS = ("X-API-Key", "api-key")  # headers that carry a key alone


def caller() -> Caller:
    """Return the caller of the current request."""
    return cast(Caller, g.caller)


def identify(access: Access, *, own_account: bool = False) -> None:
    """Identify the caller and check the route's access rule. Raises Unauthorized, Forbidden.

    Changes by admins and of the caller's `own_account` need a credential that is valid now, not
    one from the row cache.
    """
    g.caller = Caller(address(), "anonymous")
    if access == "public" or (access == "metrics" and services().config.metrics_public):
        return
    lasting = access == "admin" or own_account
    g.caller = identified(fresh=lasting and request.method != "GET")
    g.who = g.caller.name
    if access not in ALLOWED[g.caller.role]:
        if g.caller.role == "anonymous":
            raise Unauthorized(
                "this route is for admins: call it from the machine itself (as localhost, through "
                "no proxy), send ADMIN_TOKEN as a bearer token, or turn AUTH_ENABLED on"
            )
        raise Forbidden(f"the role {g.caller.role!r} may not do this")
    if access == "admin":
        require_unlimited()


def identified(*, fresh: bool = False) -> Caller:
    """Return whose credential the request carries. Raises Unauthorized."""
    return services().accounts.identify(
        credential(), local=is_local(), address=address(), fresh=fresh
    )


def sees_all() -> bool:
    """Return whether the caller is an admin, who may see the service's paths and hosts.

    A public route ignores an invalid credential.
    """
    if "sees_all" not in g:
        found: Caller | None = g.get("caller")
        if found is None or found.role == "anonymous":
            with contextlib.suppress(ServiceError):
                found = identified()
        g.sees_all = found is not None and found.role == "admin" and not found.limited
    return cast(bool, g.sees_all)


def shown(name: str) -> str:
    """Return a model's name for the caller: only admins see the path of a folder."""
    return name if sees_all() else public_name(name)


def logged() -> dict[str, str]:
    """Return who called and from where, for the log: the user's name and the id of the API key.

    A key that was not checked, as on a path without a route, is logged by the id it claims.
    """
    found: Caller | None = g.get("caller")
    if found is None or found.role == "anonymous":
        claimed = claimed_id(credential())
        key = {"claimed": claimed} if claimed else {}
        return {"caller": "anonymous", **key, "address": address()}
    who = found.name if services().accounts.enabled else "admin"
    return {"caller": who, **({"key": found.key} if found.key else {}), "address": address()}


def require_unlimited() -> None:
    """Raise Forbidden for a limited API key: it could create one without limits."""
    if caller().limited:
        raise Forbidden(
            "this key is limited (to a role, to collections, to bulk or in time), and cannot "
            "manage users, keys, settings or providers: sign in with the password, or use an "
            "unlimited key"
        )


def allow_collection(name: str) -> None:
    """Raise Forbidden if the caller's API key is not for this collection."""
    if not visible(name):
        raise Forbidden(f"this key is not for collection {name[:64]!r}")


def visible(name: str) -> bool:
    """Return whether the caller may see a collection."""
    scope = caller().collections
    return scope is None or name in scope


def credential() -> str | None:
    """Return the key or token that the request carries, if any.

    It is a bearer token, an `Authorization` without a scheme (as LlamaIndex sends to TEI's
    re-rankers), X-API-Key, or Azure's api-key. Empty headers, as Dify sends, do not count. Without
    any it is the console's cookie, if the console sent the request.
    """
    scheme, _, value = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        scheme = ""
    elif value:  # of another scheme
        scheme = value = ""
    given = (value.strip(), scheme, *(request.headers.get(name, "").strip() for name in KEYS))
    return next(filter(None, given), None) or session_token()


def session_token() -> str | None:
    """Return the token in the console's cookie, if a page of this very origin sent the request.

    SameSite keeps a cookie from other sites; other ports of this host are of the same site.
    """
    if not cors.from_own_page():
        return None
    # Another service of this host or domain may have set one of this name, which may come first.
    tokens = request.cookies.getlist(cookie_name())
    good = filter(_is_good, tokens) if len(tokens) > 1 else iter(tokens)
    return next(good, next(iter(tokens), None))


def _is_good(token: str) -> bool:
    """Return whether a token is of a user or key that is there."""
    accounts = services().accounts
    with contextlib.suppress(Unauthorized):
        return accounts.holds(token) and bool(
            accounts.identify(token, local=False, address=address())
        )
    return False


def cookie_name() -> str:
    """Return the cookie's name, with the port: browsers share cookies among a host's ports."""
    port = request.headers.get("Host", "").rpartition(":")[2]
    return f"embedding-session-{port}" if port.isdecimal() else "embedding-session"


def address() -> str:
    """Return the caller's address: the peer's, or the one that trusted proxies report."""
    return request.remote_addr or "unknown"


def is_local() -> bool:
    """Return whether the request comes from this machine itself.

    Requests through a proxy do not, whatever address it reports; nor do pages of another origin
    in a browser here, or pages whose name was made to resolve to this machine (DNS rebinding).
    """
    if any(name in request.headers for name in cors.FORWARDED):
        return False
    if not (cors.loopback(address()) and cors.loopback_host()):
        return False
    return cors.own_origin() and not cors.from_another_origin()
