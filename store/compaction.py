"""Writes the live rows of a collection into a new generation, and removes the old one."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from store.fs import FS, failures
from store.journal import Journal, Step, write_generation
from store.matrix import Matrix
from store.rows import RowTable
from store.snapshot import RecordCache
from store.writes import RECORD_ROWS, put_record

CHUNK_BYTES = 4 << 20  # of vectors, written at a time and in one frame


def rewrite(
    fs: FS, journal: Journal, table: RowTable, matrix: Matrix, dim: int, step: Step
) -> None:
    """Write generation G+1 and make it the collection's. Under the lock.

    Readers go on with what they have open. Whatever goes wrong before the manifest is replaced
    leaves the collection as it was.
    """
    new = journal.generation + 1
    alive = table.alive()
    rows = np.arange(len(table)) if alive is None else np.flatnonzero(alive)
    chunk = max(1, CHUNK_BYTES // (dim * 4))
    with failures("compact a collection"):
        try:
            target = Matrix(fs, journal.folder / f"mat.{new}", dim, create=True)
            whole = matrix.view(len(table))
            for start in range(0, len(rows), chunk):
                target.write(start, whole[rows[start : start + chunk]])
            step("compact-matrix-written")
            payloads = _payloads(journal, table, rows.tolist(), dim, chunk)
            manifest = journal.manifest | {"gen": new}
            write_generation(fs, journal.folder, manifest, payloads, lambda s: step(f"compact-{s}"))
        except OSError:
            if not journal.replaced():
                clean(fs, journal.folder, journal.generation)
            raise
        clean(fs, journal.folder, new)
        step("compact-old-unlinked")


def clean(fs: FS, folder: Path, generation: int) -> None:
    """Remove the files of other generations. Those who have them open keep them."""
    for name in os.listdir(folder):
        head, _, tail = name.partition(".")
        if head in ("journal", "mat") and tail != str(generation):
            fs.unlink(folder / name)
        elif head == "ann" and tail.split(".")[0] != str(generation):
            with suppress(FileNotFoundError):  # its builder may remove it too
                fs.unlink(folder / name)


def _payloads(
    journal: Journal, table: RowTable, rows: list[int], dim: int, chunk: int
) -> Iterator[bytes]:
    """Yield the payloads of the new journal's frames: the live rows in their order."""
    read = RecordCache(journal, dim)
    for start in range(0, len(rows), chunk):
        end = min(start + chunk, len(rows))
        parts = []
        for at in range(start, end, RECORD_ROWS):
            some = rows[at : min(at + RECORD_ROWS, end)]
            texts, metas, raws = zip(*(read(*table.place(row)) for row in some), strict=True)
            ids = [table.ids[row] for row in some]
            parts.append(put_record(ids, list(texts), list(metas), b"".join(raws)))
        yield b"".join(parts)
