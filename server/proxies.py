"""Whom a request is from: the peer, or whom proxies that are known name in its place.

Every client can write X-Forwarded-For and X-Forwarded-Proto. They are believed from configured
addresses alone, one address for each proxy, read from the end: that is what the nearest one wrote.
Wraps the application; knows nothing of it.
"""

import ipaddress
import logging
from collections.abc import Iterable
from typing import Any

log = logging.getLogger("proxies")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """WSGI middleware that puts the caller's address and scheme where the application reads them.

    It passes at most `hops` proxies, each of which must be in one of `trusted`.
    """

    def __init__(self, app: Any, hops: int, trusted: Iterable[Network]) -> None:
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
        if "HTTP_X_FORWARDED_FOR" in environ and not passed:
            self._warn(peer)
        trusted = bool(self._hops) and self._is_trusted(peer)
        environ["proxies.peer"] = peer  # who is connected, whoever is believed to have called
        environ["proxies.trusted"] = trusted
        if caller is not None:
            environ["REMOTE_ADDR"] = str(caller)
        if trusted:
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        found: Iterable[bytes] = self._app(environ, start_response)
        return found

    def _is_trusted(self, address: Address | None) -> bool:
        """Tell whether this is a proxy. Who comes by a Unix socket has no address, and may."""
        return address is None or any(address in network for network in self._trusted)

    def _warn(self, peer: Address | None) -> None:
        """Say once that a proxy, if it is one, is not believed."""
        if self._warned:
            return
        self._warned = True
        log.warning(
            "a request from %s carries X-Forwarded-For and it is not believed: all callers behind "
            "that address count as one. If it is your proxy, set TRUSTED_PROXY_HOPS (now %d) and "
            "TRUSTED_PROXIES (now %s)",
            peer, self._hops, ", ".join(map(str, self._trusted)),
        )  # fmt: skip


def read_address(text: str) -> Address | None:
    """Read an address as proxies write it, with a port perhaps; an IPv4 one in IPv6 is IPv4."""
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
