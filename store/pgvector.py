"""PostgresStore: the vector store in PostgreSQL with pgvector, on one machine or sharded by Citus.

Any number of services may share it. `store/base.py` says what it promises, `docs/scale.md` what was
tested of it. Here each operation is put into one transaction: rows are in `pg_rows`, tables in
`pg_schema`.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt
import sqlalchemy as sa

from errors import Invalid
from sql.database import Again, Database, PoolOptions
from store import pg_maintenance, pg_rows, validation
from store.base import (
    DEFAULT_PARTS,
    PARTS,
    BackupInfo,
    CollectionInfo,
    Found,
    Item,
    Mode,
    Page,
    Part,
    Progress,
    Record,
    Report,
    Written,
)
from store.budget import UNBOUNDED, Budget
from store.catalog import Catalog, schema
from store.catalog_store import CatalogStore
from store.filters import parse
from store.keyvalue import KeyValue
from store.pg_filter import Where
from store.pg_index import Indexer
from store.pg_nodes import prepared, wait_for_prepared
from store.pg_schema import READY, WRITING, Collection, Tables
from store.validation import Limits

T = TypeVar("T")

# A search or a large write may take long; a lock is waited for as long as a statement.
POOL = PoolOptions(
    pool_timeout_s=5.0, connect_timeout_s=5, ping_s=3.0, patience_s=30.0, lock_timeout_s=None
)


class PostgresStore(CatalogStore):
    """Collections in PostgreSQL. `shards` from 2 on spreads new ones over Citus workers."""

    def __init__(
        self, url: str, *, limits: Limits | None = None, shards: int = 0,
        index_from_rows: int = 10_000, max_collections: int | None = None, pool: PoolOptions = POOL,
    ) -> None:  # fmt: skip
        self.limits = limits or Limits()
        name = "the store's database"
        self.db = Database(url, schema(_add_pgvector), pool, name, probe=prepared)
        self.catalog = Catalog(self.db, Tables(shards), max_collections)
        self.notes = KeyValue(self.db)
        self.indexer = Indexer(self.db, index_from_rows)

    @property
    def problem(self) -> str | None:
        """Why the database cannot be used, from the call that found it to the next answer."""
        return self.db.problem

    # -- writing ---------------------------------------------------------------------------------

    def upsert(
        self, name: str, items: Sequence[Item], mode: Mode = "upsert", uuid: str | None = None
    ) -> Written:
        """Write items, all or none."""
        mode = validation.check_mode(mode)
        op = random.getrandbits(63)  # marks these rows: was a commit whose answer was lost done?

        def work(connection: sa.Connection, collection: Collection) -> tuple[Collection, Written]:
            validation.check_uuid(collection.uuid, uuid, name)
            rows = validation.check_items(items, collection.dim, collection.metric, self.limits)
            return collection, pg_rows.write(connection, collection, rows, mode, op)

        def landed(connection: sa.Connection, collection: Collection) -> bool:
            where = pg_rows.any_of([item.id for item in items])
            where.sql += f" AND op = {op}"
            return pg_rows.count(connection, collection, where) > 0

        collection, done = self._write(name, work, landed)
        self.indexer.grown(collection, done.inserted)
        return done

    def delete(
        self, name: str, ids: Sequence[str] | None = None, filter: object = None,
        budget: Budget = UNBOUNDED,
    ) -> int:  # fmt: skip
        """Delete by ids or by filter."""
        if (ids is None) == (filter is None):
            raise Invalid("give either ids or a filter to delete by")
        if ids is None:
            where = Where(parse(filter))
        else:
            where = pg_rows.any_of(validation.check_ids(ids, self.limits))
        return self._write(
            name,
            lambda c, collection: pg_rows.delete(c, collection, where),
            lambda c, collection: not pg_rows.count(c, collection, where),
            budget,
        )

    # -- reading ---------------------------------------------------------------------------------

    def get(
        self, name: str, ids: Sequence[str], include: Sequence[Part] = PARTS,
        budget: Budget = UNBOUNDED,
    ) -> list[Record]:  # fmt: skip
        """Return the records of `ids` that exist, each once, in the order of `ids`."""
        parts = validation.check_parts(include)
        wanted = list(dict.fromkeys(validation.check_ids(ids, self.limits)))
        return self._look(
            name, lambda c, collection: pg_rows.get(c, collection, wanted, parts, budget), budget
        )

    def search(
        self, name: str, vectors: npt.ArrayLike, k: int = 10, *, filter: object = None,
        min_score: float | None = None, exact: bool = False, without: str | None = None,
        offset: int = 0, include: Sequence[Part] = DEFAULT_PARTS, budget: Budget = UNBOUNDED,
    ) -> Found:  # fmt: skip
        """Return the best records for each of `vectors`."""
        parts, tree = validation.check_parts(include), parse(filter)
        k, offset = validation.check_window(k, offset, min_score, self.limits)

        def work(connection: sa.Connection, collection: Collection) -> Found:
            queries = validation.check_queries(
                vectors, collection.dim, collection.metric, self.limits
            )
            validation.check_reads(len(queries), k, offset, self.limits)
            where = Where(tree)
            if without is not None:
                where.sql = f"({where.sql} AND id <> :without)"
                where.values["without"] = without
            ask = pg_rows.Query(k, offset, where, parts, exact, min_score, budget)
            hits = pg_rows.search(connection, collection, queries, ask)
            return Found(hits, exact or not collection.ready)

        return self._look(name, work, budget)

    def scroll(
        self, name: str, cursor: str | None = None, limit: int = 100, filter: object = None,
        include: Sequence[Part] = PARTS, budget: Budget = UNBOUNDED,
    ) -> Page:  # fmt: skip
        """Return the next `limit` records by id, after `cursor`."""
        parts, where = validation.check_parts(include), Where(parse(filter))
        cursor, limit = validation.check_page(cursor, limit, self.limits)

        def work(connection: sa.Connection, collection: Collection) -> Page:
            rows = pg_rows.page(connection, collection, cursor, limit + 1, where, parts)
            found: list[Record] = []
            with closing(rows):
                for record in rows:
                    if len(found) == limit or (not budget.fits(record) and found):
                        return Page(found, found[-1].id)
                    found.append(record)
            return Page(found, None)

        return self._look(name, work, budget)

    def count(self, name: str, filter: object = None, budget: Budget = UNBOUNDED) -> int:
        """Return how many records match."""
        where = Where(parse(filter))
        return self._look(name, lambda c, found: pg_rows.count(c, found, where), budget)

    def sample(
        self, name: str, most: int, budget: Budget = UNBOUNDED, filter: object = None
    ) -> list[str]:
        """Return up to `most` ids that match: a random choice that stays while the rows do."""
        where = Where(parse(filter))

        def work(connection: sa.Connection, collection: Collection) -> list[str]:
            order = "ORDER BY hashtextextended(id, 0), id LIMIT :most"
            query = sa.text(f"SELECT id FROM {collection.table} WHERE {where.sql} {order}")
            return sorted(connection.scalars(query, {"most": most, **where.values}))

        return self._look(name, work, budget)

    def version(self, name: str, budget: Budget = UNBOUNDED) -> str:
        """Return a text that changes with every write: each marks its rows by another number."""

        def work(connection: sa.Connection, collection: Collection) -> str:
            query = sa.text(f"SELECT count(*), COALESCE(sum(op), 0) FROM {collection.table}")
            rows, marks = connection.execute(query).one()
            return f"{collection.uuid} {rows} {marks}"

        return self._look(name, work, budget)

    # -- keeping ---------------------------------------------------------------------------------

    def wait_for_writers(self, name: str) -> None:
        """Return once every write that began before has ended, on every node of Citus."""
        super().wait_for_writers(name)
        self.db.read(wait_for_prepared)

    def backup(self, name: str, to: Path) -> BackupInfo:
        """Write a consistent copy into the new folder `to`."""
        return pg_maintenance.backup(self.db, lambda c: self._resolve(c, name), to)

    def restore(
        self, source: Path, name: str | None = None, progress: Progress | None = None
    ) -> CollectionInfo:
        """Make a new collection from a backup."""
        return pg_maintenance.restore(self, source, name, progress)

    def verify(self, name: str, progress: Progress | None = None) -> Report:
        """Read everything that is stored of a collection, and check its indexes."""
        return pg_maintenance.verify(self.db, lambda c: self._resolve(c, name))

    def compact(self, name: str, progress: Progress | None = None) -> Report:
        """Give back the space of dead rows, and build the search index if it is due."""
        collection = self._look(name, lambda _, found: found)
        freed = pg_maintenance.vacuum(self.db, collection)
        self.indexer.build(collection)
        return Report(True, self.count(name), freed_bytes=freed)

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Return figures for operators."""
        if name is None:
            figures = self.db.read(pg_maintenance.store_stats)
            return figures | {"pool": self.db.engine.pool.status()}
        return self._look(name, pg_maintenance.stats)

    def close(self) -> None:
        """Wait for an index that is being built, then close the connections."""
        self.indexer.close()
        self.db.close()

    # -- transactions ----------------------------------------------------------------------------

    def _resolve(
        self, connection: sa.Connection, name: str, *, writing: bool = False
    ) -> Collection:
        """Return what a name or alias means; a writer keeps that from changing until it commits."""
        columns = (WRITING, READY) if writing else (READY,)
        entry, found = self.catalog.find_with(connection, name, *columns)
        return Collection.of(entry, ready=bool(found[-1]))

    def _look(
        self, name: str, work: Callable[[sa.Connection, Collection], T], budget: Budget = UNBOUNDED
    ) -> T:
        """Read from the collection that a name means."""
        left = budget.left

        def attempt(connection: sa.Connection) -> T:
            budget.left = left  # what an attempt that failed has read is read again
            return work(connection, self._resolve(connection, name))

        return self.db.read(attempt, budget)

    def _write(
        self,
        name: str,
        work: Callable[[sa.Connection, Collection], T],
        landed: Callable[[sa.Connection, Collection], bool],
        budget: Budget = UNBOUNDED,
    ) -> T:
        """Write to the collection that a name means, and still means when all is written."""

        def attempt(connection: sa.Connection) -> T:
            collection = self._resolve(connection, name, writing=True)
            done = work(connection, collection)
            now, replaced = self.catalog.meaning(connection, name)
            if now != collection.uuid:
                raise Again
            if replaced:
                raise validation.being_replaced()
            return done

        def settled(connection: sa.Connection) -> bool:
            collection = self._resolve(connection, name)
            with self.catalog.rows.without_writers(connection, collection):  # ours may go on
                wait_for_prepared(connection)
                return landed(connection, collection)

        return self.db.write(attempt, settled, budget)


def _add_pgvector(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
