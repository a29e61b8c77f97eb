"""The processes below one, from /proc, with nothing but Python itself."""

import contextlib
from pathlib import Path


def below(pid: int) -> list[int]:
    """Return the pids of a process's children, and of theirs, the parents first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            children.setdefault(int(stat(int(path.name))[1]), []).append(int(path.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def stat(pid: int) -> list[str]:
    """Return what /proc says of a process after its name: state, parent, and so on (proc(5)).

    Raises OSError if it is gone.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
