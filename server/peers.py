"""Which process is at the other end of a Unix socket, whether it is stopped, and its end."""

import contextlib
import os
import signal
import socket
import struct
import time
from pathlib import Path

CONNECT_S = 2  # a stopped process takes no connection once its queue is full
END_S = 5.0  # how long a process may take to end by itself


def connected(path: Path) -> socket.socket:
    """Return a new connection to a socket. Raises OSError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The system's limit: with Python's a full queue is an error at once.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", CONNECT_S, 0))
        made.connect(str(path))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 0))
    except BaseException:
        made.close()
        raise
    return made


def peer_of(connected: socket.socket) -> tuple[int | None, int | None]:
    """Return the process and the user at the other end; None where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None, None
    found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", found)
    return pid, uid


def is_own_user(connected: socket.socket, uid: int | None = None) -> bool:
    """Whether the other end runs as this user, or as `uid`."""
    _, other = peer_of(connected)
    return other is None or other == (os.geteuid() if uid is None else uid)


def state_of(pid: int | None) -> str | None:
    """Return a process's state as /proc has it (T: stopped); None where that cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[0]


def is_stopped(pid: int | None) -> bool:
    """Whether a process is stopped by a signal or by a debugger."""
    return state_of(pid) in ("T", "t")


def kill(pid: int | None) -> None:
    """Kill a process of this user, which may be gone."""
    if pid and pid != os.getpid():  # 0: of another namespace
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def listeners(folder: Path) -> list[int]:
    """Return the processes of this user that listen at the sockets in a folder."""
    found = []
    for path in folder.glob("*.sock"):
        with contextlib.suppress(OSError), connected(path) as made:
            pid, _ = peer_of(made)
            if pid and pid != os.getpid() and is_own_user(made):
                found.append(pid)
    return found


def see_end(pids: list[int]) -> None:
    """Wait until processes have ended by themselves; kill those that are stopped or stay."""
    end = time.monotonic() + END_S
    while left := [pid for pid in pids if state_of(pid) not in (None, "Z")]:
        late = time.monotonic() > end
        for pid in left:
            if late or is_stopped(pid):
                kill(pid)
        if late:
            return
        time.sleep(0.05)
