"""Keeps finished vectors beside the output until all are there, so that a kill costs nothing.

The spool's length is the progress: rows lie in input order, and a torn last row is cut off.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.records import Stop

BLOCK = 10_000  # rows that are in memory at once while the output is written


class Spool:
    """Vectors in input order beside the output: `OUT.part` and what they are, `OUT.part.json`.

    One run holds it at a time.
    """

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        self._data = output.with_name(output.name + ".part")
        self._facts = output.with_name(output.name + ".part.json")
        self._identity = identity
        self.dim = 0
        self.done = 0
        self._space = ""
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
        """Add (n, d) rows, durably. Raises Stop if they are of another space."""
        if not self.dim:
            self.dim, self._space = vectors.shape[1], space
            facts = {"identity": self._identity, "dim": self.dim, "space": space}
            _replace(self._facts, json.dumps(facts))
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
        """Let another run have it; one in which nothing is leaves nothing."""
        if not self._facts.exists():
            self._data.unlink(missing_ok=True)
        self._file.close()


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Counter:
    """How many rows are stored already, for `--store`: a small file beside the input."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._identity = identity
        self.done = 0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ArithmeticError,
                                 RecursionError):  # it is made anew  # fmt: skip
            known = json.loads(path.read_text())
            self.done = max(0, int(known["done"])) if known["identity"] == identity else 0

    def add(self, count: int) -> None:
        """Note `count` more rows, durably."""
        self.done += count
        _replace(self._path, json.dumps({"identity": self._identity, "done": self.done}))

    def remove(self) -> None:
        """Forget the progress, after the last row."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is held."""


class RefusedLog:
    """Which rows the service has refused, by their index, and why: beside the progress.

    Progress counts the rows that are not among them: without the log it would mean other rows.
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
        """Note more rows, durably."""
        first = "" if self._path.exists() else self._first + "\n"
        with self._path.open("a") as file:
            file.write(first + "".join(json.dumps(pair) + "\n" for pair in reasons.items()))
            file.flush()
            os.fsync(file.fileno())
        self.reasons.update(reasons)

    def remove(self) -> None:
        """Forget them, after the last row."""
        self._path.unlink(missing_ok=True)
