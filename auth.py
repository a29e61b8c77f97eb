"""Who may do what: reads the credential of a request, and holds it against the route's rule.

A route declares its access in the route table; here it is decided. Runs before anything of a
request's body is read, so that a stranger costs nothing.
"""

import contextlib

from flask import g, request

import cors
from accounts import Caller
from accounts.access import ALLOWED, Access
from accounts.api_keys import claimed_id
from context import services
from errors import Forbidden, ServiceError, Unauthorized
from serving.model import alias


def caller() -> Caller:
    """Return who sent the current request."""
    found: Caller = g.caller
    return found


def identify(access: Access) -> None:
    """Find out who calls and whether the route's rule lets them. Raises Unauthorized, Forbidden."""
    g.caller = Caller(address(), "anonymous")
    if access == "public":
        return
    lasting = access == "admin" or request.path.startswith("/users/")
    g.caller = _identified(fresh=lasting and request.method != "GET")
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


def _identified(*, fresh: bool = False) -> Caller:
    return services().accounts.identify(
        credential(), local=is_local(), address=address(), fresh=fresh
    )


def sees_all() -> bool:
    """Return whether the caller is an admin, who may see paths, hosts and the files of models.

    On a public route an invalid credential is ignored.
    """
    if "sees_all" not in g:
        found: Caller | None = g.get("caller")
        if found is None or found.role == "anonymous":
            with contextlib.suppress(ServiceError):
                found = _identified()
        g.sees_all = found is not None and found.role == "admin" and not found.limited
    seen: bool = g.sees_all
    return seen


def shown(name: str) -> str:
    """Return a model's name as the caller may see it: a folder's path is an admin's to know."""
    return name if sees_all() else alias(name)


def logged() -> dict[str, str]:
    """Return who called and from where, for the log: a user's name, the id of a key.

    A key that nobody has checked, as where there is no such route, is told by the id it claims.
    """
    found: Caller | None = g.get("caller")
    if found is None or found.role == "anonymous":
        who = "anonymous"
    else:
        who = found.name if services().accounts.enabled else "admin"
    key = {"key": found.key} if found and found.key else {}
    if who == "anonymous" and (claimed := claimed_id(credential())):
        key = {"claimed": claimed}
    return {"caller": who, **key, "address": address()}


def require_unlimited() -> None:
    """Raise Forbidden for a limited key: it could make itself one that is not."""
    if caller().limited:
        raise Forbidden(
            "this key is limited (to a role, to collections or in time), and such a key manages no "
            "users, keys, settings or providers: sign in with the password, or use an unlimited key"
        )


def allow_collection(name: str) -> None:
    """Raise Forbidden if the caller's key is for other collections only."""
    scope = caller().collections
    if scope is not None and name not in scope:
        raise Forbidden(f"this key is not for collection {name[:64]!r}")


def visible(name: str) -> bool:
    """Tell whether the caller may see a collection."""
    scope = caller().collections
    return scope is None or name in scope


def credential() -> str | None:
    """Return the key or token that the request carries, if any."""
    header = request.headers.get("Authorization", "")
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get("X-API-Key") or None


def address() -> str:
    """Return the caller's address: the peer's, or what trusted proxies say it is."""
    return request.remote_addr or "unknown"


def is_local() -> bool:
    """Tell whether somebody on this very machine asks.

    That is nobody behind a proxy, whatever it says of the address; no page of another origin that
    is open in a browser here; and no page whose own name was made to lead here (DNS rebinding).
    """
    if any(name in request.headers for name in cors.FORWARDED):
        return False
    if not (cors.loopback(address()) and cors.loopback_host()):
        return False
    return cors.own_origin() and not cors.from_another_origin()
