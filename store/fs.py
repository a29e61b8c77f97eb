"""Every touch of the disk that the store's promises rest on, in one small class.

A test replaces it to cut the power or fail a call at any point. Paths in, file descriptors out;
errors of the system become errors of ours only in `failures`.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from errors import Full, Unavailable

# A full disk, a quota, or a process's own limit on the size of files.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FS:
    """The calls, each doing what its name says. Files are private to their user (0600)."""

    def mkdir(self, path: Path) -> None:
        """Make a folder, private to its user."""
        os.mkdir(path, 0o700)

    def open(self, path: Path, *, create: bool = False, write: bool = False) -> int:
        """Open a file and return its descriptor; `create` refuses one that exists."""
        flags = os.O_RDWR if write or create else os.O_RDONLY
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data).cast("B")
        while view:
            done = os.pwrite(fd, view, offset)
            view, offset = view[done:], offset + done

    def truncate(self, fd: int, size: int) -> None:
        """Set a file's size; growing it leaves a hole."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Return once the file's content is on the disk."""
        if sys.platform == "darwin":  # its fsync leaves the content in the disk's cache
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def sync_folder(self, path: Path) -> None:
        """Return once a folder's entries are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, replacing what was there."""
        os.rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        """Give a file a second name."""
        os.link(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file's name; those who have it open keep it."""
        os.unlink(path)


def read(fd: int, size: int, offset: int) -> bytes:
    """Read `size` bytes at `offset`, fewer only at the end of the file."""
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]
    while data and (size := size - len(data)):
        offset += len(data)
        data = os.pread(fd, size, offset)
        parts.append(data)
    return b"".join(parts)


def make_folders(fs: FS, path: Path) -> None:
    """Make a folder and those above it, each durable in its parent."""
    if path.is_dir():
        return
    make_folders(fs, path.parent)
    try:
        fs.mkdir(path)
    except FileExistsError:
        return
    fs.sync_folder(path.parent)


def size_of(folder: Path) -> int:
    """Return the bytes that the files of a folder take on the disk."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:  # a file may go at any moment
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += size_of(Path(entry.path))
            else:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Turn a failure of the system into Full or Unavailable."""
    try:
        yield
    except OSError as exc:
        if exc.errno in NO_SPACE:
            raise Full(f"no space left on the store's disk to {what}") from exc
        raise Unavailable(f"the store could not {what}: {os.strerror(exc.errno or 0)}") from exc


class Handle:
    """A file descriptor that closes itself when nobody holds it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it now."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()
