"""Requests of pages from other origins (CORS), and the names of this machine.

A browser gives every page its place in the network: a page from anywhere reaches what listens on
this machine. So a request without a credential that a page of another origin sends does not reach
what is stored, unless CORS_ORIGINS names that origin. Routes that are for every page have
`any_page` in the route table.
"""

import contextlib
import re
import socket
from collections.abc import Container
from functools import cache
from urllib.parse import urlsplit

from flask import Response, current_app, request
from werkzeug.exceptions import HTTPException

from config.access import as_sent
from context import services
from errors import Forbidden
from server.proxies import read_address

# A proxy on this machine calls from this machine, whatever client it forwards.
FORWARDED = (
    "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP",
)  # fmt: skip
CREDENTIALS = {"authorization", "x-api-key", "api-key"}
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2: a header's name  # nosec B105
HEADERS = re.compile(rf"{TOKEN}([ \t]*,[ \t]*{TOKEN})*")
CREDENTIAL = "send a key or token of a user, or ADMIN_TOKEN while AUTH_ENABLED is false"
LONGEST = 1024  # characters of the header names in a preflight; OpenAI's SDK asks for 230
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/?#@\\\s]+)(:(?P<port>[0-9]{1,5}))?", re.I)
# Public DNS has no names with these endings, and none without a dot.
PRIVATE = (".localhost", ".local", ".internal")


def from_another_origin() -> bool:
    """Return whether a page of another origin sent the request, according to its browser.

    Browsers since 2023 send Sec-Fetch-Site to this machine and over TLS, and no page can set it.
    Programs send neither Sec-Fetch-Site nor Origin.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site.strip().lower() not in ("same-origin", "none")
    return not own_origin()


def from_own_page() -> bool:
    """Return whether a page of this origin sent the request, according to its browser.

    Over plain HTTP to another machine browsers send no Sec-Fetch-Site, and with GET no Origin: the
    Referer tells then. No page can set any of the three.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site.strip().lower() == "same-origin"
    if "Origin" in request.headers:
        return own_origin()
    scheme, separator, rest = request.headers.get("Referer", "").partition("://")
    return bool(separator) and _is_own(f"{scheme}://{rest.partition('/')[0]}")


def own_origin() -> bool:
    """Return whether the request's Origin, if it has one, is the address it was sent to."""
    origin = request.headers.get("Origin")
    return origin is None or _is_own(origin)


def _is_own(origin: str) -> bool:
    scheme = origin.partition("://")[0]
    try:
        # X-Forwarded-Host does not count: a page may send it, after a preflight for a credential.
        sent_to = as_sent(f"{scheme}://{request.headers.get('Host', '')}")
    except ValueError:
        return False
    return scheme in _schemes() and origin == sent_to


def _schemes() -> tuple[str, ...]:
    """Return the schemes that the browser may have called by, as far as that is known.

    A proxy that speaks TLS need not be known. Where one says that the browser did, in a header that
    need not be true, a page that came without TLS is another one.
    """
    named = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return ("https",) if request.is_secure or named == "https" else ("http", "https")


def loopback(address: str) -> bool:
    """Return whether an address, or the name in a Host header, is a loopback address."""
    found = read_address(address)
    return found is not None and found.is_loopback


def loopback_host() -> bool:
    """Return whether the request was sent to localhost or to a loopback address."""
    found = HOST.fullmatch(request.headers.get("Host", ""))
    return found is not None and (found["name"].lower() == "localhost" or loopback(found["name"]))


def keep_out_pages() -> None:
    """Raise Forbidden for a request that a page of another origin may have sent.

    It is for routes that are not for every page, and callers without a valid credential.
    """
    origin = request.headers.get("Origin")
    if _is_named(origin):
        return
    if from_another_origin():
        page = "this page, which sends no Origin," if origin is None else repr(origin[:200])
        raise Forbidden(
            f"this route is not for pages of every origin, and {page} is not named in "
            f"CORS_ORIGINS, where * names none. Name it there, or {CREDENTIAL}"
        )
    if _came_by_a_strange_name():
        raise Forbidden(
            "the request came from this machine, to a name that is not one of its own, as from a "
            "page of a DNS rebinding attack. Call localhost, an address or this machine's name; a "
            "proxy must send Host: localhost, or X-Forwarded-For with TRUSTED_PROXY_HOPS set; name "
            f"http://host:port in CORS_ORIGINS; or {CREDENTIAL}"
        )


def _is_named(origin: str | None) -> bool:
    """Return whether CORS_ORIGINS names this origin; `*` names none."""
    return origin != "*" and origin in services().settings.current.cors_origins


def _came_by_a_strange_name() -> bool:
    """Return whether a client on this machine calls it by a name that anyone may have registered.

    For the browser, a page whose name was made to resolve here (DNS rebinding) is of the same
    origin. It may send any header, so X-Forwarded-For counts only where proxies are configured. A
    proxy passes on the name and port that it was called by, which is not the service's own port.
    """
    host = request.headers.get("Host", "")
    peer = request.environ["proxies.peer"]
    if not host or peer is None or not peer.is_loopback:
        return False
    found = HOST.fullmatch(host)
    if found is None:
        return True
    direct = (found["port"] or "80") == request.environ["SERVER_PORT"]
    forwarded = any(name in request.headers for name in FORWARDED)
    by_proxy = forwarded and not direct and request.environ["proxies.trusted"]
    return not by_proxy and not _is_ours(found["name"].lower())


def _is_ours(name: str) -> bool:
    """Return whether this is an address, a private name or one of this machine's own names."""
    bare = name.removesuffix(".")
    if name.startswith("[") or "." not in bare or bare.endswith(PRIVATE):
        return True
    with contextlib.suppress(OSError, UnicodeError):
        socket.inet_aton(bare)  # also 127.1 and 0x7f000001
        return True
    named = {urlsplit(origin).hostname for origin in services().settings.current.cors_origins}
    return name in named or bare in own_names()


@cache
def own_names() -> set[str]:
    """Return the system's names of this machine: its host name, alone and with its domain."""
    return {socket.gethostname().lower(), socket.getfqdn().lower()}


def let_pages_read(response: Response, for_every_page: Container[str]) -> None:
    """Add the headers that allow a page of another origin to read this answer, without cookies.

    `for_every_page` are the endpoints that `*` in CORS_ORIGINS allows.
    """
    response.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin is None:
        return
    wanted = request.headers.get("Access-Control-Request-Headers", "").strip()
    asked = None
    if request.method == "OPTIONS":
        asked = request.headers.get("Access-Control-Request-Method")
        response.vary.update(["Access-Control-Request-Method", "Access-Control-Request-Headers"])
    endpoint = _endpoint(asked)
    named = _is_named(origin)
    if not named:
        # A key or token, or a preflight for one.
        sent = {name.strip().lower() for name in (*wanted.split(","), *request.headers.keys())}
        open_ = endpoint is None or endpoint in for_every_page or CREDENTIALS & sent
        if "*" not in services().settings.current.cors_origins or not open_:
            return
    response.headers["Access-Control-Allow-Origin"] = origin if named else "*"
    response.headers["Access-Control-Expose-Headers"] = "*"
    if asked is None or endpoint is None:
        return
    response.headers["Access-Control-Allow-Methods"] = asked
    response.headers["Access-Control-Max-Age"] = "600"
    wanted = wanted or "Authorization, Content-Type, X-API-Key"
    if len(wanted) <= LONGEST and HEADERS.fullmatch(wanted):
        response.headers["Access-Control-Allow-Headers"] = wanted
    # From a page of the internet into a private network: only a named origin may.
    if named and request.headers.get("Access-Control-Request-Private-Network") == "true":
        response.headers["Access-Control-Allow-Private-Network"] = "true"


def _endpoint(asked: str | None) -> str | None:
    """Return the route of the request, or of the method that a preflight asks for."""
    if asked is None:
        return request.endpoint
    adapter = current_app.create_url_adapter(request)
    try:
        return adapter.match(method=asked)[0] if adapter else None
    except HTTPException:  # there is no such route
        return None
