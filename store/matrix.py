"""The matrix that is searched: one file of float32 rows, mapped into every process, derived.

All of it can be made again from the records, so it is never synced. It is written with pwrite (a
full disk is then an error, where a write through the map would kill the process) and read through
the map. It grows by holes and never shrinks while anyone maps it.

The file begins with one page that holds a number: how many places have been written, by writes that
were committed or not. No place is written twice, see `Collection._commit`.
"""

import mmap
import os
import struct
from pathlib import Path

import numpy as np

from store.base import Metric, Vectors
from store.budget import Budget
from store.local_disk import make_file

GROWTH = 1.25
LEAST_BYTES = 1 << 20
HEAD_BYTES = 4096  # a page, so that the rows stay aligned
WRITTEN = struct.Struct("<q")
# Rows whose lengths are computed together.
CHUNK_ROWS = 1024


def directions(vectors: Vectors, metric: Metric) -> Vectors:
    """Return the rows that are searched: unit rows (n, d) for cosine, the vectors for dot.

    Each row is computed by itself, so that equal vectors give equal rows in any batch.
    """
    if metric == "dot":
        return np.ascontiguousarray(vectors, np.float32)
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.add.reduce(wide * wide, axis=1, keepdims=True))
    out: Vectors = np.divide(wide, norms, out=wide).astype(np.float32)
    return out


def longest(rows: Vectors, budget: Budget) -> float:
    """Return the length of the longest of (n, d) rows, 0.0 of none."""
    largest = 0.0
    for start in range(0, len(rows), CHUNK_ROWS):
        budget.check()
        part = rows[start : start + CHUNK_ROWS].astype(np.float64)
        largest = max(largest, float(np.sqrt(np.max(np.sum(part * part, axis=1)))))
    return largest


def map_rows(fd: int, dim: int) -> Vectors:
    """Return all rows that a matrix's file has room for, (n, d), mapped and read-only."""
    whole = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    n = (len(whole) - HEAD_BYTES) // (dim * 4)
    return np.frombuffer(whole, np.dtype("<f4"), n * dim, HEAD_BYTES).reshape(n, dim)


class Matrix:
    """The rows of one generation. `path` must exist unless `create`."""

    def __init__(self, path: Path, dim: int, *, create: bool = False) -> None:
        self.path, self._dim, self._row_bytes = path, dim, dim * 4
        self._fd, self._bytes = -1, 0
        if create:
            path.unlink(missing_ok=True)
            self._fd = make_file(path)
        else:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._mapped: Vectors = np.empty((0, dim), np.float32)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def holds(self, n: int) -> bool:
        """Whether the file has room for `n` rows. It never shrinks, so it is asked once."""
        if n and self._bytes < self._end(n):
            self._bytes = os.fstat(self._fd).st_size
        return not n or self._bytes >= self._end(n)

    def _end(self, n: int) -> int:
        return HEAD_BYTES + n * self._row_bytes

    def written(self) -> int:
        """Return how many places the last write that got so far has used, committed or not."""
        raw = os.pread(self._fd, WRITTEN.size, 0)
        places: int = WRITTEN.unpack(raw)[0] if len(raw) == WRITTEN.size else 0
        room = (os.fstat(self._fd).st_size - HEAD_BYTES) // self._row_bytes
        return places if 0 <= places <= room else 0  # else the page is damaged

    def note_written(self, n: int) -> None:
        """Note that the places below `n` are used. Between their rows and the commit."""
        os.pwrite(self._fd, WRITTEN.pack(n), 0)

    def write(self, first: int, rows: Vectors) -> None:
        """Write rows (n, d) from row `first` on; read only once they are committed."""
        if not self.holds(first + len(rows)):
            grown = max(int(self._bytes * GROWTH), self._end(first + len(rows)), LEAST_BYTES)
            os.ftruncate(self._fd, grown)
        view = np.ascontiguousarray(rows, "<f4").data.cast("B")
        offset = self._end(first)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def view(self, n: int) -> Vectors:
        """Return the first `n` rows, (n, d), mapped and read-only."""
        if len(self._mapped) < n:
            self._mapped = map_rows(self._fd, self._dim)
        return self._mapped[:n]
