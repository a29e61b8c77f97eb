"""What a run has finished, kept in files, so that it continues after a kill.

The spool's length is the progress: rows are in input order, and a torn last row is cut off.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.records import Stop

BLOCK = 10_000  # rows that are in memory at once while the output is written


class Spool:
    """Finished vectors in input order: `OUT.part`, described by `OUT.part.json`.

    Locked against a second run.
    """

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        self._data = output.with_name(output.name + ".part")
        self._facts = output.with_name(output.name + ".part.json")
        self._identity, self._space = identity, ""
        self.dim = self.done = 0
        self._file = self._data.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Stop(f"{self._data} is being written by another run") from None
        if self._facts.exists():
            try:
                self._take_up(json.loads(self._facts.read_text()))
            except (ValueError, KeyError, TypeError, RecursionError):
                raise Stop(f"{self._facts} is damaged; delete it to start again") from None
        else:
            self._file.truncate(0)

    def _take_up(self, facts: dict[str, Any]) -> None:
        if facts["identity"] != self._identity:
            raise Stop(
                f"{self._data} belongs to another input or model; "
                "delete it (and its .json) to start again"
            )
        self.dim, self._space = int(facts["dim"]), str(facts["space"])
        if self.dim < 1:
            raise ValueError
        self.done = self._data.stat().st_size // (4 * self.dim)
        self._file.truncate(self.done * 4 * self.dim)  # a torn last row

    def append(self, vectors: NDArray[np.float32], space: str) -> None:
        """Append (n, d) vectors durably. Raises Stop if another model made them."""
        if not self.dim:
            self.dim, self._space = vectors.shape[1], space
            facts = {"identity": self._identity, "dim": self.dim, "space": space}
            write_atomically(self._facts, lambda path: path.write_text(json.dumps(facts)))
        if vectors.shape[1] != self.dim or space != self._space:
            raise Stop(
                "the service's model has changed: its vectors cannot be compared with the earlier "
                f"ones. Bring it back, or delete {self._data} (and its .json) to start again"
            )
        self._file.write(vectors.astype("<f4").tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done += len(vectors)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield all rows in blocks (n, d)."""
        for start in range(0, self.done, BLOCK):
            count = min(BLOCK, self.done - start) * self.dim
            block = np.fromfile(self._data, "<f4", count, offset=start * self.dim * 4)
            yield block.reshape(-1, self.dim)

    def remove(self) -> None:
        """Delete the spool, after the output is written."""
        self._facts.unlink(missing_ok=True)
        self._data.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock; delete an empty spool."""
        if not self._facts.exists():
            self._data.unlink(missing_ok=True)
        self._file.close()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` writes to a temporary one, durably."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Counter:
    """The number of rows stored so far, for `--store`: a small file next to the input."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path, self._identity, self.done = path, identity, 0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ArithmeticError,
                                 RecursionError):  # it is made anew  # fmt: skip
            known = json.loads(path.read_text())
            self.done = max(0, int(known["done"])) if known["identity"] == identity else 0

    def add(self, count: int) -> None:
        """Add `count` rows durably."""
        self.done += count
        facts = json.dumps({"identity": self._identity, "done": self.done})
        write_atomically(self._path, lambda path: path.write_text(facts))

    def remove(self) -> None:
        """Delete the file, after the last row."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: no file stays open."""


class RefusedLog:
    """The rows that the service has refused, by index, each with its reason.

    Progress counts only the other rows, so it has no meaning without this log.
    """

    def __init__(self, path: Path, identity: dict[str, Any], begun: bool) -> None:
        self._path = path
        self._first = json.dumps(identity)
        self.reasons: dict[int, str] = {}
        raw = path.read_bytes() if path.exists() else b""
        first, *entries = raw[: raw.rfind(b"\n") + 1].decode(errors="replace").split("\n")
        if first != self._first and not (begun and b"\n" in raw):  # of another run, or torn
            path.unlink(missing_ok=True)
            return
        try:
            if first != self._first:
                raise ValueError
            for index, reason in map(json.loads, filter(None, entries)):
                self.reasons[int(index)] = str(reason)
        except (ValueError, TypeError, OverflowError, RecursionError):
            others = path.name.removesuffix(".refused")
            raise Stop(
                f"{path} is damaged; delete it and every other file of {path.parent} that begins "
                f"with {others} to start again"
            ) from None
        os.truncate(path, raw.rfind(b"\n") + 1)  # a torn last line

    def add(self, reasons: dict[int, str]) -> None:
        """Add rows durably."""
        first = "" if self._path.exists() else self._first + "\n"
        with self._path.open("a") as file:
            file.write(first + "".join(json.dumps(pair) + "\n" for pair in reasons.items()))
            file.flush()
            os.fsync(file.fileno())
        self.reasons.update(reasons)

    def remove(self) -> None:
        """Delete the log, after the last row."""
        self._path.unlink(missing_ok=True)
