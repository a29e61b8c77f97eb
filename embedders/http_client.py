"""The one door to other hosts: a POST that holds its deadline, its size and its addresses.

The deadline is a total: every read of the socket, headers included, gets only what is left of it,
so a server that drips bytes cannot hold a thread. Names are resolved here and the connection goes
to the very address that was checked, so a name that resolves anew (DNS rebinding) gains nothing.
Through a proxy (HTTPS_PROXY) the proxy resolves and is trusted to. No redirect is followed, no
cookie kept, no .netrc read. Knows nothing of providers or keys.
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
from typing import Any
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
# What is no public address, of IANA's registries of special-purpose addresses (November 2026). Of
# its own, as `is_global` says other things in other versions of Python. Teredo, 2001::/32, is here
# whatever it wraps; 6to4 and NAT64 are judged by the address in them, and of IPv6 only what is
# within 2000::/3 is given to hosts.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "2001::/23", "2001:db8::/32", "3fff::/20",
    )
]  # fmt: skip
_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Answer:
    """What came back: never shown to anyone, only parsed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Call(threading.local):
    """What the connection classes must know of the call that this thread makes."""

    deadline = float("inf")
    networks: Sequence[Network] = ()

    def left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of this call has passed")
        return left


_call = _Call()


class _Reader(io.RawIOBase):
    """Reads a socket, giving each read only what is left of the call's deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", 0)

    def makefile(self, *_: object) -> io.BufferedReader:
        """Stand in for the socket where http.client makes its reader."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(min(_call.left(), 3600))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _response(sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
    return http.client.HTTPResponse(_Reader(sock), *args, **kwargs)  # type: ignore[arg-type]


class _Checked:
    """Connects to an address that was checked, never to a name."""

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        try:
            found = socket.getaddrinfo(connection._dns_host, connection.port, 0, socket.SOCK_STREAM)
        except OSError as exc:
            raise urllib3.exceptions.NewConnectionError(connection, "no such host") from exc
        addresses = list(dict.fromkeys(str(row[4][0]) for row in found))
        for address in addresses:
            if not allowed(address, _call.networks):
                raise ProviderError(f"{connection.host}: {_private()}", permanent=True)
        failure: OSError | None = None
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


class _TimedHTTP(HTTPConnection):
    response_class = staticmethod(_response)  # type: ignore[assignment]


class _TimedHTTPS(HTTPSConnection):
    response_class = staticmethod(_response)  # type: ignore[assignment]


class _CheckedHTTP(_Checked, _TimedHTTP):
    pass


class _CheckedHTTPS(_Checked, _TimedHTTPS):
    pass


def _pool(base: type, connection: type) -> type:
    return type(f"{connection.__name__}Pool", (base,), {"ConnectionCls": connection})


_DIRECT = {
    "http": _pool(HTTPConnectionPool, _CheckedHTTP),
    "https": _pool(HTTPSConnectionPool, _CheckedHTTPS),
}
_PROXIED = {
    "http": _pool(HTTPConnectionPool, _TimedHTTP),
    "https": _pool(HTTPSConnectionPool, _TimedHTTPS),
}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _DIRECT

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _PROXIED
        return manager


class Door:
    """Sends requests out over pooled connections. Safe from many threads."""

    def __init__(
        self,
        *,
        networks: Sequence[Network] = (),
        http_hosts: Sequence[str] = (),
        max_reply_bytes: int = 128 * 1024 * 1024,
        connections: int = 64,
    ) -> None:
        self._networks = networks
        self._http_hosts = http_hosts
        self._max_reply_bytes = max_reply_bytes
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _Adapter(pool_maxsize=connections))

    def check(self, url: str) -> None:
        """Refuse an address of a configuration that may not be called. Raises ModelUnavailable."""
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
            return  # a name: checked whenever it is connected to
        if not allowed(literal, self._networks):
            raise ModelUnavailable(f"{shown}: {_private()}")

    def post(self, url: str, headers: Mapping[str, str], body: bytes, deadline: float) -> Answer:
        """POST `body`. Raises ProviderTimeout, ProviderError; neither tells of body or headers."""
        host = urlsplit(url).hostname
        _call.deadline, _call.networks = deadline, self._networks
        try:
            left = _call.left()
            with self._session.post(
                url,
                data=body,
                headers={"Accept-Encoding": "identity", **headers},
                timeout=(min(left, CONNECT_S), left),
                stream=True,
                allow_redirects=False,
                auth=_as_it_is,
            ) as response:
                return Answer(response.status_code, response.headers, self._read(response))
        except requests.ConnectTimeout:
            if time.monotonic() >= deadline:
                raise ProviderTimeout(f"{host} did not answer in time") from None
            raise ProviderError(f"{host} took no connection in {CONNECT_S:.0f} s") from None
        except (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError):
            raise ProviderTimeout(f"{host} did not answer in time") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            if time.monotonic() >= deadline:
                raise ProviderTimeout(f"{host} did not answer in time") from None
            kind = type(exc).__name__
            raise ProviderError(f"the connection to {host} failed ({kind})") from None
        finally:
            _call.deadline = float("inf")

    def _read(self, response: requests.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ProviderError("a compressed reply came that was not asked for", permanent=True)
        parts, size = [], 0
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            parts.append(chunk)
            size += len(chunk)
            if size > self._max_reply_bytes:
                limit = self._max_reply_bytes
                raise ProviderError(f"the reply is larger than {limit} bytes", permanent=True)
        return b"".join(parts)

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()


def allowed(address: str, networks: Sequence[Network]) -> bool:
    """Tell whether an address may be connected to: public, or in a network that was allowed."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    ip = ipaddress.ip_address(address.partition("%")[0])
    if _within(ip, networks):
        return True
    if isinstance(ip, ipaddress.IPv4Address):
        return not _within(ip, _NOT_PUBLIC)
    if inner := ip.ipv4_mapped or ip.sixtofour or _translated(ip):
        return allowed(str(inner), networks)
    return ip in _UNICAST and not _within(ip, _NOT_PUBLIC)


def _translated(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address to which a translator leads what is sent to this one."""
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None


def _within(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Sequence[Network]) -> bool:
    return any(ip.version == network.version and ip in network for network in networks)


def _private() -> str:
    return "this is a private address, and PROVIDER_NETWORKS does not hold it"


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand in for credentials, so that none are taken from a .netrc."""
    return request
