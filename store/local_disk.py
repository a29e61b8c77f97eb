"""Folders and files of a file store: private, of this user, and on a local disk."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from errors import Full, Unavailable

# A full disk, a quota, or a process's own limit on the size of files.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "lustre", "beegfs", "gpfs"}
NETWORK |= {"fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"}


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Turn an error of the system into Full or Unavailable."""
    try:
        yield
    except OSError as exc:
        if exc.errno in NO_SPACE:
            raise Full(f"no space left on the store's disk to {what}") from exc
        raise Unavailable(f"the store could not {what}: {os.strerror(exc.errno or 0)}") from exc


def check_owner(path: Path) -> None:
    """Raise Unavailable if a file or folder belongs to another user."""
    if os.stat(path).st_uid != os.geteuid():
        raise Unavailable(f"{path} belongs to another user")


def check_folder(path: Path) -> None:
    """Raise Unavailable for a folder on a network file system or of another user."""
    check_owner(path)
    kind = file_system(path.resolve())
    if kind in NETWORK:  # locks and shared memory cannot be relied on there
        raise Unavailable(f"{path} is on {kind}; the file store needs a local disk")


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds a path, '' when unknown."""
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


def boot_id() -> str:
    """Return what changes with every boot, '' where the system has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def make_folders(path: Path) -> None:
    """Make a folder and those above it, private and durable."""
    if path.is_dir():
        return
    make_folders(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
        sync_folder(path.parent)


def make_file(path: Path) -> int:
    """Make a new private file; return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def sync_folder(path: Path) -> None:
    """Return once a folder's entries are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def size_of(folder: Path) -> int:
    """Return the bytes that the files of a folder take on the disk."""
    total = 0
    for at, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):  # a file may go at any moment
                total += os.lstat(os.path.join(at, file)).st_blocks * 512
    return total
