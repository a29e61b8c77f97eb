"""Backups of a collection, and what is made from them.

A backup is a hard link to the journal and a note of how much of it counts: made in an instant, and
exact, since a journal is only ever appended to. It shares the disk's blocks with the collection;
copy it elsewhere to survive the disk. What is restored is read with no trust in it.
"""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from errors import Corrupt, Invalid, NotFound
from store import validation
from store.base import Item, Progress
from store.catalog import Entry
from store.collection import Collection
from store.frames import (
    HEADER,
    encode_frame,
    encode_record,
    read_frame,
    records,
)
from store.fs import FS, Handle, failures, read
from store.ledger import Options
from store.matrix import directions
from store.unpickle import check, dumps, loads
from store.validation import Limits
from store.writes import Write, put

NOTE, COPY = "BACKUP", "journal"  # the two files of a backup


def back_up(collection: Collection, to: Path, facts: dict[str, Any]) -> tuple[int, int]:
    """Write a backup into the new folder `to`; return its rows and bytes."""
    fs = collection.fs
    if to.exists():
        raise Invalid(f"{to} is there already; a backup goes into a new folder")
    with failures("write the backup"):
        fs.mkdir(to)
        with collection.exclusive() as journal:
            journal.sync()
            length, rows = journal.end, len(collection.table.row_of)
            try:
                fs.link(journal.path, to / COPY)
            except OSError as exc:
                if exc.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                    raise
                shutil.copyfile(journal.path, to / COPY)
        note = encode_record(dumps(facts | {"length": length, "rows": rows}))
        for name, data in ((NOTE, encode_frame(0, 0, note)), (COPY, b"")):
            handle = Handle(fs.open(to / name, create=bool(data), write=True))
            fs.write(handle.fd, data, 0)
            fs.sync(handle.fd)
        fs.sync_folder(to)
        fs.sync_folder(to.parent)
    return rows, length


def read_note(source: Path) -> dict[str, Any]:
    """Return what a backup says of itself, with the types that it must have."""
    if not (source / NOTE).is_file():
        raise NotFound(f"{source} holds no backup")
    handle = Handle(os.open(source / NOTE, os.O_RDONLY | os.O_CLOEXEC))
    frame = read_frame(lambda n, at: read(handle.fd, n, at), 0, None)
    if frame is None:
        raise Corrupt(f"{source / NOTE} is damaged")
    pickled = next(records(frame))[1]
    check(pickled)
    note = {"indexed": []} | loads(pickled)  # backups of an older version lack it
    kinds: dict[str, tuple[type, ...]] = {
        "name": (str,),
        "dim": (int,),
        "metric": (str,),
        "model": (str, type(None)),
        "fingerprint": (str, type(None)),
        "indexed": (list,),
        "length": (int,),
        "rows": (int,),
    }
    for key, allowed in kinds.items():
        if type(note.get(key)) not in allowed:
            raise Invalid(f"not a backup: its {key} is missing or of the wrong type")
    return note


def backed_up(source: Path, note: dict[str, Any], progress: Progress | None) -> Iterator[Any]:
    """Yield a backup's writes in order: a list of items, or of ids to delete."""
    handle = Handle(os.open(source / COPY, os.O_RDONLY | os.O_CLOEXEC))
    end, seq, length = len(HEADER), 0, note["length"]
    if read(handle.fd, len(HEADER), 0) != HEADER:
        raise Corrupt(f"{source / COPY} is no journal")
    while end < length:
        frame = read_frame(lambda n, at: read(handle.fd, n, at), end, seq)
        if frame is None:
            raise Corrupt(f"{source / COPY} is damaged at byte {end}")
        for _, pickled, raw in records(frame):
            check(pickled)
            yield _restored(loads(pickled), raw, note["dim"])
        end, seq = frame.end, seq + 1
        if progress:
            progress(end, length)


def _restored(data: dict[str, Any], raw: memoryview, dim: int) -> list[Item] | list[str]:
    ids = data.get("ids")
    if not isinstance(ids, list) or data.get("k") not in ("put", "del"):
        raise Invalid("not a backup: a record is no write")
    if data["k"] == "del":
        return ids
    texts, metas = data.get("t"), data.get("m")
    columns = (texts, metas)
    if not all(isinstance(c, list) and len(c) == len(ids) for c in columns):
        raise Invalid("not a backup: a record's columns differ in length")
    if len(raw) != len(ids) * dim * 4:
        raise Invalid("not a backup: a record's vectors are not of the collection's dimension")
    vectors = np.frombuffer(raw, "<f4").reshape(-1, dim)
    assert isinstance(texts, list) and isinstance(metas, list)
    return [Item(*row) for row in zip(ids, vectors, texts, metas, strict=True)]


def entry_of(note: dict[str, Any]) -> Entry:
    """Return the catalogue entry for a collection restored from this note."""
    dim, metric = validation.check_dim(note["dim"]), validation.check_metric(note["metric"])
    model = validation.check_label(note["model"], "model")
    fingerprint = validation.check_label(note["fingerprint"], "fingerprint")
    indexed = validation.check_indexed(note["indexed"])
    return Entry(uuid.uuid4().hex, dim, metric, model, fingerprint, time.time(), indexed)


class Restored:
    """A collection being filled from a backup, in a folder that no catalogue names yet."""

    def __init__(
        self, fs: FS, folder: Path, entry: Entry, options: Options, limits: Limits
    ) -> None:
        with failures("make the collection"):
            Collection.make(fs, folder, entry.dim, entry.metric)
        self._collection = Collection(fs, folder, replace(options, fsync="never"))
        self._entry, self._limits = entry, limits

    def fill(self, source: Path, note: dict[str, Any], progress: Progress | None) -> None:
        """Check and repeat every write of the backup; durable when this returns."""
        for some in backed_up(source, note, progress):
            self._repeat(some)
        with self._collection.exclusive() as journal:
            journal.sync()
            rows = len(self._collection.table.row_of)
        self._collection.close()
        if rows != note["rows"]:
            raise Invalid(f"{source} holds {rows} rows, not the {note['rows']} of its note")
        with failures("restore"):
            self._collection.fs.sync_folder(self._collection.folder.parent)

    def _repeat(self, some: list[Any]) -> None:
        limits = replace(self._limits, items=max(len(some), 1))
        if some and isinstance(some[0], Item):
            entry = self._entry
            rows = validation.check_items(some, entry.dim, entry.metric, limits)
            self._collection.write(put(rows, directions(rows.vectors, entry.metric), "upsert"))
        else:
            self._collection.write(Write(ids=validation.check_ids(some, limits)))
