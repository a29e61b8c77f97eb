"""Backups of a collection, and collections made from them.

    BACKUP.json  what the collection is, and the SHA-256 of the copy
    records.db   a copy of its records by SQLite's online backup, while reads and writes go on

What is restored is read with no trust in it: its tables must be those of a collection, and each
payload passes a whitelist of opcodes and each record the checks of an upsert.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import numpy as np

from errors import Corrupt, Invalid, NotFound
from store import validation
from store.base import BackupInfo, Item, Progress
from store.collection import Collection
from store.entry import Entry
from store.local_disk import failures, make_file, sync_folder
from store.matrix import directions
from store.record_file import Options
from store.records import SCHEMA, after_row, make, translated
from store.records import check as check_record
from store.unpickle import check, loads
from store.validation import Limits
from store.writes import MAX_BYTES, put

NOTE, COPY = "BACKUP.json", "records.db"
FORMAT = "vector-collection-backup"
MAX_NOTE = 1 << 20
FACTS: dict[str, tuple[type, ...]] = {
    "name": (str,), "dim": (int,), "metric": (str,), "rows": (int,), "bytes": (int,),
    "model": (str, type(None)), "fingerprint": (str, type(None)),
    "indexed": (list,), "sha256": (str,),
}  # fmt: skip


def back_up(collection: Collection, to: Path, entry: Entry) -> BackupInfo:
    """Write a backup into the new folder `to`, durable when this returns."""
    if to.exists():
        raise Invalid(f"{to} exists already; a backup goes into a new folder")
    with failures("write the backup"):
        os.mkdir(to, 0o700)
        os.close(make_file(to / COPY))
        with collection.current() as shot:
            flags = apsw.SQLITE_OPEN_READWRITE
            with closing(apsw.Connection(str(to / COPY), flags=flags)) as copy:
                with copy.backup("main", shot.connection, "main") as copying:
                    copying.step()
                copy.execute("PRAGMA journal_mode = DELETE")
            rows = shot.count
        facts = asdict(entry) | {"format": FORMAT, "version": 1, "rows": rows}
        facts |= {"bytes": (to / COPY).stat().st_size, "sha256": _sha256(to / COPY)}
        with open(make_file(to / NOTE), "wb") as note, (to / COPY).open("rb") as copied:
            note.write(json.dumps(facts, indent=1).encode())
            note.flush()
            for file in (note, copied):
                os.fsync(file.fileno())
        sync_folder(to)
        sync_folder(to.parent)
    return BackupInfo(to, entry.name, rows, facts["bytes"])


def read_note(source: Path) -> dict[str, Any]:
    """Return what a backup says of itself, with the types that it must have."""
    try:
        with (source / NOTE).open("rb") as file:
            note = json.loads(file.read(MAX_NOTE))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{source} holds no backup") from None
    except (ValueError, RecursionError) as exc:
        raise Corrupt(f"{source / NOTE} is damaged") from exc
    if not isinstance(note, dict) or note.get("format") != FORMAT or note.get("version") != 1:
        raise Invalid(f"not a backup: {source / NOTE} does not name the format {FORMAT!r}")
    for key, allowed in FACTS.items():
        if type(note.get(key)) not in allowed:
            raise Invalid(f"not a backup: its {key} is missing or of the wrong type")
    return note


def entry_of(note: dict[str, Any], name: str) -> Entry:
    """Return the catalogue entry for a collection restored from this note."""
    return Entry(
        name,
        uuid.uuid4().hex,
        validation.check_dim(note["dim"]),
        validation.check_metric(note["metric"]),
        validation.check_label(note["model"], "model"),
        validation.check_label(note["fingerprint"], "fingerprint"),
        time.time(),
        validation.check_indexed(note["indexed"]),
    )


def restore(
    source: Path, note: dict[str, Any], folder: Path, entry: Entry, limits: Limits,
    progress: Progress | None,
) -> None:  # fmt: skip
    """Fill a new collection's folder from a backup; durable when this returns.

    Raises Corrupt where the copy is damaged, Invalid or another refusal where it is no backup.
    """
    with failures("read the backup"):
        size = (source / COPY).stat().st_size
        if size != note["bytes"] or _sha256(source / COPY) != note["sha256"]:
            raise Corrupt(f"{source / COPY} is damaged: it is not the file that was backed up")
    make(folder / COPY, entry.dim, entry.metric)
    done = 0
    with closing(Collection(folder, Options(fsync="never"))) as collection:
        for some in _items(source / COPY, entry.dim):
            done += len(some)
            if done > note["rows"]:
                break
            own = replace(limits, items=len(some))
            rows = validation.check_items(some, entry.dim, entry.metric, own)
            directed = directions(rows.vectors, entry.metric)
            collection.write(put(entry.name, rows, directed, "insert"))
            if progress:
                progress(done, note["rows"])
        if done != note["rows"]:
            raise Invalid(f"{source} does not hold the {note['rows']} records of its note")
        collection.records.sync()


def _items(file: Path, dim: int) -> Iterator[list[Item]]:
    """Yield the records of a copy, some at a time; each payload is checked before it is read."""
    try:
        connection = apsw.Connection(
            f"file:{quote(str(file.absolute()))}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_BYTES)
        connection.execute("PRAGMA trusted_schema = OFF")
        tables = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
        if sorted(sql for (sql,) in tables) != sorted(SCHEMA):
            raise Invalid("not a backup: its tables are not those of a collection")
        row = 0
        while some := after_row(connection, row, file):
            yield [_item(stored, dim, file) for stored in some]
            row = some[-1][0] + 1
    except apsw.Error as exc:
        raise translated(exc, file) from exc
    except UnicodeDecodeError as exc:
        raise Invalid("not a backup: an id is no text") from exc


def _item(stored: tuple[Any, ...], dim: int, file: Path) -> Item:
    _, id_, payload, _, raw, _ = stored
    kinds = (type(id_), type(payload), type(raw))
    if kinds != (str, bytes, bytes) or len(raw) != dim * 4:
        raise Invalid("not a backup: a record has a value of the wrong type or length")
    check_record(stored, file, dim * 4)
    check(payload)
    return Item(id_, np.frombuffer(raw, "<f4"), *loads(payload))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
