"""HTTP client for providers: a POST with a total deadline, a size cap and checked addresses.

The deadline is a total. Every read of the socket, headers included, gets only what is left of it,
so a server that sends a byte at a time cannot hold a thread. Names are resolved here and the
connection goes to the very address that was checked, so a name that resolves differently the next
time (DNS rebinding) gains nothing. A proxy (HTTPS_PROXY) resolves names itself and is trusted to.
No redirect is followed, no cookie kept, no .netrc read.
"""

import http.client
import io
import ipaddress
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from config.serving import Network
from errors import ModelUnavailable, ProviderError, ProviderTimeout

CONNECT_S = 10.0
CHUNK = 64 * 1024
PRIVATE = "this is a private address outside PROVIDER_NETWORKS"
# The addresses of IANA's special-purpose registries (November 2026) that are not public. The list
# is kept here because `is_global` differs between versions of Python. Teredo, 2001::/32, is on it
# whatever it wraps; 6to4 and NAT64 addresses are judged by the IPv4 address inside. Of IPv6 only
# 2000::/3 is assigned to hosts.
_NOT_PUBLIC = [ipaddress.ip_network(network) for network in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "2001::/23", "2001:db8::/32", "3fff::/20",
)]  # fmt: skip
_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class HttpResponse:
    """A provider's reply. It is parsed, never shown to a caller."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Call(threading.local):
    """The deadline and the allowed networks of this thread's call, for the connection classes."""

    deadline = float("inf")
    networks: Sequence[Network] = ()

    def left(self) -> float:
        """Return the seconds left. Raises TimeoutError when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of this call has passed")
        return left


_call = _Call()


class _Reader(io.RawIOBase):
    """Reads a socket; each read waits at most for what is left of the call's deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", 0)

    def makefile(self, *_: object) -> io.BufferedReader:
        """Return the reader that http.client asks its socket for."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(min(_call.left(), 3600))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Connection:
    """Connects to an address that was checked, within the deadline."""

    @staticmethod
    def response_class(sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(cast(Any, _Reader(sock)), *args, **kwargs)

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        try:
            found = socket.getaddrinfo(connection._dns_host, connection.port, 0, socket.SOCK_STREAM)
        except OSError as exc:
            raise urllib3.exceptions.NewConnectionError(connection, "no such host") from exc
        addresses = list(dict.fromkeys(str(row[4][0]) for row in found))
        direct, failure = connection.proxy is None, None
        if direct and not all(allowed(address, _call.networks) for address in addresses):
            raise ProviderError(f"{connection.host}: {PRIVATE}", permanent=True)
        for address in addresses:
            try:
                limit = min(_call.left(), CONNECT_S)
                sock = socket.create_connection((address, connection.port), limit)
            except OSError as exc:
                failure = exc
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(min(_call.left(), CONNECT_S))
                return sock
        raise urllib3.exceptions.NewConnectionError(connection, "no connection") from failure


# urllib3's classes of pools, with connections that are also `_Connection`s.
_POOLS = {
    scheme: type("SafePool", (pool,), {"ConnectionCls": type("Safe", (_Connection, kind), {})})
    for scheme, pool, kind in (
        ("http", HTTPConnectionPool, HTTPConnection),
        ("https", HTTPSConnectionPool, HTTPSConnection),
    )
}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class SafeClient:
    """Sends POST requests over pooled connections. Safe from many threads."""

    def __init__(
        self, *, networks: Sequence[Network], http_hosts: Sequence[str], max_reply_bytes: int,
        connections: int,
    ) -> None:  # fmt: skip
        self._networks, self._http_hosts = networks, http_hosts
        self._max_reply_bytes = max_reply_bytes
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        for scheme in _POOLS:
            self._session.mount(f"{scheme}://", _Adapter(pool_maxsize=connections))

    def check(self, url: str) -> None:
        """Raise ModelUnavailable for a configured address that may not be called."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        shown = f"base_url {parts.scheme}://{host}"
        if parts.scheme not in ("https", "http") or not host or parts.username:
            raise ModelUnavailable(f"{shown}: must be https://host/..., without a user name")
        if parts.scheme == "http" and host not in self._http_hosts:
            raise ModelUnavailable(f"{shown}: must be https unless PROVIDER_HTTP_HOSTS has {host}")
        literal = "127.0.0.1" if host == "localhost" or host.endswith(".localhost") else host
        try:
            ipaddress.ip_address(literal)
        except ValueError:
            return  # a name is checked whenever it is connected to
        if not allowed(literal, self._networks):
            raise ModelUnavailable(f"{shown}: {PRIVATE}")

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> HttpResponse:
        """Return the reply to a POST; `deadline` is a `time.monotonic()` value.

        Raises ProviderTimeout or ProviderError. Their messages hold no part of body or headers.
        """
        host = urlsplit(url).hostname
        _call.deadline, _call.networks = deadline, self._networks
        try:
            left = _call.left()
            with self._session.post(
                url, data=body, headers={"Accept-Encoding": "identity", **headers}, stream=True,
                timeout=(min(left, CONNECT_S), left), allow_redirects=False,
                auth=lambda request: request,  # else requests reads a .netrc
            ) as response:  # fmt: skip
                return HttpResponse(response.status_code, response.headers, self._read(response))
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            # A connection that takes 10 s is a fault of the host, unless the deadline came first.
            slow = isinstance(exc, requests.ConnectTimeout)
            timeouts = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)
            if time.monotonic() >= deadline or (isinstance(exc, timeouts) and not slow):
                raise ProviderTimeout(f"{host} did not answer in time") from None
            what = f"took over {CONNECT_S:.0f} s" if slow else f"failed ({type(exc).__name__})"
            raise ProviderError(f"the connection to {host} {what}") from None
        finally:
            _call.deadline = float("inf")

    def _read(self, response: requests.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ProviderError("the reply is compressed, which was not asked for", permanent=True)
        parts, size, limit = [], 0, self._max_reply_bytes
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                raise ProviderError(f"the reply is larger than {limit} bytes", permanent=True)
        return b"".join(parts)

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()


def allowed(address: str, networks: Sequence[Network]) -> bool:
    """Return whether an address may be connected to: it is public or in one of `networks`."""
    ip = ipaddress.ip_address(address.partition("%")[0])

    def within(several: Sequence[Network]) -> bool:
        return any(ip.version == network.version and ip in network for network in several)

    if within(networks):
        return True
    if isinstance(ip, ipaddress.IPv4Address):
        return not within(_NOT_PUBLIC)
    translated = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
    if inner := ip.ipv4_mapped or ip.sixtofour or translated:
        return allowed(str(inner), networks)
    return ip in _UNICAST and not within(_NOT_PUBLIC)
