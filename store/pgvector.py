"""SqlStore: the vector store in PostgreSQL with pgvector, on one machine or sharded by Citus.

Any number of services may share it. What it promises stands in `store/base.py`; what was tested of
it, and what was not, in `docs/scale.md`. Here each operation is put into one transaction; names
are in `sql_names`, rows in `sql_rows`, tables in `sql_schema`, the server's moods in `sql_engine`.
"""

import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy.typing as npt
import sqlalchemy as sa

from errors import Invalid
from store import pg_maintenance, pg_rows, sql_names, validation
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
from store.filters import parse
from store.pg_filter import Where
from store.pg_index import Indexer
from store.pg_schema import Collection
from store.sql_catalogue import SqlNames
from store.validation import Limits


class SqlStore(SqlNames):
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
        super().__init__(url, limits=limits, shards=shards, **pool)
        self.indexer = Indexer(self.db, index_from_rows)

    # -- writing ---------------------------------------------------------------------------------

    def upsert(
        self, name: str, items: Sequence[Item], mode: Mode = "upsert", uuid: str | None = None
    ) -> Written:
        """Write items, all or none."""
        mode = validation.check_mode(mode)
        op = random.getrandbits(63)  # marks these rows, to find them if the commit's answer is lost

        def work(connection: sa.Connection, collection: Collection) -> tuple[Collection, Written]:
            validation.check_uuid(collection.uuid, uuid, name)
            rows = validation.check_items(items, collection.dim, collection.metric, self.limits)
            return collection, pg_rows.write(connection, collection, rows, mode, op)

        def landed(connection: sa.Connection, collection: Collection) -> bool:
            return pg_rows.written(connection, collection, [item.id for item in items], op)

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

    def wait_for_writers(self, name: str) -> None:
        """Return once every write that began before has ended."""
        self._look(name, sql_names.wait_for_writers)

    # -- reading ---------------------------------------------------------------------------------

    def get(
        self, name: str, ids: Sequence[str], include: Sequence[Part] = PARTS,
        budget: Budget = UNBOUNDED,
    ) -> list[Record]:  # fmt: skip
        """Return the records of `ids` that exist, each once, in the order asked."""
        parts = validation.check_parts(include)
        wanted = list(dict.fromkeys(validation.check_ids(ids, self.limits)))
        return self._look(
            name, lambda c, collection: pg_rows.get(c, collection, wanted, parts, budget), budget
        )

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
        without: str | None = None,
        budget: Budget = UNBOUNDED,
    ) -> Found:
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
            ask = pg_rows.Ask(k, offset, where, parts, self.shards, exact, min_score, budget)
            hits = pg_rows.search(connection, collection, queries, ask)
            return Found(hits, exact or not collection.ready)

        return self._look(name, work, budget)

    def scroll(
        self,
        name: str,
        cursor: str | None = None,
        limit: int = 100,
        filter: object = None,
        include: Sequence[Part] = PARTS,
        budget: Budget = UNBOUNDED,
    ) -> Page:
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

    def sample(self, name: str, most: int, budget: Budget = UNBOUNDED) -> list[str]:
        """Return up to `most` ids, in order: a random choice that stays while the rows do."""
        return self._look(name, lambda c, found: pg_rows.sample(c, found, most), budget)

    # -- keeping ---------------------------------------------------------------------------------

    def backup(self, name: str, to: Path) -> BackupInfo:
        """Write a consistent copy into the new folder `to`."""
        return pg_maintenance.backup(self.db, name, to)

    def restore(
        self, source: Path, name: str | None = None, progress: Progress | None = None
    ) -> CollectionInfo:
        """Make a new collection from a backup."""
        return pg_maintenance.restore(self, source, name, progress)

    def verify(self, name: str, progress: Progress | None = None) -> Report:
        """Read everything that is stored of a collection, and check its indexes."""
        return pg_maintenance.verify(self.db, name)

    def compact(self, name: str, progress: Progress | None = None) -> Report:
        """Give back the space of dead rows, and build the search index if it is due."""
        collection = self._look(name, lambda _, found: found)
        freed = pg_maintenance.vacuum(self.db, collection)
        self.indexer.build(collection)
        return Report(True, self.count(name), freed_bytes=freed)

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Return figures for operators."""
        if name is None:
            return {**self._read(pg_maintenance.store_stats), "pool": self.db.engine.pool.status()}
        return self._look(name, pg_maintenance.stats)

    def close(self) -> None:
        """Wait for an index that is being built, then close the connections."""
        self.indexer.close()
        self.db.close()
