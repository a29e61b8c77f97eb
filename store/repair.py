"""Checking a collection's files against each other, and saving what is undamaged."""

import os
import re
from pathlib import Path
from typing import Any

from errors import Corrupt, NotFound, ServiceError, Unavailable
from store.base import Progress
from store.collection import Collection
from store.frames import HEADER, Frame, find_frames, read_frame
from store.fs import Handle, failures, read
from store.journal import Journal, write_generation
from store.ledger import Ledger


def verify(collection: Collection, progress: Progress | None) -> tuple[int, list[str]]:
    """Read all of a collection anew; return its live rows and what is wrong."""
    fresh = Collection(collection.fs, collection.folder, collection.options)
    problems: list[str] = []
    try:
        with fresh.exclusive(writable=False) as journal:
            if journal.end != journal.size() or journal.end < journal.manifest["base"]:
                unfinished = f"{journal.path} ends with an unfinished write; the next write cuts it"
                problems.append(journal.damage() or unfinished)
            if journal.poison:
                problems.append(journal.poison)
            view = fresh.matrix.view(len(fresh.table))
        wrong = 0
        for first, rows in fresh.truth(journal):
            wrong += int((view[first : first + len(rows)] != rows).any(axis=1).sum())
            if progress:
                progress(first + len(rows), len(fresh.table))
        if wrong:
            problems.append(f"{wrong} rows of the matrix differ from the journal; run repair")
        return len(fresh.table.row_of), problems
    except (Corrupt, Unavailable) as exc:
        return 0, [*problems, exc.message]
    finally:
        fresh.close()


def salvage(ledger: Ledger, manifest: dict[str, Any]) -> list[str]:
    """Make a journal folder whole again from every undamaged frame; return what was done.

    `manifest` stands in for a damaged one. The damaged journal is kept beside the new one.
    """
    with ledger.locked():
        ledger.journal = None
        done, frames = [], []
        try:
            journal: Journal | None = Journal(ledger.fs, ledger.folder)
            assert journal is not None
            manifest = journal.manifest
        except FileNotFoundError:
            done.append(f"{ledger.folder / 'MANIFEST'} or the journal it names was missing")
        except ServiceError as exc:
            done.append(exc.message)
        generation = manifest["gen"] if not done else _last_generation(ledger.folder)
        path = ledger.folder / f"journal.{generation}"
        with failures(f"read {path}"):
            handle = Handle(ledger.fs.open(path))
            size, end = os.fstat(handle.fd).st_size, len(HEADER)
        found = find_frames(lambda n, at: read(handle.fd, n, at), end, size, 0)
        gaps: list[tuple[int, int]] = []
        for frame in found:
            if frame.start != end:
                gaps.append((end, frame.start))
            frames.append((frame.start, frame.end))
            end = frame.end
        if end != size:
            gaps.append((end, size))
        if not gaps and not done and size >= manifest.get("base", 0):
            return []
        done += [f"bytes {a} to {b} of {path.name} were damaged and are lost" for a, b in gaps]
        with failures("write the repaired journal"):
            ledger.fs.link(path, ledger.folder / f"damaged.{generation}.{size}")
            payloads = (
                _payload(read_frame(lambda n, at: read(handle.fd, n, at), at, None))
                for at, _ in frames
            )
            write_generation(ledger.fs, ledger.folder, manifest | {"gen": generation + 1}, payloads)
            ledger.fs.unlink(path)
        return [*done, f"the damaged journal is kept as damaged.{generation}.{size}"]


def _payload(frame: Frame | None) -> bytes:
    if frame is None:
        raise Corrupt("the journal changes while it is read: the disk is failing")
    return frame.payload


def _last_generation(folder: Path) -> int:
    numbers = [re.fullmatch(r"journal\.(\d+)", name) for name in os.listdir(folder)]
    found = [int(match[1]) for match in numbers if match]
    if not found:
        raise NotFound(f"{folder} holds no journal")
    return max(found)


def mend(collection: Collection) -> int:
    """Make a collection's matrix what its journal says; return how many rows were not."""
    with collection.exclusive() as journal:
        return collection.mend_matrix(journal)
