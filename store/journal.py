"""A folder with a journal that many processes append to and read: LOCK, MANIFEST, `journal.G`.

The manifest is one frame that names the generation G; compaction writes generation G+1 beside it
and then replaces the manifest by a rename, so that the folder always holds one whole truth. Only
who holds LOCK writes. A reader needs no lock: it applies whole frames and stops at the first that
is not. Knows frames, not what they mean; `store/catalog.py` and `store/collection.py` do.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from errors import Corrupt, Full, NotFound, ServiceError, Unavailable
from store.frames import FRAME, HEADER, Frame, encode_frame, encode_record, find_frames, read_frame
from store.frames import records as records_of
from store.fs import FS, NO_SPACE, Handle, failures, read
from store.locks import boot_id
from store.unpickle import dumps, loads

log = logging.getLogger("store")

Fsync = Literal["always", "interval", "never"]
Step = Callable[[str], None]  # told the name of each step of a write, for tests that kill there


class Journal:
    """One generation of a journal as this process has it open. Replaced when the manifest is."""

    def __init__(self, fs: FS, folder: Path) -> None:
        self.fs, self.folder = fs, folder
        self._name = str(folder / "MANIFEST")
        self.reopen_manifest()
        frame = read_frame(lambda n, at: read(self._manifest.fd, n, at), 0, None)
        if frame is None:
            raise Corrupt(f"{folder / 'MANIFEST'} is damaged; run repair")
        self.manifest: dict[str, Any] = loads(next(records_of(frame))[1])
        self.generation: int = self.manifest["gen"]
        self.path = folder / f"journal.{self.generation}"
        self._file = _open(fs, self.path, write=True)
        if self.read(len(HEADER), 0) != HEADER:
            raise Corrupt(f"{self.path} does not start as a journal; run repair")
        self.end = len(HEADER)  # up to where it has been read
        self.seq = 0  # of the next frame
        self.poison: str | None = None  # why this process may not write any more
        self.unsynced = False
        self._known = 0  # how much of it this process knows to be on the disk

    def read(self, size: int, offset: int) -> bytes:
        """Read bytes of the journal."""
        return read(self._file.fd, size, offset)

    def size(self) -> int:
        """Return the journal's length on disk."""
        return os.fstat(self._file.fd).st_size

    def replaced(self) -> bool:
        """Tell whether another generation has taken over. Raises NotFound when all is gone."""
        try:
            now = os.stat(self._name)
        except FileNotFoundError:
            raise gone(self.folder) from None
        return (now.st_ino, now.st_dev) != self._identity

    def reopen_manifest(self) -> None:
        """Take the manifest that is there now as the current one; it is for this generation."""
        self._manifest = _open(self.fs, self.folder / "MANIFEST")
        mine = os.fstat(self._manifest.fd)  # kept open: its inode cannot be given to another
        self._identity = mine.st_ino, mine.st_dev

    def new_frames(self) -> Iterator[Frame]:
        """Yield what has been appended since the last call, stopping where a frame is not whole."""
        while self.size() > self.end:
            frame = read_frame(self.read, self.end, self.seq)
            if frame is None:
                return
            self.advance(frame)
            yield frame

    def advance(self, frame: Frame) -> None:
        """Count a frame as read."""
        self.end, self.seq = frame.end, frame.seq + 1

    # -- writing, under the lock -----------------------------------------------------------------

    def damage(self) -> str | None:
        """Say what keeps the journal from being written on, if anything does.

        Bytes behind the last whole frame are torn, not damaged, if they lie behind what the
        generation began with and no whole frame follows that was written after they had reached
        the disk.
        """
        size, base = self.size(), self.manifest["base"]
        torn = self.end >= base and not any(
            frame.synced > self.end for frame in find_frames(self.read, self.end, size, self.seq)
        )
        if torn:
            return None
        return f"{self.path} is damaged at byte {self.end} of {max(size, base)}"

    def check_tail(self, unclean: bool) -> None:
        """Make the journal ready for an append: a torn tail is cut off, other damage refused.

        What is cut off is kept in a file beside the journal. `unclean`: the last holder of the
        lock died, so that what it wrote last may not be on the disk yet.
        """
        if self.poison:
            raise Unavailable(self.poison)
        size = self.size()
        if size != self.end or size < self.manifest["base"]:
            problem = self.damage()
            if problem:
                raise Corrupt(
                    f"{problem}; it can be read up to there, and nothing more is written to it; "
                    "run: python -m store repair"
                )
            self._cut(size)
        if unclean:
            self.sync()

    def _cut(self, size: int) -> None:
        torn = self.read(size - self.end, self.end)
        aside = self.folder / f"torn.{self.generation}.{self.end}.{time.time_ns()}"
        log.warning("cut %d bytes of an unfinished write off %s", len(torn), self.path)
        with failures("keep a torn tail"):
            self._keep(aside, torn)
            self.fs.truncate(self._file.fd, self.end)
            self.fs.sync(self._file.fd)

    def _keep(self, path: Path, data: bytes) -> None:
        """Keep torn bytes for whoever wants to look; on a full disk go without."""
        try:
            fd = Handle(self.fs.open(path, create=True))
            self.fs.write(fd.fd, data, 0)
        except OSError as exc:
            if exc.errno not in NO_SPACE:
                raise

    def append(self, payload: bytes, fsync: Fsync, step: Step) -> Frame:
        """Append one frame; with fsync "always" it is on the disk when this returns."""
        start, seq = self.end, self.seq  # a reader's thread may move them on meanwhile
        synced = start if fsync == "always" else self._known
        data = encode_frame(seq, synced, payload)
        try:
            if step is not no_step:
                self.fs.write(self._file.fd, data[: len(data) // 2], start)
                step("half-frame")
            self.fs.write(self._file.fd, data, start)
        except OSError as exc:
            self._undo(start)
            if exc.errno in NO_SPACE:
                raise Full("no space left on the store's disk; nothing was written") from exc
            raise Unavailable(f"the journal could not be written: {exc.strerror}") from exc
        step("frame-written")
        self.unsynced = True
        if fsync == "always":
            self.sync()
        step("frame-synced")
        return Frame(start, seq, synced, payload)

    def _undo(self, size: int) -> None:
        try:
            self.fs.truncate(self._file.fd, size)
        except OSError as exc:  # the next writer finds a torn tail
            log.error("%s could not be cut back: %s", self.path, exc)

    def sync(self) -> None:
        """Bring the journal to the disk. A failure is final: the kernel has let the pages go."""
        end = self.end
        try:
            self.fs.sync(self._file.fd)
        except OSError as exc:
            self.poison = (
                "the disk failed to take a write of this collection, so that it is not known what "
                "is on it; check the disk and restart the service"
            )
            log.error("fdatasync of %s: %s", self.path, exc)
            raise Unavailable(self.poison) from exc
        self._known, self.unsynced = end, False


def _open(fs: FS, path: Path, write: bool = False) -> Handle:
    handle = Handle(fs.open(path, write=write))
    if os.fstat(handle.fd).st_uid != os.geteuid():
        raise Unavailable(f"{path} belongs to another user")
    return handle


def gone(folder: Path) -> ServiceError:
    """Return the error for a folder without a manifest: dropped, or robbed of it."""
    if any(folder.glob("journal.*")):
        return Corrupt(f"{folder / 'MANIFEST'} is missing; run: python -m store repair")
    return NotFound("the collection has been dropped")


def no_step(name: str) -> None:
    """Be told of a step and do nothing."""


def write_manifest(fs: FS, folder: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest in one step; durable when this returns."""
    path, new = folder / "MANIFEST", folder / "MANIFEST.new"
    new.unlink(missing_ok=True)
    handle = Handle(fs.open(new, create=True))
    payload = encode_record(dumps(manifest | {"boot": boot_id()}))
    fs.write(handle.fd, encode_frame(0, 0, payload), 0)
    fs.sync(handle.fd)
    fs.rename(new, path)
    fs.sync_folder(folder)


def write_generation(
    fs: FS,
    folder: Path,
    manifest: dict[str, Any],
    payloads: Iterable[bytes],
    step: Step = no_step,
) -> None:
    """Write a whole new journal and make the manifest name it. Under the lock, or unshared."""
    path = folder / f"journal.{manifest['gen']}"
    path.unlink(missing_ok=True)  # left by one that died here
    handle = Handle(fs.open(path, create=True))
    fs.write(handle.fd, HEADER, 0)
    end = len(HEADER)
    step("journal-created")
    for seq, payload in enumerate(payloads):
        fs.write(handle.fd, encode_frame(seq, 0, payload), end)
        end += FRAME.size + len(payload)
    step("journal-written")
    manifest = manifest | {"base": end}
    fs.sync(handle.fd)
    step("journal-synced")
    fs.sync_folder(folder)
    step("folder-synced")
    write_manifest(fs, folder, manifest)
    step("manifest-switched")
