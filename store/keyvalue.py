"""Small texts kept beside the collections, for every process of a store to see and to claim.

The jobs of a re-embedding are such texts: they must be found wherever the collections are, and
outlive whoever wrote them. Knows nothing of what they say.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from errors import Invalid
from store.fs import failures

KEY = re.compile(r"[A-Za-z0-9.-]{1,100}")


class Notes(Protocol):
    """Texts by key. A write is whole and durable, or there is none."""

    def put(self, key: str, text: str) -> None:
        """Write a text, over the one that is there."""

    def get(self, key: str) -> str | None:
        """Return the text of a key, if there is one."""

    def all(self) -> list[str]:
        """Return every text."""

    def remove(self, key: str) -> None:
        """Forget a key, if it is there."""

    def claimed(self, key: str) -> AbstractContextManager[bool]:
        """Hold a key against every other process for a block; False if another holds it.

        A holder that dies lets go.
        """


def check_key(key: str) -> str:
    """Return a key if it is one. Raises Invalid."""
    if not KEY.fullmatch(key):
        raise Invalid(f"{ascii(key)[:60]} is no key: 1 to 100 of A-Z a-z 0-9 . -")
    return key


class FileNotes:
    """Notes in a folder, one file each, claimed by `flock`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, text: str) -> None:
        """Write a text, over the one that is there."""
        path = self._path(key)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with failures("write a note"):
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)

    def get(self, key: str) -> str | None:
        """Return the text of a key, if there is one."""
        return self._read(self._path(key))

    def all(self) -> list[str]:
        """Return every text."""
        with failures("read its notes"):
            texts = [self._read(path) for path in sorted(self._folder.glob("*.json"))]
        return [text for text in texts if text is not None]

    def remove(self, key: str) -> None:
        """Forget a key, if it is there."""
        with failures("remove a note"):
            self._path(key).unlink(missing_ok=True)
            self._lock(key).unlink(missing_ok=True)

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Hold a key against every other process; the kernel lets go when this one ends."""
        with failures("claim a note"):
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._lock(key).open("a")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _path(self, key: str) -> Path:
        return self._folder / f"{check_key(key)}.json"

    def _lock(self, key: str) -> Path:
        return self._folder / f"{check_key(key)}.lock"

    def _read(self, path: Path) -> str | None:
        with failures("read a note"):
            try:
                return path.read_text()
            except FileNotFoundError:
                return None
