"""On which addresses to listen, and for how many connections there are descriptors."""

import contextlib
import ipaddress
import math
import resource
import socket

# What a worker opens besides its clients: files, models, the database, Redis, providers, the log.
RESERVED = 256
# The limit of descriptors is raised to this at most: some programs close every possible one.
MOST_DESCRIPTORS = 65_536


def addresses_of(host: str) -> list[str]:
    """Return the addresses of this machine that a name or address stands for.

    `::` includes IPv4, as on most systems; without IPv6 it is IPv4 alone. A name whose addresses
    are all of other machines gives those: binding them then fails with the reason.
    """
    if host == "::":
        if not _can_bind("::"):
            return ["0.0.0.0"]  # nosec B104
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            ipv6_only = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return ["::", "0.0.0.0"] if ipv6_only else ["::"]  # nosec B104
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return [host]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return [address for address in addresses if _can_bind(address)] or addresses


def bind_of(host: str, port: int) -> list[str]:
    """Return gunicorn's `bind` for a host and port."""
    return [f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses_of(host)]


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def room_for_connections(most: int) -> int:
    """Raise this process's limit of descriptors, which workers inherit; return how many
    connections fit, `most` at most.
    """
    unlimited = resource.RLIM_INFINITY
    current, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = math.inf if current == unlimited else current
    allowed = MOST_DESCRIPTORS if hard == unlimited else min(hard, MOST_DESCRIPTORS)
    if soft < allowed:
        with contextlib.suppress(OSError, ValueError):  # the system's own limit may be lower still
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
    return int(min(most, max(soft - RESERVED, soft // 2)))
