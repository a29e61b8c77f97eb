"""Checks a collection's files against each other, and saves what is undamaged."""

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import sqlalchemy as sa

from errors import Corrupt, ServiceError
from sql import apsw_driver
from store.base import PARTS, Metric, Progress, Record, Report, successor
from store.catalog import Catalog
from store.collection import Collection
from store.local_disk import failures, make_file, make_folders
from store.matrix import directions
from store.open_collections import OpenCollections
from store.record_file import Options
from store.records import CHUNK, COLUMNS, State, damaged, decoded, make, own_state, read_state
from store.snapshot import Snapshot
from store.validation import Rows
from store.writes import put

ALL = frozenset(PARTS)
MATRIX = "rows of the matrix differ from the records; run: python -m store repair"
NAMED = 20  # damaged records that a report names
INDEX = " INDEXED BY sqlite_autoindex_records_1"
MISSES = 1000  # stretches of row numbers without a record, after which there are no more


def verify(
    collection: Collection, dim: int, progress: Progress | None = None
) -> tuple[int, list[str]]:
    """Read all of a collection; return its records and what is wrong."""
    problems: list[str] = []
    rows = 0
    try:
        with collection.current() as shot:
            own_state(shot.connection, shot.file)
            rows = _verify(shot.connection, collection, dim, problems, shot, progress)
    except Corrupt as exc:  # name what else is damaged, without the matrix
        problems.append(exc.message)
        state = state_of(collection.records.path)
        if state and state.uuid != collection.folder.name:
            return 0, problems
        try:
            with collection.records.reading() as connection:
                rows = _verify(connection, collection, dim, problems, None, progress)
        except ServiceError as again:
            problems.append(again.message)
    if collection.records.poison:
        problems.append(collection.records.poison)
    return rows, list(dict.fromkeys(problems))


def _verify(
    connection: apsw.Connection, collection: Collection, dim: int,
    problems: list[str], shot: Snapshot | None, progress: Progress | None,
) -> int:  # fmt: skip
    """Check the file, each record and its row of the matrix; return how many records there are."""
    file = collection.records.path
    found = connection.execute(f"PRAGMA integrity_check({NAMED})").fetchall()
    problems += [f"{file}: {line}" for (line,) in found if line != "ok"]
    rows = named = wrong = 0
    for some in _stored(connection):
        whole = []
        for each in some:
            try:
                vector = decoded(each, ALL, file, dim).vector
                if shot:
                    (place,) = shot.numbering.places([each[0]], len(shot.matrix))
                    if shot.allowed is not None and not shot.allowed[place]:
                        raise damaged(each[1], file)  # it was deleted
                    whole.append((place, vector))
            except Corrupt as exc:
                problems += [exc.message] if named < NAMED else []
                named += 1
        if shot and whole:
            places, vectors = zip(*whole, strict=True)
            differs = shot.matrix[list(places)] != directions(np.array(vectors), shot.metric)
            wrong += int(differs.any(axis=1).sum())
        rows += len(some)
        if progress:
            progress(rows, shot.count if shot else 0)
    if named > NAMED:
        problems.append(f"{named} records in {file} are damaged")
    if shot and rows != shot.count:
        problems.append(f"{file} has {rows} records, and {shot.count} are expected")
    if wrong:
        problems.append(f"{wrong} {MATRIX}")
    return rows


def repair(catalog: Catalog, files: OpenCollections, name: str) -> Report:
    """Save what is undamaged of a collection into new files; keep the damaged ones beside them.

    Writes are refused meanwhile. Other processes go over to the new files by themselves.
    """
    entry = catalog.look_up(name)
    with files.using(entry) as collection:
        rows, problems = verify(collection, entry.dim)
        if not problems:
            return Report(True, rows)
        if all(problem.endswith(MATRIX) for problem in problems):
            with collection.exclusive() as shot:
                wrong = collection.derived.mend(shot.connection)
            return Report(True, rows, (f"{wrong} rows of the matrix were written again",))
    state = state_of(collection.records.path)
    if state and state.uuid != entry.uuid:
        raise Corrupt(problems[0])  # they are not this collection's records
    new = replace(entry, name=successor(entry.uuid), uuid=uuid.uuid4().hex)
    folder = files.path(new.uuid)
    make(folder / "records.db", new.dim, new.metric)
    catalog.add(new)  # from here on writes to the damaged collection are refused
    try:
        catalog.wait_for_writers(entry.name)
        saved = _save(collection, folder, new.dim, new.metric)
        kept = files.directory / "damaged" / f"{entry.name}.{time.time_ns()}"
        with failures("keep the damaged files"):
            make_folders(kept)
            for file in collection.folder.glob("records.db*"):
                with open(make_file(kept / file.name), "wb") as copy, file.open("rb") as source:
                    shutil.copyfileobj(source, copy)
        catalog.swap(entry.name, new.name, entry.uuid)
    except BaseException:
        with suppress(Exception):
            catalog.drop(new.name)
        raise
    catalog.drop(new.name)
    done = f"{saved} records were saved, all that are undamaged; the damaged file is in {kept}"
    return Report(True, saved, (*problems, done))


def _save(damaged: Collection, folder: Path, dim: int, metric: Metric) -> int:
    """Write the undamaged records of a collection into new files; return how many."""
    saved = 0
    with closing(Collection(folder, Options(fsync="never"))) as target:
        for some in _undamaged(damaged, dim):
            vectors = np.stack([each.vector for each in some if each.vector is not None])
            texts, metadata = [each.text for each in some], [each.metadata or {} for each in some]
            rows = Rows([each.id for each in some], vectors, texts, metadata)
            target.write(put("", rows, directions(vectors, metric), "upsert"))
            saved += len(some)
        target.records.sync()
    return saved


def _undamaged(collection: Collection, dim: int) -> Iterator[list[Record]]:
    """Yield the records that can be read, some at a time, stepping over damaged pages."""
    path = collection.records.path
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error:
        return
    for some in _stored(connection):
        whole = []
        for each in some:
            with suppress(Corrupt):
                whole.append(decoded(each, ALL, path, dim))
        if whole:
            yield whole


def _stored(connection: apsw.Connection) -> Iterator[list[Any]]:
    """Yield the rows that SQLite can read, some at a time, stepping over damaged pages."""
    rows = f"SELECT {COLUMNS} FROM records WHERE row BETWEEN ? AND ?"
    ways = [f"SELECT min(row) FROM records{index} WHERE row >= ?" for index in ("", INDEX)]
    start = misses = 0
    while misses < MISSES:
        some: list[Any] = []
        failed = False
        try:
            some = connection.execute(rows, (start, start + CHUNK - 1)).fetchall()
        except (apsw.Error, UnicodeDecodeError):
            failed = True
            for row in range(start, start + CHUNK):
                with suppress(apsw.Error, UnicodeDecodeError):
                    some += connection.execute(rows, (row, row)).fetchall()
        start, misses = start + CHUNK, 0 if some else misses + 1
        if some:
            yield some
            continue
        behind = []  # as table and index have it, either of which may be damaged
        for way in ways:
            try:
                behind.append(connection.execute(way, (start,)).get)
            except apsw.Error:
                failed = True
        there = [row for row in behind if row is not None]
        if not there and not failed:
            return
        start = max(start, min(there, default=0))


# -- the catalogue ---------------------------------------------------------------------------------


def problems_of(catalog: Path) -> list[str]:
    """Return what is wrong with the catalogue's file."""
    try:
        with closing(apsw.Connection(str(catalog), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            found = connection.execute(f"PRAGMA integrity_check({NAMED})").fetchall()
    except apsw.Error as exc:
        return [f"{catalog}: {exc}"]
    return [f"{catalog}: {line}" for (line,) in found if line != "ok"]


def readable(catalog: Path, table: sa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table of a damaged catalogue that can be read."""
    engine = sa.create_engine(f"sqlite:///{catalog}", module=apsw_driver)
    found: dict[str, dict[str, Any]] = {}
    try:
        for way in (sa.asc, sa.desc):  # from both ends up to the damage
            query = sa.select(table).order_by(way(sa.text("rowid")))
            with suppress(sa.exc.SQLAlchemyError, ValueError), engine.connect() as connection:
                for row in connection.execute(query).mappings():
                    found[str(row["name" if "name" in row else "key"])] = dict(row)
    finally:
        engine.dispose()
    return list(found.values())


def state_of(records: Path) -> State | None:
    """Return what a collection's file says of itself, if it can be read."""
    try:
        with closing(apsw.Connection(str(records), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            return read_state(connection, records)
    except (apsw.Error, UnicodeDecodeError, Corrupt):
        return None
