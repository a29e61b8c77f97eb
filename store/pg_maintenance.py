"""Backup, restore, verification and figures of collections in PostgreSQL.

A backup is a folder with an export of the collection as of one moment, and a manifest with its
checksum. It is plain text: nothing in it can run, and any store can import it.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from errors import Full, Invalid, NotFound, Unavailable
from sql.database import Database
from store import pg_rows
from store.base import PARTS, BackupInfo, CollectionInfo, Progress, Report
from store.catalog_store import CatalogStore
from store.pg_filter import Where
from store.pg_nodes import begin_at_one_moment
from store.pg_schema import Collection
from store.transfer import head_of, import_jsonl, line_of
from store.validation import check_name

FORMAT = "embedding-store-export-1"
MANIFEST, EXPORT = "manifest.json", "collection.jsonl"
PAGE = 500
NO_ROOM = (28, 122)  # ENOSPC, EDQUOT


def backup(db: Database, find: Callable[[sa.Connection], Collection], to: Path) -> BackupInfo:
    """Write what one moment saw of a collection into a new folder, while writes go on."""
    if to.exists():
        raise Invalid(f"{to} exists already", param="to")
    part = to.with_name(f"{to.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True, mode=0o700)
        with db.upkeep() as connection:
            collection = find(connection)
            begin_at_one_moment(connection, collection)
            rows, digest = _write(part / EXPORT, _lines(connection, collection))
        manifest = {"format": FORMAT, "name": collection.name, "rows": rows - 1, "sha256": digest}
        _write(part / MANIFEST, [json.dumps(manifest, indent=2).encode() + b"\n"])
        part.rename(to)
    except OSError as error:
        kind = Full if error.errno in NO_ROOM else Unavailable
        raise kind(f"the backup cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)  # what is complete has its own name by now
    size = sum(each.stat().st_size for each in to.iterdir())
    return BackupInfo(to, collection.name, rows - 1, size)


def _write(path: Path, lines: Iterator[bytes] | list[bytes]) -> tuple[int, str]:
    """Write a file durably; return how many lines it has, and its checksum."""
    count, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for line in lines:
            count += 1
            digest.update(line)
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return count, digest.hexdigest()


def _lines(connection: sa.Connection, collection: Collection) -> Iterator[bytes]:
    yield head_of(collection, collection.indexed)
    cursor, all_, parts = "", Where(None), frozenset(PARTS)
    while records := list(pg_rows.page(connection, collection, cursor, PAGE, all_, parts)):
        yield from map(line_of, records)
        cursor = records[-1].id


def restore(
    store: CatalogStore, source: Path, name: str | None, progress: Progress | None
) -> CollectionInfo:
    """Make a collection from a backup; it appears under its name once it is complete."""
    manifest = _manifest(source)
    name = check_name(manifest["name"] if name is None else name)
    store.catalog.free(name)
    building = f"restoring-{uuid.uuid4().hex}"
    with (source / EXPORT).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
            raise Invalid(f"{source} is damaged: {EXPORT} is not what {MANIFEST} says")
        file.seek(0)
        import_jsonl(store, file, building, progress)
    try:
        store.rename(building, name)
    except BaseException:
        store.drop(building)
        raise
    return store.info(name)


def _manifest(source: Path) -> dict[str, Any]:
    if not source.is_dir():
        raise NotFound(f"no backup at {source}", param="source")
    try:
        manifest = json.loads((source / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Invalid(f"{source} is no backup: its {MANIFEST} cannot be read") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise Invalid(f"{source} is no backup of format {FORMAT}")
    if {"name", "sha256"} - manifest.keys() or not (source / EXPORT).is_file():
        raise Invalid(f"{source} is no whole backup")
    return manifest


def verify(db: Database, find: Callable[[sa.Connection], Collection]) -> Report:
    """Read every value of every row, and check that the indexes are whole."""
    with db.upkeep() as connection:
        collection = find(connection)
        query = sa.text(
            f"SELECT count(*), count(*) FILTER (WHERE vector_dims(embedding) <> {collection.dim}"
            " OR vector_norm(embedding) IN ('NaN', 'Infinity')"
            " OR length(text) + length(CAST(meta AS text)) < 0)"
            f" FROM {collection.table}"
        )
        invalid = sa.text(
            "SELECT CAST(indexrelid AS regclass) FROM pg_index"
            " WHERE indrelid = to_regclass(:table) AND NOT indisvalid"
        )
        try:
            rows, wrong = connection.execute(query).one()
            halves = connection.scalars(invalid, {"table": collection.table}).all()
        except sa.exc.DBAPIError as error:
            return Report(False, 0, (f"the rows cannot be read: {error.orig}",))
    problems = [f"{wrong} rows hold values that are not allowed"] * bool(wrong)
    problems += [f"index {index} was not finished; compact builds it again" for index in halves]
    return Report(not problems, rows, tuple(problems))


def vacuum(db: Database, collection: Collection) -> int:
    """Free the space of dead rows; return by how many bytes the tables shrank."""
    size = sa.text("SELECT pg_total_relation_size(to_regclass(:table))")
    with db.upkeep() as connection:
        before = connection.scalar(size, {"table": collection.table}) or 0
        connection.exec_driver_sql(f"VACUUM (ANALYZE) {collection.table}")
        after = connection.scalar(size, {"table": collection.table}) or 0
    return max(0, before - after)


def stats(connection: sa.Connection, collection: Collection) -> dict[str, Any]:
    """Return figures of one collection. Under Citus sizes are those of the coordinator alone."""
    sizes = sa.text(
        "SELECT pg_total_relation_size(to_regclass(:table)) AS bytes,"
        " COALESCE(pg_relation_size(to_regclass(:index)), 0) AS index_bytes,"
        f" (SELECT count(*) FROM {collection.table}) AS rows"
    )
    names = {"table": collection.table, "index": collection.index}
    row = connection.execute(sizes, names).mappings().one()
    facts = {"name": collection.name, "dim": collection.dim, "metric": collection.metric}
    return {"backend": "postgresql", **facts, **row, "indexed": collection.ready}


def store_stats(connection: sa.Connection) -> dict[str, Any]:
    """Return figures of the whole database."""
    row = connection.execute(
        sa.text(
            "SELECT current_setting('server_version') AS server,"
            " (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector,"
            " (SELECT count(*) FROM emb_collections) AS collections,"
            " pg_database_size(current_database()) AS bytes,"
            " pg_is_in_recovery() AS standby"
        )
    )
    return {"backend": "postgresql", **row.mappings().one()}
