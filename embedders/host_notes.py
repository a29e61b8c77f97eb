"""What the last calls to a provider's host showed, the same in every worker of a service.

It is a small file in the folder where the workers count, which a start empties and every worker
outlives. Without a folder, or while the file cannot be used, each process knows its own calls.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Note:
    """How a host is. Of `time.monotonic()`, which all processes of a machine share, unless told."""

    key: str = ""  # the mark of the key that was sent
    tried: bool = False
    failure: str | None = None  # why the last call failed
    refused: str | None = None  # why the key is wrong: since a refusal no call succeeded
    last_used: float | None = None  # time.time() of the last good reply
    worked_at: float = 0.0  # when it last answered anything
    open_until: float | None = None  # no call before this from the worker whose breaker is open


class HostNotes:
    """The note of one host. Safe from many threads and processes."""

    def __init__(self, folder: Path | None = None, name: str = "") -> None:
        mark = hashlib.sha256(name.encode()).hexdigest()[:16]
        self._path = folder and folder / f"host-{mark}.json"
        self._last = Note()
        self._lock = threading.Lock()

    def read(self) -> Note:
        """Return what is known now."""
        if self._path is not None:
            with suppress(OSError), self._path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                self._take(file.read())
        return self._last

    def change(self, work: Callable[[Note], Note]) -> None:
        """Replace the note by what `work` returns for it; no other change comes between."""
        with self._lock:
            if self._path is not None:
                with suppress(OSError):
                    self._change_file(self._path, work)
                    return
            self._last = work(self._last)

    def _change_file(self, path: Path, work: Callable[[Note], Note]) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._take(file.read())
            changed = work(self._last)
            content = json.dumps(asdict(changed)).encode()
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
            self._last = changed

    def _take(self, content: bytes) -> None:
        with suppress(ValueError, TypeError):  # a writer was killed within it
            self._last = Note(**json.loads(content))


def mark_of(key: str | None) -> str:
    """Return what tells a key from another: too little to find the key by."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:8] if key else ""
