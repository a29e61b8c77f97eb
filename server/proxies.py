"""Who sent a request: the peer, or the caller that trusted proxies name.

Every client can write X-Forwarded-For and X-Forwarded-Proto. They are believed from configured
addresses only, one address for each proxy, read from the end: the nearest proxy wrote that.
"""

import ipaddress
import logging
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger("proxies")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Proxies:
    """WSGI middleware that sets REMOTE_ADDR and `wsgi.url_scheme` to the caller's.

    It passes at most `hops` proxies, each of which must be in one of `trusted`.
    """

    def __init__(self, app: Application, hops: int, trusted: Iterable[Network]) -> None:
        self._app, self._hops, self._trusted = app, hops, tuple(trusted)
        self._warned = False

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Pass a request on."""
        given = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        peer = read_address(environ.get("REMOTE_ADDR", ""))
        caller, passed = peer, 0
        while passed < self._hops and self._is_trusted(caller):
            before = read_address(given.pop()) if given else None
            if before is None:
                break
            caller, passed = before, passed + 1
        if "HTTP_X_FORWARDED_FOR" in environ and not passed and not self._warned:
            self._warned = True
            log.warning(
                "a request from %s has X-Forwarded-For, which is not believed: all callers behind "
                "that address count as one. If it is your proxy, set TRUSTED_PROXY_HOPS (now %d) "
                "and TRUSTED_PROXIES (now %s)",
                peer, self._hops, ", ".join(map(str, self._trusted)),
            )  # fmt: skip
        trusted = bool(self._hops) and self._is_trusted(peer)
        environ["proxies.peer"] = peer  # the address that is connected
        environ["proxies.trusted"] = trusted
        if caller is not None:
            environ["REMOTE_ADDR"] = str(caller)
        if trusted:
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        return self._app(environ, start_response)

    def _is_trusted(self, address: Address | None) -> bool:
        """Return whether this is a proxy. A peer on a Unix socket has no address, and is."""
        return address is None or any(address in network for network in self._trusted)


def read_address(text: str) -> Address | None:
    """Return the address that a proxy wrote, perhaps with a port; None if it is none.

    An IPv4 address inside IPv6 is IPv4.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
