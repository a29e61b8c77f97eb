"""SqlStore: the vector store in PostgreSQL with pgvector, on one machine or sharded by Citus.

Any number of services may share it. What it promises stands in `store/base.py`; what was tested of
it, and what was not, in `docs/scale.md`. Here each operation is put into one transaction; names
are in `sql_names`, rows in `sql_rows`, tables in `sql_schema`, the server's moods in `sql_engine`.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt
import sqlalchemy as sa

from errors import Invalid
from store import sql_keep, sql_names, sql_rows, validation
from store.base import (
    DEFAULT_PARTS,
    PARTS,
    BackupInfo,
    CollectionInfo,
    Found,
    IfExists,
    Item,
    Metric,
    Mode,
    Page,
    Part,
    Progress,
    Record,
    Report,
    VectorStore,
    Written,
)
from store.filters import parse
from store.sql_engine import Again, Database
from store.sql_filter import Where
from store.sql_index import Indexer
from store.sql_schema import Collection, lock_catalogue, prepare
from store.validation import Limits

T = TypeVar("T")


class SqlStore(VectorStore):
    """Collections in PostgreSQL. `shards` from 2 on spreads new ones over Citus workers."""

    def __init__(
        self,
        url: str,
        *,
        limits: Limits | None = None,
        shards: int = 0,
        index_from_rows: int = 10_000,
        **pool: Any,
    ) -> None:
        self.limits = limits or Limits()
        self.shards = shards
        self.db = Database(url, prepare, **pool)
        self.indexer = Indexer(self.db, index_from_rows)

    # -- collections -----------------------------------------------------------------------------

    def create(
        self,
        name: str,
        dim: int,
        metric: Metric = "cosine",
        model: str | None = None,
        fingerprint: str | None = None,
        if_exists: IfExists = "error",
    ) -> tuple[CollectionInfo, bool]:
        """Make an empty collection with a table of its own."""
        wanted = sql_names.new(
            validation.check_name(name),
            validation.check_dim(dim),
            validation.check_metric(metric),
            model,
            fingerprint,
        )

        def work(connection: sa.Connection) -> tuple[CollectionInfo, bool]:
            made, is_new = sql_names.create(connection, wanted, if_exists, self.shards)
            return sql_names.describe(connection, made), is_new

        return self._change(work, lambda c: sql_names.meant(c, name) == wanted.uuid)

    def collections(self) -> list[CollectionInfo]:
        """Return every collection, by name."""
        return self._read(lambda c: [sql_names.describe(c, x) for x in sql_names.everything(c)])

    def info(self, name: str) -> CollectionInfo:
        """Return what is known of one collection."""
        return self._read(lambda c: sql_names.describe(c, sql_names.resolve(c, name)))

    def drop(self, name: str) -> None:
        """Delete a collection, its table and its aliases."""
        self._change(lambda c: sql_names.drop(c, name), lambda c: not sql_names.meant(c, name))

    def rename(self, name: str, new_name: str) -> None:
        """Give a collection another name."""
        validation.check_name(new_name)
        self._change(
            lambda c: sql_names.rename(c, name, new_name),
            lambda c: not sql_names.meant(c, name),
        )

    def swap(self, name: str, other: str) -> None:
        """Exchange the names of two collections."""
        before = self._read(lambda c: sql_names.meant(c, name))
        self._change(
            lambda c: sql_names.swap(c, name, other),
            lambda c: sql_names.meant(c, name) != before,
        )

    def alias(self, alias: str, name: str) -> None:
        """Point an alias at a collection."""
        validation.check_name(alias, "alias")
        self._change(lambda c: sql_names.alias(c, alias, name))

    def unalias(self, alias: str) -> None:
        """Remove an alias."""
        self._change(lambda c: sql_names.unalias(c, alias), lambda c: not sql_names.meant(c, alias))

    def stamp(self, name: str, model: str, fingerprint: str | None) -> CollectionInfo:
        """Record whose vectors a collection holds."""
        return self._change(
            lambda c: sql_names.describe(c, sql_names.stamp(c, name, model, fingerprint))
        )

    # -- writing ---------------------------------------------------------------------------------

    def upsert(self, name: str, items: Sequence[Item], mode: Mode = "upsert") -> Written:
        """Write items, all or none."""
        mode = validation.check_mode(mode)
        op = random.getrandbits(63)  # marks these rows, to find them if the commit's answer is lost

        def work(connection: sa.Connection, collection: Collection) -> tuple[Collection, Written]:
            rows = validation.check_items(items, collection.dim, collection.metric, self.limits)
            return collection, sql_rows.write(connection, collection, rows, mode, op)

        def landed(connection: sa.Connection, collection: Collection) -> bool:
            return sql_rows.written(connection, collection, [item.id for item in items], op)

        collection, done = self._write(name, work, landed)
        self.indexer.grown(collection, done.inserted)
        return done

    def delete(self, name: str, ids: Sequence[str] | None = None, filter: object = None) -> int:
        """Delete by ids or by filter."""
        if (ids is None) == (filter is None):
            raise Invalid("give either ids or a filter to delete by")
        if ids is None:
            where = Where(parse(filter))
        else:
            where = sql_rows.any_of(validation.check_ids(ids, self.limits))
        return self._write(
            name,
            lambda c, collection: sql_rows.delete(c, collection, where),
            lambda c, collection: not sql_rows.count(c, collection, where),
        )

    # -- reading ---------------------------------------------------------------------------------

    def get(self, name: str, ids: Sequence[str], include: Sequence[Part] = PARTS) -> list[Record]:
        """Return the records of `ids` that exist, in the order asked."""
        parts, wanted = validation.check_parts(include), validation.check_ids(ids, self.limits)
        return self._look(name, lambda c, collection: sql_rows.get(c, collection, wanted, parts))

    def search(
        self,
        name: str,
        vectors: npt.ArrayLike,
        k: int = 10,
        *,
        filter: object = None,
        min_score: float | None = None,
        offset: int = 0,
        exact: bool = False,
        include: Sequence[Part] = DEFAULT_PARTS,
    ) -> Found:
        """Return the best records for each of `vectors`."""
        parts, tree = validation.check_parts(include), parse(filter)
        k, offset = validation.check_window(k, offset, min_score, self.limits)

        def work(connection: sa.Connection, collection: Collection) -> Found:
            queries = validation.check_queries(
                vectors, collection.dim, collection.metric, self.limits
            )
            ask = sql_rows.Ask(offset + k, tree, parts, self.shards, exact)
            found = sql_rows.search(connection, collection, queries, ask)
            hits = [
                [hit for hit in best[offset:] if min_score is None or hit.score >= min_score]
                for best in found
            ]
            return Found(hits, exact or not collection.indexed)

        return self._look(name, work)

    def scroll(
        self,
        name: str,
        cursor: str | None = None,
        limit: int = 100,
        filter: object = None,
        include: Sequence[Part] = PARTS,
    ) -> Page:
        """Return the next `limit` records by id, after `cursor`."""
        parts, where = validation.check_parts(include), Where(parse(filter))
        cursor, limit = validation.check_page(cursor, limit, self.limits)

        def work(connection: sa.Connection, collection: Collection) -> Page:
            rows = sql_rows.page(connection, collection, cursor, limit + 1, where, parts)
            return Page(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)

        return self._look(name, work)

    def count(self, name: str, filter: object = None) -> int:
        """Return how many records match."""
        where = Where(parse(filter))
        return self._look(name, lambda c, collection: sql_rows.count(c, collection, where))

    # -- keeping ---------------------------------------------------------------------------------

    def backup(self, name: str, to: Path) -> BackupInfo:
        """Write a consistent copy into the new folder `to`."""
        return sql_keep.backup(self.db, name, to)

    def restore(
        self, source: Path, name: str | None = None, progress: Progress | None = None
    ) -> CollectionInfo:
        """Make a new collection from a backup."""
        return sql_keep.restore(self, source, name, progress)

    def verify(self, name: str, progress: Progress | None = None) -> Report:
        """Read everything that is stored of a collection, and check its indexes."""
        return sql_keep.verify(self.db, name)

    def compact(self, name: str, progress: Progress | None = None) -> Report:
        """Give back the space of dead rows, and build the search index if it is due."""
        collection = self._look(name, lambda _, found: found)
        freed = sql_keep.vacuum(self.db, collection)
        self.indexer.build(collection)
        return Report(True, self.count(name), freed_bytes=freed)

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Return figures for operators."""
        if name is None:
            return {**self._read(sql_keep.store_stats), "pool": self.db.engine.pool.status()}
        return self._look(name, sql_keep.stats)

    def close(self) -> None:
        """Wait for an index that is being built, then close the connections."""
        self.indexer.close()
        self.db.close()

    # -- transactions ----------------------------------------------------------------------------

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        return self.db.read(work)

    def _look(self, name: str, work: Callable[[sa.Connection, Collection], T]) -> T:
        """Read from the collection that a name means."""
        return self._read(lambda c: work(c, sql_names.resolve(c, name)))

    def _change(
        self,
        work: Callable[[sa.Connection], T],
        landed: Callable[[sa.Connection], bool] = lambda _: False,
    ) -> T:
        """Change names. Without `landed` the change may be made twice to the same effect."""

        def settled(connection: sa.Connection) -> bool:
            lock_catalogue(connection)  # the change itself may still be under way
            return landed(connection)

        return self.db.write(work, settled)

    def _write(
        self,
        name: str,
        work: Callable[[sa.Connection, Collection], T],
        landed: Callable[[sa.Connection, Collection], bool],
    ) -> T:
        """Write to the collection that a name means, still means when all is written."""

        def attempt(connection: sa.Connection) -> T:
            collection = sql_names.resolve(connection, name, writing=True)
            done = work(connection, collection)
            if sql_names.meant(connection, name) != collection.uuid:
                raise Again
            return done

        def settled(connection: sa.Connection) -> bool:
            collection = sql_names.resolve(connection, name)
            sql_names.wait_for_writers(connection, collection)  # ours may still be under way
            return landed(connection, collection)

        return self.db.write(attempt, settled)
