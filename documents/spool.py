"""Keeps the files that were given to the service until their rows are stored, and what is rejected.

`FOLDER/<job>/given` is the file as it came, `FOLDER/<job>/rejects.jsonl` the rows that were not
stored, `FOLDER/<job>/waits` what the job waits for where the store cannot write it down. While a
file comes in, its process holds a lock on it.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from errors import Full
from store.local_disk import failures, make_folders

PIECE = 1 << 18  # bytes that are held of a file that comes in
# Left free for the store's own writes: a file that fills the disk would stop them.
SPARE = 64 << 20
YOUNG_S = 60.0  # a folder is made, and its file locked, within this
ROW = 64 << 10  # characters of a row in the file of rejects; of a longer one its values are cut
CELL = 1000  # characters of such a value
SAID = 1000  # bytes of what a job waits for
DEPTH = 32  # of what is kept of a row


class Spool:
    """The files of one machine, below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place: str | None = None

    @property
    def place(self) -> str:
        """What tells this folder from those of other machines on the same store."""
        if self._place is None:
            with failures("keep files"):
                make_folders(self._folder)
                file = self._folder / "place"
                with contextlib.suppress(FileExistsError), file.open("x") as made:
                    made.write(uuid.uuid4().hex)
                self._place = file.read_text()
        return self._place

    def file(self, id_: str) -> Path:
        """Return the file of a job."""
        return self._folder / id_ / "given"

    def rejects(self, id_: str) -> Path:
        """Return the file of the rows of a job that were not stored."""
        return self._folder / id_ / "rejects.jsonl"

    @contextmanager
    def taken(self, id_: str, read: Callable[[int], bytes], declared: int) -> Iterator[int]:
        """Keep a file that comes in, and give its size; nothing is left of it if the block fails.

        `declared` is how many bytes are expected, if that is known. Raises Full, and what `read`
        raises.
        """
        made = False
        try:
            with failures("keep a file"):
                make_folders(self._folder)
                self._check_room(declared)
                self.file(id_).parent.mkdir(mode=0o700)
            made = True
            with failures("keep a file"):
                self._waits(id_).write_bytes(b" " * SAID)
            with failures("keep a file"), self.file(id_).open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                size = self._copied(file, read)
                os.fsync(file.fileno())
                yield size
        except BaseException:
            if made:
                self.remove(id_)
            raise

    def _copied(self, file: BinaryIO, read: Callable[[int], bytes]) -> int:
        size = 0
        while piece := read(PIECE):
            if size % (16 << 20) < PIECE:
                self._check_room(len(piece))
            file.write(piece)
            size += len(piece)
        file.flush()
        return size

    def _check_room(self, size: int) -> None:
        disk = shutil.disk_usage(self._folder)
        if disk.free < size + min(SPARE, disk.total // 8):
            raise Full("no space is left on the store's disk to keep a file")

    def begin_rejects(self, id_: str, size: int) -> None:
        """Cut what a killed process wrote of the rejects beyond those that are counted."""
        file = self.rejects(id_)
        with failures("keep rejected rows"), file.open("ab") as rejects:
            rejects.truncate(size)

    def reject(self, id_: str, rows: Iterable[tuple[int, str, Any]]) -> int:
        """Add rows that were not stored: line, reason, row. Returns the size of the file then."""
        with failures("keep rejected rows"), self.rejects(id_).open("ab") as file:
            for line, reason, row in rows:
                kept = json.dumps(_short(row, ROW), default=str)
                if len(kept) > ROW:
                    kept = json.dumps(_short(row, CELL), default=str)
                told = json.dumps({"line": line, "reason": reason})
                file.write(f'{told[:-1]}, "row": {kept}}}\n'.encode())
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _waits(self, id_: str) -> Path:
        return self._folder / id_ / "waits"

    def say(self, id_: str, message: str) -> None:
        """Keep what a job waits for. It is written in place, which a full disk allows."""
        with contextlib.suppress(OSError), self._waits(id_).open("r+b") as file:
            file.write(message.encode(errors="replace")[:SAID].ljust(SAID))

    def said(self, id_: str) -> str:
        """Return what a job waits for, "" if it was not said."""
        with contextlib.suppress(OSError):
            return self._waits(id_).read_bytes().decode(errors="replace").strip()
        return ""

    def drop_file(self, id_: str) -> None:
        """Remove the file of a job that has ended; its rejects stay, if there are any."""
        self.file(id_).unlink(missing_ok=True)
        self._waits(id_).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if not self.rejects(id_).stat().st_size:
                self.rejects(id_).unlink()
        with contextlib.suppress(OSError):
            self.file(id_).parent.rmdir()

    def remove(self, id_: str) -> None:
        """Remove all that is kept of a job."""
        shutil.rmtree(self.file(id_).parent, ignore_errors=True)

    def sweep(self, known: Callable[[], set[str]]) -> None:
        """Remove what belongs to no job, but not what comes in at this moment."""
        there = [path.name for path in self._folder.glob("*/")] if self._folder.is_dir() else []
        ids = known() if there else set()
        for id_ in there:
            if id_ not in ids and not self._comes_in(id_):
                self.remove(id_)

    def _comes_in(self, id_: str) -> bool:
        """Return whether a file is locked, or may be about to be."""
        try:
            if time.time() - self.file(id_).parent.stat().st_mtime < YOUNG_S:
                return True
            with self.file(id_).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def _short(row: Any, most: int, depth: int = 0) -> Any:
    """Return a row as strict JSON can hold it, its texts and lists cut: one may have 64 MB."""
    if isinstance(row, str):
        cut = row if len(row) <= most else f"{row[:most]}..."
        return cut.encode(errors="backslashreplace").decode()  # halves of surrogates are no JSON
    if isinstance(row, dict | list) and depth == DEPTH:
        return "..."
    if isinstance(row, dict):
        items = list(row.items())[:CELL]
        return {_short(str(key), most): _short(value, most, depth + 1) for key, value in items}
    if isinstance(row, list):
        return [_short(value, most, depth + 1) for value in row[:CELL]]
    # Readers of JSON take neither NaN nor numbers beyond 64 bits.
    if isinstance(row, float) and not math.isfinite(row):
        return str(row)
    if isinstance(row, int) and not -(2**63) <= row < 2**64:
        return _digits(row)
    return row


def _digits(number: int) -> str:
    """Return a number as text; Python writes none of over 4300 digits in tens."""
    return hex(number) if number.bit_length() > 10_000 else str(number)
