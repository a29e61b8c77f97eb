"""On which addresses to listen, for the name or address that a person gave.

Called by `gunicorn.conf.py` and for the metrics' port; knows nothing of the application.
"""

import ipaddress
import socket


def addresses_of(host: str) -> list[str]:
    """Return the addresses that a host stands for and that this machine has.

    `::` is every IPv4 address too, as on most systems; without IPv6 it is those alone. For a name
    whose addresses are none of ours they are returned all the same: who binds them says why not.
    """
    if host == "::":
        if not _can_bind("::"):
            return ["0.0.0.0"]  # nosec B104
        return ["::"] if _is_dual() else ["::", "0.0.0.0"]  # nosec B104
    try:
        ipaddress.ip_address(host)
        return [host]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return [address for address in addresses if _can_bind(address)] or addresses


def bind_of(host: str, port: int) -> list[str]:
    """Return what gunicorn is to bind."""
    return [f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses_of(host)]


def _can_bind(address: str) -> bool:
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _is_dual() -> bool:
    """Tell whether a socket on `::` takes IPv4 too, as gunicorn leaves it to the system."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        return probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
