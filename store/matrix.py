"""The matrix that is searched: one file of float32 rows, mapped into every process, derived.

Everything in it can be made again from the journal, so it is never synced. Written with pwrite (a
full disk is then an error, where a write through the map would kill the process) and only read
through the map. It grows by holes and never shrinks while anyone maps it.
"""

import mmap
import os
from pathlib import Path

import numpy as np

from store.base import Metric, Vectors
from store.budget import Budget
from store.fs import FS, Handle

GROWTH = 1.25
LEAST_BYTES = 1 << 20
# Rows whose lengths are looked at together.
CHUNK_ROWS = 1024


def directions(vectors: Vectors, metric: Metric) -> Vectors:
    """Return what of the vectors is searched: (n, d) unit rows for cosine, themselves for dot.

    Each row is computed by itself, so that equal vectors give equal rows in any company.
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


class Matrix:
    """The rows of one generation."""

    def __init__(self, fs: FS, path: Path, dim: int, *, create: bool = False) -> None:
        self._fs, self.path, self._dim = fs, path, dim
        self._row_bytes = dim * 4
        self._least = 0  # how long the file is at least: it never shrinks
        if create:
            path.unlink(missing_ok=True)
        self._file = Handle(fs.open(path, create=create, write=True))
        self._mapped: Vectors = np.empty((0, dim), np.float32)

    def rows_on_disk(self) -> int:
        """Return how many rows the file has room for."""
        return os.fstat(self._file.fd).st_size // self._row_bytes

    def write(self, first_row: int, rows: Vectors) -> None:
        """Write rows; nobody looks at them before the journal has their frame."""
        need = (first_row + len(rows)) * self._row_bytes
        if self._least < need:
            self._least = self._grow(need)
        data = np.ascontiguousarray(rows, "<f4")
        self._fs.write(self._file.fd, data.data, first_row * self._row_bytes)

    def _grow(self, need: int) -> int:
        size = os.fstat(self._file.fd).st_size
        if size < need:
            grown = max(int(size * GROWTH), need, LEAST_BYTES)
            size = grown // self._row_bytes * self._row_bytes or need
            self._fs.truncate(self._file.fd, size)
        return size

    def view(self, n: int) -> Vectors:
        """Return the first `n` rows, (n, d), mapped and read-only."""
        if len(self._mapped) < n:
            size = self.rows_on_disk() * self._row_bytes
            mapped = mmap.mmap(self._file.fd, size, access=mmap.ACCESS_READ)
            self._mapped = np.frombuffer(mapped, np.dtype("<f4")).reshape(-1, self._dim)
        return self._mapped[:n]
