"""`python -m server.healthy` exits with 0 if the server of this machine answers that it is healthy.

Variables, `.env` and flags can all set the port, so it asks where gunicorn listens.
"""

import contextlib
import http.client
import os
import sys
from collections.abc import Iterator
from pathlib import Path

LISTENING = "0A"  # a socket's state in /proc/net/tcp
TIMEOUT_S = 4.0


def servers() -> Iterator[Path]:
    """Yield the folders in /proc of the gunicorn processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended just now
            if b"gunicorn" in (folder / "cmdline").read_bytes():
                yield folder


def ports_of(process: Path) -> set[int]:
    """Return the TCP ports on which a process of this user listens, by its folder in /proc."""
    sockets, found = set(), set()
    with contextlib.suppress(OSError):  # it is another user's
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(descriptor))
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):  # there is no IPv6
            for line in (process / "net" / name).read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == LISTENING and f"socket:[{inode}]" in sockets:
                    found.add(int(local.rpartition(":")[2], 16))
    return found


def is_healthy(port: int) -> bool:
    """Return whether `/health` on a port is answered with 200. The metrics' port has no JSON."""
    connection = http.client.HTTPConnection("localhost", port, timeout=TIMEOUT_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        reply = connection.getresponse()
        return (reply.status, reply.headers.get_content_type()) == (200, "application/json")
    return False


if __name__ == "__main__":
    ports = {port for process in servers() for port in ports_of(process)}
    sys.exit(0 if any(map(is_healthy, sorted(ports))) else "no server is healthy here")
