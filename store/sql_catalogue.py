"""The names of a PostgreSQL store: making, finding, renaming and dropping its collections.

`SqlStore` builds on it and adds what is done with the rows. Here each change of a name is put into
one transaction; the statements are in `sql_names`.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from store import sql_names, validation
from store.base import CollectionInfo, Identity, IfExists, Metric, VectorStore
from store.budget import UNBOUNDED, Budget
from store.pg_schema import Collection, lock_catalogue, prepare
from store.sql_engine import Again, Database
from store.sql_notes import SqlNotes
from store.validation import Limits

T = TypeVar("T")


class SqlNames(VectorStore):
    """The half of a PostgreSQL store that knows names. `shards` are those of new collections."""

    def __init__(self, url: str, *, limits: Limits | None, shards: int, **pool: Any) -> None:
        self.limits = limits or Limits()
        self.shards = shards
        self.db = Database(url, prepare, **pool)
        self.notes = SqlNotes(self.db)

    @property
    def problem(self) -> str | None:
        """Why the database cannot be used, since a call has found so until it answers again."""
        return self.db.guard.problem

    # -- collections -----------------------------------------------------------------------------

    def create(
        self,
        name: str,
        dim: int,
        metric: Metric = "cosine",
        model: str | None = None,
        fingerprint: str | None = None,
        if_exists: IfExists = "error",
        indexed: Sequence[str] = (),
    ) -> tuple[CollectionInfo, bool]:
        """Make an empty collection with a table of its own."""
        wanted = sql_names.new(
            validation.check_name(name),
            validation.check_dim(dim),
            validation.check_metric(metric),
            model,
            fingerprint,
            validation.check_indexed(indexed),
        )

        def work(connection: sa.Connection) -> tuple[CollectionInfo, bool]:
            made, is_new = sql_names.create(connection, wanted, if_exists, self.shards)
            return sql_names.describe(connection, made), is_new

        return self._change(work, lambda c: sql_names.meant(c, name) == wanted.uuid)

    def collections(self) -> list[CollectionInfo]:
        """Return every collection, by name."""
        return self._read(lambda c: [sql_names.describe(c, x) for x in sql_names.everything(c)])

    def names(self) -> list[str]:
        """Return every collection's name, in order."""
        return self._read(lambda c: [found.name for found in sql_names.everything(c)])

    def identity(self, name: str) -> Identity:
        """Return which collection a name or alias means."""
        found = self._read(lambda c: sql_names.resolve(c, name))
        return Identity(
            found.name, found.uuid, found.dim, found.metric, found.model, found.fingerprint
        )

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

    def swap(self, name: str, other: str, uuid: str | None = None) -> None:
        """Exchange the names of two collections."""
        before = self._read(lambda c: sql_names.meant(c, name))
        self._change(
            lambda c: sql_names.swap(c, name, other, uuid),
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

    # -- transactions ----------------------------------------------------------------------------

    def _read(self, work: Callable[[sa.Connection], T], budget: Budget = UNBOUNDED) -> T:
        return self.db.read(work, budget)

    def _look(
        self, name: str, work: Callable[[sa.Connection, Collection], T], budget: Budget = UNBOUNDED
    ) -> T:
        """Read from the collection that a name means."""
        return self._read(lambda c: work(c, sql_names.resolve(c, name)), budget)

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
        budget: Budget = UNBOUNDED,
    ) -> T:
        """Write to the collection that a name means, still means when all is written."""

        def attempt(connection: sa.Connection) -> T:
            collection = sql_names.resolve(connection, name, writing=True)
            done = work(connection, collection)
            now, replaced = sql_names.meaning(connection, name)
            if now != collection.uuid:
                raise Again
            if replaced:
                raise validation.being_replaced()
            return done

        def settled(connection: sa.Connection) -> bool:
            collection = sql_names.resolve(connection, name)
            sql_names.wait_for_writers(connection, collection)  # ours may still be under way
            return landed(connection, collection)

        return self.db.write(attempt, settled, budget)
