"""Who may do what: reads the credential of a request, and holds it against the route's rule.

A route declares its access in the route table; here it is decided. Runs before anything of a
request's body is read, so that a stranger costs nothing.
"""

import re

from flask import g, request

from accounts import Caller
from accounts.access import ALLOWED, Access
from context import services
from errors import Forbidden, Unauthorized

# A proxy on this machine calls from this machine, for whoever it calls.
FORWARDED = (
    "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP",
)  # fmt: skip
LOOPBACK = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


def caller() -> Caller:
    """Return who sent the current request."""
    found: Caller = g.caller
    return found


def identify(access: Access) -> None:
    """Find out who calls and whether the route's rule lets them. Raises Unauthorized, Forbidden."""
    accounts = services().accounts
    g.caller = Caller(address(), "anonymous")
    if access == "public":
        return
    g.caller = accounts.identify(credential(), local=is_local(), address=address())
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
    if any(name in request.headers for name in FORWARDED):
        return False
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    if not LOOPBACK.fullmatch(host):
        return False
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return False
    return address() == "::1" or address().startswith("127.")
