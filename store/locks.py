"""Locks between processes, which the kernel drops when their holder dies, and what they rest on.

`flock` belongs to an open file, so a forked child must never use its parent's: the file is opened
anew in each process. Network file systems are refused, as their locks cannot be relied on.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from errors import Busy, NotFound, Unavailable

try:
    import fcntl
except ImportError as exc:  # pragma: no cover - Windows
    raise Unavailable("the file store needs flock; on Windows use STORE_URL=postgresql") from exc

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "lustre", "beegfs", "gpfs"}
NETWORK |= {"fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"}


HELD, FREE = b"1", b"0"  # the lock file's only byte


def _mark(fd: int, state: bytes) -> None:
    with suppress(OSError):  # a full disk: then a death goes unnoticed, and costs a sync at worst
        os.pwrite(fd, state, 0)


class FileLock:
    """An exclusive lock on a file, held by one process at a time. Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._pid = 0

    @contextmanager
    def held(self, timeout_s: float) -> Iterator[bool]:
        """Hold the lock for a block; tell it whether the last holder died holding it.

        Raises Busy when it is not had in time.
        """
        fd = self._own()
        deadline, pause = time.monotonic() + timeout_s, 0.00005
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"another process has held the store's lock for {timeout_s:g} s",
                        retry_after_s=1,
                    ) from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.005)
        try:
            unclean = os.pread(fd, 1, 0) == HELD
            _mark(fd, HELD)
            yield unclean
        finally:
            _mark(fd, FREE)
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _own(self) -> int:
        if self._pid != os.getpid():
            self.close()
            try:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                raise NotFound("the collection has been dropped") from None
            self._pid = os.getpid()
        return self._fd

    def close(self) -> None:
        """Let the file go; the lock, if held by this process alone, with it."""
        fd, self._fd, self._pid = self._fd, -1, 0
        if fd >= 0:
            os.close(fd)


def boot_id() -> str:
    """Return what changes with every boot, or '' where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def check_folder(path: Path) -> None:
    """Refuse a folder on a network file system or of another user."""
    if os.stat(path).st_uid != os.geteuid():
        raise Unavailable(f"the store's folder {path} belongs to another user")
    kind = file_system(path.resolve())
    if kind in NETWORK:
        raise Unavailable(f"{path} is on {kind}; the file store needs a local disk")


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that a path is on, '' when unknown."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        inside = point == "/" or str(path) == point or str(path).startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
