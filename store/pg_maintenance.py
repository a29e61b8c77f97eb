"""Backup, restore, verification and figures of collections in PostgreSQL.

A backup is a folder with `manifest.json` (what the collection is, how many rows, the checksum of
the other file) and `rows.jsonl` (one row a line; the vector as base64 of little-endian float32).
It is plain text on purpose: nothing in it can run, and FileStore or a script can read it too.
"""

import base64
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from errors import Conflict, Full, Invalid, NotFound, Unavailable
from store import pg_rows, sql_names
from store.base import PARTS, BackupInfo, CollectionInfo, Item, Progress, Report, VectorStore
from store.filters import parse
from store.pg_filter import Where
from store.pg_schema import Collection
from store.sql_engine import Database

FORMAT = "embedding-store-rows-1"
PAGE = 500
MAX_LINE = 8 << 20  # a row of 16,000 dimensions, 1 MiB of text and 64 KiB of metadata takes less


def backup(db: Database, name: str, to: Path) -> BackupInfo:
    """Write what one moment saw of a collection into a new folder, while writes go on."""
    if to.exists():
        raise Invalid(f"{to} exists already", param="to")
    part = to.with_name(f"{to.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True, mode=0o700)
        manifest = _write_out(db, name, part)
        part.rename(to)
    except OSError as error:
        kind = Full if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
        raise kind(f"the backup cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)  # what is complete has another name by now
    size = sum(each.stat().st_size for each in to.iterdir())
    return BackupInfo(to, manifest["name"], manifest["rows"], size)


def _write_out(db: Database, name: str, folder: Path) -> dict[str, Any]:
    """Write both files of a backup; return the manifest."""
    rows, digest = 0, hashlib.sha256()
    with db.upkeep() as connection, (folder / "rows.jsonl").open("wb") as file:
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        collection = sql_names.resolve(connection, name)
        for line in _lines(connection, collection):
            rows += 1
            digest.update(line)
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    facts = {key: value for key, value in asdict(collection).items() if key != "ready"}
    manifest = {"format": FORMAT, **facts, "rows": rows, "sha256": digest.hexdigest()}
    with (folder / "manifest.json").open("w") as file_:
        file_.write(json.dumps(manifest, indent=2) + "\n")
        file_.flush()
        os.fsync(file_.fileno())
    return manifest


def _lines(connection: sa.Connection, collection: Collection) -> Iterator[bytes]:
    cursor, where = "", Where(parse(None))
    parts = frozenset(PARTS)
    while records := list(pg_rows.page(connection, collection, cursor, PAGE, where, parts)):
        for record in records:
            assert record.vector is not None
            row = {
                "id": record.id,
                "vector": base64.b64encode(record.vector.astype("<f4").tobytes()).decode(),
                "text": record.text,
                "metadata": record.metadata,
            }
            yield json.dumps(row, ensure_ascii=False).encode() + b"\n"
        cursor = records[-1].id


def restore(
    store: VectorStore, source: Path, name: str | None, progress: Progress | None
) -> CollectionInfo:
    """Make a collection from a backup; it appears under its name when it is complete."""
    manifest = _manifest(source)
    name = name or str(manifest["name"])
    if any(name == info.name or name in info.aliases for info in store.collections()):
        raise Conflict(f"{name!r} exists already", param="name")
    building = f"restoring-{uuid.uuid4().hex}"
    facts = manifest["dim"], manifest["metric"], manifest.get("model"), manifest.get("fingerprint")
    store.create(building, *facts, indexed=manifest.get("indexed", ()))  # older ones lack it
    try:
        _fill(store, building, source, manifest, progress)
        store.rename(building, name)
    except BaseException:
        store.drop(building)
        raise
    return store.info(name)


def _manifest(source: Path) -> dict[str, Any]:
    if not source.is_dir():
        raise NotFound(f"no backup at {source}", param="source")
    try:
        manifest = json.loads((source / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Invalid(f"{source} is no backup: its manifest.json cannot be read") from error
    needed = {"format", "name", "dim", "metric", "rows", "sha256"}
    if not isinstance(manifest, dict) or needed - manifest.keys() or manifest["format"] != FORMAT:
        raise Invalid(f"{source} is no backup of format {FORMAT}")
    for key in ("model", "fingerprint"):
        if not isinstance(manifest.get(key), str | None):
            raise Invalid(f"{source}: {key} is no text")
    return manifest


def _fill(
    store: VectorStore, name: str, source: Path, manifest: dict[str, Any], progress: Progress | None
) -> None:
    digest, done, items = hashlib.sha256(), 0, list[Item]()
    with (source / "rows.jsonl").open("rb") as file:
        while line := file.readline(MAX_LINE):
            digest.update(line)
            items.append(_item(line, done + len(items) + 1))
            if len(items) == PAGE:
                done += store.upsert(name, items, "insert").inserted
                items = []
                if progress:
                    progress(done, int(manifest["rows"]))
    if items:
        done += store.upsert(name, items, "insert").inserted
    if digest.hexdigest() != manifest["sha256"] or done != manifest["rows"]:
        raise Invalid(f"{source} is damaged: rows.jsonl is not what manifest.json says")


def _item(line: bytes, number: int) -> Item:
    try:
        row = json.loads(line)
        vector = np.frombuffer(base64.b64decode(row["vector"], validate=True), dtype="<f4")
        return Item(row["id"], vector.astype(np.float32), row["text"], row["metadata"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Invalid(f"line {number} of the backup is no row") from error


def verify(db: Database, name: str) -> Report:
    """Read every value of every row, and see that the indexes are whole."""
    with db.upkeep() as connection:
        collection = sql_names.resolve(connection, name)
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
    problems += [f"index {index} was not finished; compact builds it anew" for index in halves]
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
    """Figures of one collection. Under Citus the sizes are those of the coordinator alone."""
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
    """Figures of the whole database."""
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
