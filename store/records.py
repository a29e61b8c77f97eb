"""The records of one collection as SQLite keeps them, one row each.

    records(row, id, payload, payload_crc, vector, vector_crc)
        `row` numbers the writes: a replaced record takes a new one, and no number is used twice.
        `payload` is a pickle of [text, metadata], `vector` the float32 that were sent.
    deaths(seq, row)    rows that were deleted or replaced since the last compaction, in order
    state(...)          one row: whose file it is, and what belongs to the matrix beside it (State)

Any SQLite tool may read the file while the service runs.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from errors import Busy, Corrupt, ServiceError
from sql.errors import of_sqlite
from store.base import Metric, Part, Record
from store.local_disk import boot_id, failures, make_file, sync_folder
from store.unpickle import loads

SCHEMA = (
    "CREATE TABLE records (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, "
    "payload BLOB NOT NULL, payload_crc INTEGER NOT NULL, "
    "vector BLOB NOT NULL, vector_crc INTEGER NOT NULL) STRICT",
    "CREATE TABLE deaths (seq INTEGER PRIMARY KEY, row INTEGER NOT NULL) STRICT",
    "CREATE TABLE state (boot TEXT NOT NULL, uuid TEXT NOT NULL, dim INTEGER NOT NULL, "
    "metric TEXT NOT NULL, generation INTEGER NOT NULL, first INTEGER NOT NULL, "
    "kept BLOB NOT NULL, lost BLOB NOT NULL, crc INTEGER NOT NULL) STRICT",
    "CREATE TRIGGER died AFTER DELETE ON records "
    "BEGIN INSERT INTO deaths (row) VALUES (old.row); END",
)
# Batches of 500 x 384 take 7.2 us of CPU a row, 9.9 with pages of 4 KiB, 6.2 with 16 KiB; but small
# writes and small collections grow with the page.
PAGE_BYTES = 8192
CHUNK = 256  # records read at a time

STATE = "uuid, dim, metric, generation, first, kept, lost"
COLUMNS = "row, id, payload, payload_crc, vector, vector_crc"
BRIEF = "row, id, payload, payload_crc, NULL, 0"
INSERT = f"INSERT INTO records ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
Encoded = tuple[str, bytes, int, bytes, int]  # as in COLUMNS, without a row or its checksum
Stored = tuple[int, str, bytes, int, bytes, int]  # one row as in COLUMNS


def encoded(id_: str, payload: bytes, vector: bytes) -> Encoded:
    """Return a record with checksums, which has no row number yet."""
    seed = zlib.crc32(id_.encode())
    return id_, payload, zlib.crc32(payload, seed), vector, zlib.crc32(vector, seed)


def numbered(row: int, record: Encoded) -> Stored:
    """Return a record as it is inserted: its checksum covers the row number too."""
    id_, payload, crc, vector, vector_crc = record
    return row, id_, payload, _with_row(crc, row), vector, vector_crc


def _with_row(crc: int, row: int) -> int:
    return zlib.crc32(row.to_bytes(8, "little", signed=True), crc)


def check(stored: Stored, path: Path, vector_bytes: int | None = None) -> None:
    """Raise Corrupt unless a record is as it was written; its vector too, if a size is given."""
    row, id_, payload, payload_crc, vector, vector_crc = stored
    try:
        seed = zlib.crc32(id_.encode())
        whole = _with_row(zlib.crc32(payload, seed), row) == payload_crc
        if whole and vector_bytes is not None:
            whole = len(vector) == vector_bytes and zlib.crc32(vector, seed) == vector_crc
    except (AttributeError, TypeError):  # a value of another type
        whole = False
    if not whole:
        raise damaged(id_, path)


@dataclass(frozen=True)
class State:
    """What a collection's file says of itself, under one checksum."""

    uuid: str
    dim: int
    metric: Metric
    generation: int  # of the matrix
    first: int  # the row that has the place behind those of `kept`
    kept: bytes  # the rows that the last compaction kept: int64, rising
    lost: bytes  # rows whose vector is damaged, so that the matrix has zeros: int64, rising


def read_state(connection: apsw.Connection, path: Path) -> State:
    """Return the state of a collection's file. Raises Corrupt if it is damaged."""
    rows: list[Any] = connection.execute(f"SELECT {STATE}, crc FROM state").fetchall()
    try:
        ((*facts, crc),) = rows
        state = State(*facts)
        whole = _state_crc(state) == crc
    except (TypeError, ValueError):  # a value of another type, or not one row
        whole = False
    if not whole:
        raise damaged_file(path)
    return state


def own_state(connection: apsw.Connection, path: Path) -> State:
    """Return the same. Raises Corrupt also for the file of another collection."""
    state = read_state(connection, path)
    if state.uuid != path.parent.name:
        raise Corrupt(f"{path} has the records of another collection; restore a backup")
    return state


def write_state(connection: apsw.Connection, state: State, boot: str) -> None:
    """Write the state of a collection's file, and the boot in which its matrix is believed."""
    connection.execute("DELETE FROM state")
    values = (boot, *vars(state).values(), _state_crc(state))
    connection.execute(f"INSERT INTO state (boot, {STATE}, crc) VALUES (?,?,?,?,?,?,?,?,?)", values)


def _state_crc(state: State) -> int:
    *facts, kept, lost = vars(state).values()
    return zlib.crc32(lost, zlib.crc32(kept, zlib.crc32(repr((*facts, len(kept))).encode())))


def make(path: Path, dim: int, metric: Metric) -> None:
    """Make an empty file in a new folder; durable when this returns."""
    with failures("make the collection"):
        os.mkdir(path.parent, 0o700)
        os.close(make_file(path))  # SQLite gives the files beside it the same mode
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = MEMORY")
        connection.execute(f"BEGIN; {'; '.join(SCHEMA[:3])}")
        connection.execute(SCHEMA[3])
        write_state(connection, State(path.parent.name, dim, metric, 0, 0, b"", b""), boot_id())
        connection.execute("COMMIT; PRAGMA journal_mode = WAL")
        connection.close()
    except apsw.Error as exc:
        raise translated(exc, path) from exc
    with failures("make the collection"):
        sync_folder(path.parent)
        sync_folder(path.parent.parent)


def translated(error: apsw.Error, path: Path) -> ServiceError:
    """Return an error of SQLite as one of the service."""
    if isinstance(error, apsw.SQLError):  # a table that is missing: the file was emptied
        return damaged_file(path)
    if isinstance(error, apsw.BusyError):
        return Busy(f"another process holds the lock of {path}", retry_after_s=1)
    found = of_sqlite(getattr(error, "extendedresult", 1), path)
    if isinstance(found, Corrupt):
        found.message += "; run: python -m store repair"
    return found


def sqlite_version() -> str:
    """Return the version of the SQLite library that keeps the records."""
    return str(apsw.sqlite_lib_version())


def damaged_file(path: Path) -> Corrupt:
    """Return the error for a file that is damaged."""
    return Corrupt(f"{path} is damaged; run: python -m store repair")


def damaged(id_: object, path: Path) -> Corrupt:
    """Return the error for a record that is not as it was written."""
    return Corrupt(f"record {ascii(id_)[:60]} in {path} is damaged; run: python -m store repair")


def by_row(connection: apsw.Connection, rows: "np.ndarray[Any, Any]", columns: str) -> list[Any]:
    """Return the rows of SQLite of some record numbers, in any order."""
    if not len(rows):
        return []
    wanted = apsw.carray(np.ascontiguousarray(rows, np.int64))
    sql = f"SELECT {columns} FROM records WHERE row IN carray(?)"
    return connection.execute(sql, (wanted,)).fetchall()


def by_id(connection: apsw.Connection, ids: list[str], columns: str) -> list[Any]:
    """Return the rows of SQLite of those ids that exist, in any order."""
    if not ids:
        return []
    sql = f"SELECT {columns} FROM records WHERE id IN carray(?)"
    return connection.execute(sql, (apsw.carray(tuple(ids)),)).fetchall()


def after_row(
    connection: apsw.Connection, row: int, path: Path, columns: str = COLUMNS
) -> list[Any]:
    """Return the next rows of SQLite by number, from `row` on; [] at the end. Raises Corrupt."""
    sql = f"SELECT {columns} FROM records WHERE row >= ? ORDER BY row LIMIT {CHUNK}"
    found: list[Any] = connection.execute(sql, (row,)).fetchall()
    if found and not row <= found[0][0] <= found[-1][0]:  # the reader would never come to an end
        raise damaged_file(path)
    return found


def metadata_of(stored: list[Stored], path: Path) -> list[dict[str, Any]]:
    """Return the metadata of many records. Raises Corrupt if one is damaged."""
    for each in stored:
        check(each, path)
    return [loads(each[2])[1] for each in stored]


def decoded(stored: Stored, parts: frozenset[Part], path: Path, dim: int) -> Record:
    """Return a record with the parts that are asked for. Raises Corrupt if it is damaged."""
    check(stored, path, dim * 4 if "vector" in parts else None)
    _, id_, payload, _, raw, _ = stored
    text, metadata, vector = None, None, None
    if "text" in parts or "metadata" in parts:
        text, metadata = loads(payload)
    if "vector" in parts:
        vector = np.frombuffer(raw, "<f4").astype(np.float32)
    return Record(
        id_, vector, text if "text" in parts else None, metadata if "metadata" in parts else None
    )
