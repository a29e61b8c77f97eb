"""Origins of pages, as a person writes them in CORS_ORIGINS and as a browser sends them."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

PATTERN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)"
    r"(:(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE | re.ASCII,
)
DEFAULT_PORTS = {"http": 80, "https": 443}
NEVER = {"file", "ftp", "ws", "wss"}  # no page has such an origin: a file's is null
RULE = (
    "each should be * or scheme://host[:port], such as https://example.org: no path, no user, no * "
    "in a host, letters beyond ASCII as xn--, and not null, which every sandboxed page has"
)


def as_sent(text: str) -> str:
    """Return an origin as browsers write it in `Origin`. Raises ValueError if none ever sends it.

    They write it in small letters, without the scheme's own port and without a slash at the end.
    """
    found = PATTERN.fullmatch(text.strip(" \t\r\n\"'"))
    if found is None:
        raise ValueError("is no origin")
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = int(found["port"]) if found["port"] else None
    if scheme in NEVER or (port or 0) > 65535:
        raise ValueError("is no origin")
    if host.startswith("["):
        host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    elif re.fullmatch(r"(.*\.)?(\d+|0x[0-9a-f]*)\.?", host):  # then browsers take it for an address
        host = str(ipaddress.IPv4Address(host))
    shown = "" if port is None or port == DEFAULT_PORTS.get(scheme) else f":{port}"
    return f"{scheme}://{host}{shown}"


def _split(value: object) -> object:
    """Read a comma list, in brackets and quotes perhaps. An IPv6 host keeps its own brackets."""
    if not isinstance(value, str):
        return value
    bare = value.strip(" \t\r\n\"'")
    inner = bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare
    return tuple(part for part in inner.split(",") if part.strip(" \t\r\n\"'"))


def _all_as_sent(values: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for at, value in enumerate(values, 1):
        bare = value.strip(" \t\r\n\"'")
        try:
            found.append("*" if bare == "*" else as_sent(bare))
        except ValueError:  # the item is not shown: it may hold a password
            raise ValueError(f"item {at} is the origin of no page; {RULE}") from None
    return tuple(dict.fromkeys(found))


Origins = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_all_as_sent)]
