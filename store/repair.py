"""Checking a collection's files against each other, and saving what is undamaged."""

import os
import re
from pathlib import Path
from typing import Any

from errors import Corrupt, NotFound, ServiceError, Unavailable
from store.base import Progress
from store.collection import Collection
from store.frames import FRAME, HEADER, Reader, find_frames, whole_records
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
                problems.append(journal.damage() or _unfinished(journal))
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


def problem(collection: Collection) -> str | None:
    """Return what of a collection's journal cannot be read, if anything; reads little."""
    with collection.current() as journal:
        if journal.end == journal.size() and journal.end >= journal.manifest["base"]:
            return None
        return journal.damage() or _unfinished(journal)


def _unfinished(journal: Journal) -> str:
    return (
        f"{journal.path} ends with {journal.size() - journal.end} bytes of an unfinished write, "
        f"from byte {journal.end} on; the next write cuts them off and keeps them as torn.*"
    )


def salvage(ledger: Ledger, manifest: dict[str, Any]) -> list[str]:
    """Make a journal folder whole again from every undamaged frame; return what was done.

    `manifest` stands in for a damaged one. The damaged journal is kept beside the new one.
    """
    with ledger.locked():
        ledger.journal = None
        done, pieces = [], []  # the pieces are those of each new frame's payload
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
        get: Reader = lambda n, at: read(handle.fd, n, at)  # noqa: E731
        gaps: list[tuple[int, int]] = []
        known = manifest.get("base", 0)  # what lies below had been acknowledged
        found = [(f.start, f.end, f.synced) for f in find_frames(get, end, size, 0)]
        known = max([known, *(synced for _, _, synced in found)])
        for start, after, _ in [*found, (size, size, 0)]:
            if start != end:
                gaps.append((end, start))
                pieces.append(whole_records(get, end, start) if end < known else [])
            if start != after:
                pieces.append([(start + FRAME.size, after - start - FRAME.size)])
            end = after
        if not gaps and not done and size >= manifest.get("base", 0):
            return []
        saved = sum(len(each) for each in pieces) - len(found)
        done += [f"bytes {a} to {b} of {path.name} were damaged and are lost" for a, b in gaps]
        if saved:
            done[-1] += f", but for {saved} whole records in them"
        with failures("write the repaired journal"):
            ledger.fs.link(path, ledger.folder / f"damaged.{generation}.{size}")
            payloads = (b"".join(get(n, at) for at, n in each) for each in pieces if each)
            write_generation(ledger.fs, ledger.folder, manifest | {"gen": generation + 1}, payloads)
            ledger.fs.unlink(path)
        return [*done, f"the damaged journal is kept as damaged.{generation}.{size}"]


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
