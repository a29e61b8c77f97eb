"""An approximate index beside a large collection: a usearch graph over the matrix's first rows.

    <collection>/ann.G  the graph of generation G, then a footer with its rows and checksum

Derived, like the matrix: made by a child process while reads and writes go
on, replaced by a rename, and made again when it is missing, damaged or behind. It only names
candidates: who searches drops the dead, looks through the newer rows, and scores from the matrix.
A graph is viewed and never added to: adding to a view ends the process. Its builder tries it on
some of its own rows and writes down how widely it must be searched; one that misses too much all
the same is not used.
"""

import fcntl
import importlib.util
import logging
import mmap
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from errors import Invalid, ServiceError
from store.base import Vectors
from store.matrix import map_rows

log = logging.getLogger("store")

ROOT = Path(__file__).parent.parent
# magic, dim, crc of the graph, rows, bytes of it, search width (0: not used), crc of these
FOOTER = struct.Struct("<8sIIQQII")
MAGIC = b"ann-v2\r\n"
# 200,000 x 384 clustered rows on a Zen 5 core: recall@10 0.9953 in 0.09 ms at a search width of 64,
# 1.0000 in 0.38 ms at 256. Of 1,000,000 rows it was 0.72 at 256.
LINKS, BUILD_WIDTH, WIDTHS = 16, 128, (256, 512, 1024, 2048, 4096)
RECALL, SAMPLE, NEAREST = 0.99, 200, 10  # the share to be found of so many nearest of so many rows
# Rows beyond the graph, as a share of its own, from which on it is made again.
BEHIND = 0.25
BUILD_CHUNK = 10_000
BUILDER = "from store.graph_index import main; main()"
RETRY_S = 60.0  # after a build that failed
CRC_CHUNK = 1 << 24


def check_installed() -> None:
    """Raise Invalid, naming the package, where the graphs' library is not installed."""
    if importlib.util.find_spec("usearch") is None:
        raise Invalid("STORE_ANN_ABOVE needs usearch: pip install usearch==2.26.6")


class Graph:
    """One file's graph, checked and mapped. Raises ValueError when the file is no whole graph."""

    def __init__(self, path: Path, dim: int) -> None:
        self._index: Any = None  # first, so that it goes before the map that it looks into
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_size < FOOTER.size:
                raise ValueError("too short")
            self.identity = _identity(found)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # kept: it is viewed
        whole = memoryview(self._map)
        size = len(whole) - FOOTER.size
        magic, dim_, crc, self.rows, size_, self.width, own = FOOTER.unpack(whole[size:])
        good = own == zlib.crc32(whole[size:-4]) and (magic, dim_, size_) == (MAGIC, dim, size)
        if not good or checksum(whole[:size]) != crc:
            raise ValueError("its checksum is wrong")
        if not self.width:
            return
        self._index = empty(dim)
        self._index.view(whole[:size])
        self._index.expansion_search = self.width
        if len(self._index) != self.rows:
            raise ValueError("it does not hold its rows")

    def nearest(self, queries: Vectors, count: int) -> npt.NDArray[np.int64]:
        """Return about the `count` nearest rows of each query, (q, count); (q, 0) if too few."""
        alone = len(queries) == 1
        found = self._index.search(queries, count, threads=1 if alone else 0)
        least = len(found.keys) if alone else int(np.min(found.counts))
        if least < count:  # of a batch, the rest of such a row is not filled
            return np.empty((len(queries), 0), np.int64)
        return np.asarray(found.keys, np.int64).reshape(len(queries), count)


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


class Ann:
    """A collection's graph as this process has it; never waited for, None when there is none."""

    def __init__(self, folder: Path, above: int, settled: Callable[[], tuple[int, int]]) -> None:
        """`settled` brings all rows to the disk and returns the generation and how many."""
        self._folder, self._above, self._settled = folder, above, settled
        self._lock = threading.Lock()
        self._graph: Graph | None = None
        self._generation = -1
        self._helper: threading.Thread | None = None
        self._builder: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self._closed = False

    @property
    def rows(self) -> int:
        """How many rows the graph in use has."""
        graph = self._graph
        return graph.rows if graph and graph.width else 0

    def graph(self, generation: int, n: int, dim: int) -> Graph | None:
        """Return the graph for a matrix of `n` rows, if there is one; start to make it if not."""
        if not self._above or n < self._above or self._closed:
            return None
        if self._lock.acquire(blocking=False):  # one thread looks, the others go on
            try:
                self._look(generation, n, dim)
            finally:
                self._lock.release()
        graph = self._graph
        fits = graph and graph.width and self._generation == generation and graph.rows <= n
        return graph if fits else None

    def _look(self, generation: int, n: int, dim: int) -> None:
        if self._builder is not None and self._builder.poll() is not None:
            if code := self._builder.returncode:
                log.warning("%s: no graph, builder ended with %d", self._folder, code)
                self._not_before = time.monotonic() + RETRY_S
            self._builder = None
        if self._helper is not None and self._helper.is_alive():
            return
        path = self._folder / f"ann.{generation}"
        identity, graph = None, self._graph
        with suppress(FileNotFoundError):
            identity = _identity(os.stat(path))
        known = graph is not None and (self._generation, graph.identity) == (generation, identity)
        work: Callable[[], None] | None = None
        if identity and not known:
            work = partial(self._read, path, generation, dim)
        elif (
            not (known and graph and graph.rows <= n <= graph.rows * (1 + BEHIND))
            and self._builder is None
            and time.monotonic() >= self._not_before
        ):
            work = partial(self._start, dim)
        if work:
            self._helper = threading.Thread(target=work, daemon=True)
            self._helper.start()

    def _read(self, path: Path, generation: int, dim: int) -> None:
        """Check a file and use it; a damaged one is removed, and so made again."""
        try:
            self._graph, self._generation = Graph(path, dim), generation
        except FileNotFoundError:
            pass
        except (ValueError, RuntimeError, OSError) as exc:
            log.warning("%s is damaged and made again: %s", path, exc)
            with suppress(OSError):
                path.unlink()

    def _start(self, dim: int) -> None:
        """Start the builder, on rows that no power cut can take back and give to others."""
        try:
            generation, n = self._settled()
        except ServiceError as exc:
            log.warning("%s: no graph is made: %s", self._folder, exc.message)
            self._not_before = time.monotonic() + RETRY_S
            return
        command = [sys.executable, "-c", BUILDER, self._folder, generation, n, dim]
        with self._lock:
            if not self._closed:
                self._builder = subprocess.Popen(
                    list(map(str, command)), cwd=ROOT, stdin=subprocess.DEVNULL
                )

    def close(self) -> None:
        """End a build under way. The next process that searches starts it again."""
        with self._lock:
            self._closed = True
            builder, self._builder = self._builder, None
        if builder is not None:
            builder.terminate()
            builder.wait()
        self._graph = None


def checksum(data: memoryview) -> int:
    """Return the CRC of much data, in pieces so that other threads run."""
    crc = 0
    for start in range(0, len(data), CRC_CHUNK):
        crc = zlib.crc32(data[start : start + CRC_CHUNK], crc)
    return crc


def empty(dim: int) -> Any:
    """Return an empty graph of half floats; scores come from the matrix, so they are enough."""
    from usearch.index import Index

    return Index(ndim=dim, metric="ip", dtype="f16", connectivity=LINKS, expansion_add=BUILD_WIDTH)


def linked(matrix: Vectors, threads: int) -> Any:
    """Return a graph of all rows; 0 threads means one a core.

    Threads that link rows at the same time lose some links, and a row without any is never found:
    with 8 threads 6 of 89 graphs of 6,000 rows found less than 0.99, with one none of 41. So the
    first rows, to which all others are linked, are added by one thread.
    """
    index = empty(matrix.shape[1])
    for start in range(0, len(matrix), BUILD_CHUNK):
        part = matrix[start : start + BUILD_CHUNK]
        keys = np.arange(start, start + len(part))
        index.add(keys, part, threads=threads if start else 1)
    return index


def width_of(index: Any, matrix: Vectors) -> int:
    """Return how widely a graph of all rows has to be searched, 0 if no width finds enough."""
    sample = np.random.default_rng(0).permutation(len(matrix))[:SAMPLE]
    queries, count = matrix[np.sort(sample)], min(NEAREST, len(matrix))
    scores = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(matrix), BUILD_CHUNK):
        block = queries @ matrix[start : start + BUILD_CHUNK].T
        scores = -np.partition(-np.hstack([scores, block]), count - 1, axis=1)[:, :count]
    least = scores.min(axis=1, keepdims=True) - 1e-5  # of the nearest; the sums differ by less
    for width in WIDTHS:
        index.expansion_search = width
        near = index.search(queries, count)
        there = np.arange(count) < near.counts[:, None]
        keys = np.where(there, near.keys, 0).astype(np.int64)
        found = there & (np.einsum("qd,qkd->qk", queries, matrix[keys]) >= least)
        if found.mean() >= RECALL:
            return width
    return 0


def build(folder: Path, generation: int, n: int, dim: int) -> bool:
    """Write the graph of the first `n` rows. False: another process is at it."""
    with (folder / f"matrix.{generation}").open("rb") as file:
        matrix = map_rows(file.fileno(), dim)[:n]
    path, new = folder / f"ann.{generation}", folder / f"ann.{generation}.new"
    with (folder / "ANN.LOCK").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        index = linked(matrix, threads=0)
        width = width_of(index, matrix)
        if not width and n > BUILD_CHUNK:
            index = linked(matrix, threads=1)
            width = width_of(index, matrix)
        if width:
            index.save(str(new))
        else:
            log.warning(
                "%s: a graph of %d rows misses too much, they are searched exactly", folder, n
            )
            new.write_bytes(b"")
        with new.open("r+b") as file:
            size, crc = os.fstat(file.fileno()).st_size, 0
            if size:
                with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
                    view = memoryview(mapped)
                    crc = checksum(view)
                    view.release()
            head = FOOTER.pack(MAGIC, dim, crc, n, size, width, 0)[:-4]
            file.seek(size)
            file.write(head + struct.pack("<I", zlib.crc32(head)))
        if (folder / f"matrix.{generation}").exists():  # else compacted meanwhile
            os.rename(new, path)
        else:
            new.unlink()
    return True


def main() -> None:
    """Build what the command line names, giving way to all others."""
    os.nice(10)
    os.umask(0o077)
    build(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
