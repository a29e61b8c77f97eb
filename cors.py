"""Pages of other origins: whose requests are answered, and by which names this machine is called.

A browser lends every page that it shows its place in the network: a page from anywhere reaches what
listens on this machine. So whoever has no credential gets at what is stored only if no page of
another origin sends the request, or one that CORS_ORIGINS names. Routes that are for every page say
so in the route table (`any_page`).
"""

import re
import socket
from collections.abc import Container
from functools import cache
from urllib.parse import urlsplit

from flask import Response, current_app, request
from werkzeug.exceptions import HTTPException

from config.origins import as_sent
from context import services
from errors import Forbidden
from server.proxies import read_address

# A proxy on this machine calls from this machine, for whoever it calls.
FORWARDED = (
    "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP",
)  # fmt: skip
CREDENTIALS = {"authorization", "x-api-key"}
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2: what a header may be called  # nosec B105
HEADERS = re.compile(rf"{TOKEN}([ \t]*,[ \t]*{TOKEN})*")
CREDENTIAL = "send a key or token of a user, or ADMIN_TOKEN while AUTH_ENABLED is false"
LONGEST = 1024  # characters of the headers that a preflight asks for; OpenAI's SDK asks for 230
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/?#@\\\s]+)(:(?P<port>[0-9]{1,5}))?", re.I)
# No page of the internet has a name without a dot, or one of these: they are in no public DNS.
PRIVATE = (".localhost", ".local", ".internal")


def from_another_origin() -> bool:
    """Return whether a page of another origin sent the request, by what its browser says.

    Browsers since 2023 send Sec-Fetch-Site to this machine and over TLS; no page can set it.
    Programs send neither Sec-Fetch-Site nor Origin.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site.strip().lower() not in ("same-origin", "none")
    return not own_origin()


def own_origin() -> bool:
    """Tell whether the request's Origin, if it has one, is where the request was sent."""
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    scheme = origin.partition("://")[0]
    try:
        # X-Forwarded-Host does not count: a page may send it, after a preflight for a credential.
        sent_to = as_sent(f"{scheme}://{request.headers.get('Host', '')}")
    except ValueError:
        return False
    return scheme in ("http", "https") and origin == sent_to


def loopback(address: str) -> bool:
    """Tell whether an address, or the name in a Host header, is this machine's own loopback."""
    found = read_address(address)
    return found is not None and found.is_loopback


def loopback_host() -> bool:
    """Tell whether the request was sent to localhost or to a loopback address."""
    found = HOST.fullmatch(request.headers.get("Host", ""))
    return found is not None and (found["name"].lower() == "localhost" or loopback(found["name"]))


def keep_out_pages() -> None:
    """Refuse what a page may have sent that has no business here. Raises Forbidden.

    For routes that are not for every page, and callers who have no credential that is good here.
    """
    origin = request.headers.get("Origin")
    if _is_named(origin):
        return
    if from_another_origin():
        raise Forbidden(
            f"this is not for pages of every origin, and {_shown(origin)} is not named in "
            f"CORS_ORIGINS, where * names none. Name it there, or {CREDENTIAL}"
        )
    if _came_by_a_strange_name():
        raise Forbidden(
            "this was sent from this machine to a name that is not known for its own, as pages do "
            "whose name was made to lead here. Call localhost, an address or this machine's name; "
            "behind a proxy have its Host be localhost, or set TRUSTED_PROXY_HOPS and have it send "
            "X-Forwarded-For; name http://host:port in CORS_ORIGINS; or "
            f"{CREDENTIAL}"
        )


def _shown(origin: str | None) -> str:
    return "the page, which sends no Origin," if origin is None else repr(origin[:200])


def _is_named(origin: str | None) -> bool:
    """Tell whether CORS_ORIGINS names this very origin, which `*` does not."""
    return origin != "*" and origin in services().settings.current.cors_origins


def _came_by_a_strange_name() -> bool:
    """Tell whether somebody on this machine calls it by a name that anybody may have made.

    A page whose name was made to lead here (DNS rebinding) is of the same origin to its browser and
    may send what it likes, X-Forwarded-For too; so that counts only where proxies are configured.
    A proxy passes on the name and the port that it was called by: not the service's own port.
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
    """Tell whether a person may call this machine so: by an address, or by a name of its own."""
    bare = name.removesuffix(".")
    if name.startswith("[") or "." not in bare or bare.endswith(PRIVATE) or _is_address(bare):
        return True
    named = {urlsplit(origin).hostname for origin in services().settings.current.cors_origins}
    return name in named or bare in own_names()


def _is_address(name: str) -> bool:
    try:
        return bool(socket.inet_aton(name))  # 127.1 and 0x7f000001 too, as a person may write them
    except (OSError, UnicodeError):
        return False


@cache
def own_names() -> set[str]:
    """Return what the system calls this machine: its name, alone and with its domain."""
    return {socket.gethostname().lower(), socket.getfqdn().lower()}


def let_pages_read(response: Response, for_every_page: Container[str]) -> None:
    """Let pages of other origins read this answer, if it is for them (CORS, without cookies).

    `for_every_page` are the endpoints that `*` in CORS_ORIGINS opens.
    """
    response.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin is None:
        return
    asked = None
    if request.method == "OPTIONS":
        asked = request.headers.get("Access-Control-Request-Method")
        response.vary.update(["Access-Control-Request-Method", "Access-Control-Request-Headers"])
    endpoint = _endpoint(asked)
    named = _is_named(origin)
    if not named:
        open_ = endpoint is None or endpoint in for_every_page or _with_credential()
        if "*" not in services().settings.current.cors_origins or not open_:
            return
    response.headers["Access-Control-Allow-Origin"] = origin if named else "*"
    response.headers["Access-Control-Expose-Headers"] = "*"
    if asked is not None and endpoint is not None:
        _answer_preflight(response, asked, named=named)


def _answer_preflight(response: Response, method: str, *, named: bool) -> None:
    """Give leave for the method that the route has, and for whatever headers are asked for."""
    response.headers["Access-Control-Allow-Methods"] = method
    response.headers["Access-Control-Max-Age"] = "600"
    wanted = _asked_headers() or "Authorization, Content-Type, X-API-Key"
    if len(wanted) <= LONGEST and HEADERS.fullmatch(wanted):
        response.headers["Access-Control-Allow-Headers"] = wanted
    # From a page of the internet into a private network; `*` was not meant for that.
    if named and request.headers.get("Access-Control-Request-Private-Network") == "true":
        response.headers["Access-Control-Allow-Private-Network"] = "true"


def _asked_headers() -> str:
    return request.headers.get("Access-Control-Request-Headers", "").strip()


def _endpoint(asked: str | None) -> str | None:
    """Return the route of the request; of a preflight, the one of the method that it asks for."""
    if asked is None:
        return request.endpoint
    adapter = current_app.create_url_adapter(request)
    try:
        return adapter.match(method=asked)[0] if adapter else None
    except HTTPException:  # there is no such route
        return None


def _with_credential() -> bool:
    """Tell whether the request carries a key or token, or asks leave to send one that does."""
    asked = {name.strip().lower() for name in _asked_headers().split(",")}
    return bool(CREDENTIALS & asked) or any(name in request.headers for name in CREDENTIALS)
