"""A disk that can lose its power: it records every call, and builds what a cut could leave.

After SQLite's test6.c. What was written and not synced may be there, not there, be zeros, or be any
mixture by sectors; what happened in folders and was not synced is there up to any point in order.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from store.fs import FS

SECTOR = 512


@dataclass
class Call:
    kind: str
    path: Path
    other: Path | None = None
    data: bytes = b""
    offset: int = 0
    inode: int = 0


class RecordingFS(FS):
    """A real file system that remembers each change. With `lying`, syncs are not recorded."""

    def __init__(self, root: Path, lying: bool = False) -> None:
        self.root, self.lying = root, lying
        self.calls: list[Call] = []

    def _inode(self, fd: int) -> int:
        return os.fstat(fd).st_ino

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self.calls.append(Call("mkdir", path))

    def open(self, path: Path, *, create: bool = False, write: bool = False) -> int:
        fd = super().open(path, create=create, write=write)
        if create:
            # Held open, so that no inode number comes twice.
            self.calls.append(Call("create", path, inode=self._inode(os.dup(fd))))
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        super().write(fd, data, offset)
        self.calls.append(
            Call("write", Path(), data=bytes(data), offset=offset, inode=self._inode(fd))
        )

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self.calls.append(Call("truncate", Path(), offset=size, inode=self._inode(fd)))

    def sync(self, fd: int) -> None:
        if not self.lying:
            self.calls.append(Call("sync", Path(), inode=self._inode(fd)))

    def sync_folder(self, path: Path) -> None:
        if not self.lying:
            self.calls.append(Call("sync_folder", path))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.calls.append(Call("rename", old, new))

    def link(self, old: Path, new: Path) -> None:
        super().link(old, new)
        self.calls.append(Call("link", old, new))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.calls.append(Call("unlink", path))


@dataclass
class _File:
    durable: bytes = b""
    pending: list[Call] = field(default_factory=list)


class Disk:
    """What is surely on the disk after some calls, and what may be."""

    def __init__(self, calls: list[Call]) -> None:
        self.files: dict[int, _File] = {}
        self.entries: list[tuple[Call, bool]] = []  # folder operations in order, durable or not
        for call in calls:
            self._play(call)

    def _play(self, call: Call) -> None:
        if call.kind in ("write", "truncate"):
            self.files[call.inode].pending.append(call)
        elif call.kind == "sync":
            file = self.files[call.inode]
            file.durable, file.pending = _content(file.durable, file.pending), []
        elif call.kind == "sync_folder":
            here = call.path
            self.entries = [
                (
                    c,
                    done
                    or c.path.parent == here
                    or (c.other is not None and c.other.parent == here),
                )
                for c, done in self.entries
            ]
        else:
            if call.kind == "create":
                self.files[call.inode] = _File()
            self.entries.append((call, False))

    def states(self, rng: random.Random) -> Iterator[tuple[list[Call], dict[int, bytes]]]:
        """Yield some of the states a cut could leave: folder operations done, file contents."""
        loose = [i for i, (_, done) in enumerate(self.entries) if not done]
        for variant in ("none", "all", "zeros", "random", "random"):
            cut = rng.choice([-1, *loose]) if loose else -1
            if variant in ("none", "all"):
                cut = {"none": -1, "all": 10**9}[variant]
            done = [c for i, (c, sure) in enumerate(self.entries) if sure or i <= cut]
            yield done, {n: _left(f, variant, rng) for n, f in self.files.items()}


def _content(data: bytes, calls: list[Call]) -> bytes:
    out = bytearray(data)
    for call in calls:
        if call.kind == "truncate":
            del out[call.offset :]
            out.extend(bytes(call.offset - len(out)))
        else:
            out.extend(bytes(max(0, call.offset + len(call.data) - len(out))))
            out[call.offset : call.offset + len(call.data)] = call.data
    return bytes(out)


def _left(file: _File, variant: str, rng: random.Random) -> bytes:
    if variant == "none" or not file.pending:
        return file.durable
    full = _content(file.durable, file.pending)
    if variant == "all":
        return full
    old = file.durable.ljust(len(full), b"\0")
    if variant == "zeros":  # the size is on the disk, the bytes are not
        return old[: len(full)]
    out = bytearray(full)
    for at in range(0, len(full), SECTOR):
        if rng.random() < 0.5:
            out[at : at + SECTOR] = old[at : at + SECTOR][: len(full) - at]
    if rng.random() < 0.3:
        del out[rng.randrange(min(len(file.durable), len(full)), len(full) + 1) :]
    return bytes(out)


def build(root: Path, source: Path, done: list[Call], files: dict[int, bytes]) -> None:
    """Write a state out below `root`; what was made below `source` is made there."""

    def there(path: Path) -> Path:
        return root / path.relative_to(source)

    names: dict[Path, int] = {}
    root.mkdir()
    for call in done:
        path = there(call.path)
        try:
            if call.kind == "mkdir":
                path.mkdir(exist_ok=True)
            elif call.kind == "create":
                names[path] = call.inode
            elif call.kind == "unlink":
                names.pop(path, None)
            elif call.other is not None:
                new = there(call.other)
                if path in names:
                    names[new] = names[path] if call.kind == "link" else names.pop(path)
                elif call.kind == "rename":  # a folder
                    for each in [p for p in names if path in p.parents]:
                        names[new / each.relative_to(path)] = names.pop(each)
                    if path.is_dir():
                        path.rename(new)
        except FileNotFoundError:
            continue  # its folder's own entry was lost
    for path, inode in names.items():
        if path.parent.is_dir():
            path.write_bytes(files[inode])
            path.chmod(0o600)
