"""Names of collections, aliases, models and declared fields: one catalogue in SQL for both stores.

A change of names is one transaction. One that sends a name elsewhere waits for the writers of the
collections and keeps others out until it is committed; a writer looks its name up again before it
commits. So no write is acknowledged into a collection that its name no longer means.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any, TypeVar

import sqlalchemy as sa

from errors import Conflict, Corrupt, NotFound, ServiceError
from sql.database import Database, Schema
from sql.tables import ALIASES, CATALOG, COLLECTIONS
from store import validation
from store.base import SUCCESSOR, CollectionInfo, IfExists, Metric
from store.entry import Entry, Rows, agree, stamped

T = TypeVar("T")

TURN = 0x656D6264  # "embd": PostgreSQL's lock under which names change, one change at a time
LOOKS = 3  # at a collection that is being replaced
KNOWN_MOST = 50_000  # names that are remembered while a catalogue file is unchanged

_NAME = sa.bindparam("name", type_=sa.Text)
_TARGET = sa.select(ALIASES.c.target).where(ALIASES.c.name == _NAME).scalar_subquery()
_MEANT = COLLECTIONS.c.name == sa.func.coalesce(_TARGET, _NAME)
_NEXT = COLLECTIONS.alias("next")
_REPLACED = sa.exists().where(_NEXT.c.name == sa.literal(SUCCESSOR) + COLLECTIONS.c.uuid)
_FIND = sa.select(COLLECTIONS).where(_MEANT)
_MEANING = sa.select(COLLECTIONS.c.uuid, _REPLACED).where(_MEANT)
_OWN = sa.select(COLLECTIONS).where(COLLECTIONS.c.name == _NAME)
_NAMES = sa.select(COLLECTIONS.c.name).order_by(COLLECTIONS.c.name)
_IS_ALIAS = sa.select(ALIASES.c.name).where(ALIASES.c.name == _NAME)
_ALIASES = sa.select(ALIASES.c.target, ALIASES.c.name).order_by(ALIASES.c.name)


def schema(make: Callable[[sa.Connection], None] = lambda _: None) -> Schema:
    """Return the catalogue's tables, for a Database; `make` is what the store needs besides."""

    def work(connection: sa.Connection) -> None:
        make(connection)
        CATALOG.create_all(connection, checkfirst=True)

    return Schema(lambda c: sa.inspect(c).has_table(CATALOG.sorted_tables[-1].name), work)


class Catalog:
    """The names, shared by every process that uses the database. `most` collections at most."""

    def __init__(self, database: Database, rows: Rows, most: int | None = None) -> None:
        self.rows = rows
        self._database, self._most = database, most
        self._file = database.kind == "sqlite"
        # What was found in a file, good for one version of it.
        self._seen: tuple[object, dict[tuple[str, str], Any]] = (None, {})

    # -- finding ---------------------------------------------------------------------------------

    def look_up(self, name: str) -> Entry:
        """Return the collection that a name or alias means now. Raises NotFound."""
        key = "entry", validation.check_name(name)
        return _present(self._remembered(key, lambda c: self.find(c, name)), name)

    def recall(self, name: str) -> Entry:
        """Return what `look_up` found last, which may be out of date, or look it up."""
        return self._seen[1].get(("entry", name)) or self.look_up(name)

    def writable(self, name: str) -> tuple[str | None, bool]:
        """Return `meaning` as it is now, in one look: for the moment before a commit."""
        return self._remembered(("meaning", name), lambda c: self.meaning(c, name))

    def find(self, connection: sa.Connection, name: str) -> Entry | None:
        """Return the collection that a name or alias means, inside a transaction."""
        return _entry(connection.execute(_FIND, {"name": name}).mappings().first())

    def find_with(
        self, connection: sa.Connection, name: str, *columns: sa.ColumnElement[Any]
    ) -> tuple[Entry, Any]:
        """Return the same, and a row that ends with further columns. Raises NotFound."""
        row = connection.execute(
            _FIND.add_columns(*columns), {"name": validation.check_name(name)}
        ).first()
        return _present(_entry(row._mapping if row else None), name), row

    def meaning(self, connection: sa.Connection, name: str) -> tuple[str | None, bool]:
        """Return the uuid that a name means now, and whether its successor is being built."""
        row = connection.execute(_MEANING, {"name": name}).first()
        return (None, False) if row is None else (str(row[0]), bool(row[1]))

    def names(self) -> list[str]:
        """Return every collection's name, in order."""
        return self._database.read(lambda c: list(c.scalars(_NAMES)))

    def uuids(self) -> set[str]:
        """Return every collection's uuid."""
        return self._database.read(lambda c: set(c.scalars(sa.select(COLLECTIONS.c.uuid))))

    def collections(self) -> list[CollectionInfo]:
        """Return every collection, by name."""
        query = sa.select(COLLECTIONS).order_by(COLLECTIONS.c.name)
        return self._described(
            "", lambda c: [entry for row in c.execute(query).mappings() if (entry := _entry(row))]
        )

    def info(self, name: str) -> CollectionInfo:
        """Return what is known of one collection, its rows counted. Raises NotFound."""
        validation.check_name(name)
        for _ in range(LOOKS):  # it may go, and another take its name, before it is counted
            if found := self._described(name, lambda c: [_present(self.find(c, name), name)]):
                return found[0]
        raise NotFound(f"there is no collection {name!r}", param="name")

    # -- changing --------------------------------------------------------------------------------

    def create(
        self, name: str, dim: int, metric: Metric = "cosine", model: str | None = None,
        fingerprint: str | None = None, if_exists: IfExists = "error", indexed: Sequence[str] = (),
    ) -> tuple[CollectionInfo, bool]:  # fmt: skip
        """Make an empty collection; also return whether it is new. Raises Conflict."""
        wanted = Entry(
            validation.check_name(name),
            uuid.uuid4().hex,
            validation.check_dim(dim),
            validation.check_metric(metric),
            validation.check_label(model, "model"),
            validation.check_label(fingerprint, "fingerprint"),
            time.time(),
            validation.check_indexed(indexed),
        )

        def work(connection: sa.Connection, _: ExitStack) -> bool:
            there = self.find(connection, name) if if_exists == "ok" else None
            if there is not None:
                agree(there, wanted)
                return False
            self._insert(connection, wanted)
            self.rows.make(connection, wanted)
            return True

        try:
            made = self._change(work, lambda c, _: self._is_there(c, wanted))
        except BaseException:
            with suppress(ServiceError):
                if not self._database.read(lambda c: self._is_there(c, wanted)):
                    self.rows.removed(wanted)
            raise
        return self.info(name), made

    def add(self, entry: Entry) -> None:
        """Record a collection whose rows are there already. Raises Conflict."""
        self._change(lambda c, _: self._insert(c, entry), lambda c, _: self._is_there(c, entry))

    def free(self, name: str) -> None:
        """Raise Conflict if a name is taken."""
        self._database.read(lambda c: self._refuse_taken(c, name))

    def drop(self, name: str) -> None:
        """Delete a collection, its rows and the aliases that point at it."""

        def work(connection: sa.Connection, held: ExitStack) -> Entry:
            entry = self._own(connection, name)
            held.enter_context(self.rows.without_writers(connection, entry))
            connection.execute(sa.delete(ALIASES).where(ALIASES.c.target == name))
            connection.execute(sa.delete(COLLECTIONS).where(COLLECTIONS.c.name == name))
            self.rows.remove(connection, entry)
            return entry

        entry = self._change(work, lambda c, entry: not self._is_there(c, entry))
        self.rows.removed(entry)

    def rename(self, name: str, new_name: str) -> None:
        """Give a collection another name; aliases of the old name follow it."""
        validation.check_name(new_name)

        def work(connection: sa.Connection, held: ExitStack) -> Entry:
            entry = self._own(connection, name)
            if name != new_name:
                self._refuse_taken(connection, new_name)
                held.enter_context(self.rows.without_writers(connection, entry))
                self._name(connection, entry, new_name)
                follow = sa.update(ALIASES).where(ALIASES.c.target == name)
                connection.execute(follow.values(target=new_name))
            return entry

        self._change(work, lambda c, entry: self.meaning(c, new_name)[0] == entry.uuid)

    def swap(self, name: str, other: str, uuid: str | None = None) -> None:
        """Exchange the names of two collections. Raises Conflict unless `name` is `uuid`."""

        def work(connection: sa.Connection, held: ExitStack) -> Entry:
            one, two = self._own(connection, name), self._own(connection, other)
            validation.check_uuid(one.uuid, uuid, name)
            held.enter_context(self.rows.without_writers(connection, one, two))
            if one != two:  # no collection's name begins with ~
                for entry, new in ((one, f"~{one.uuid}"), (two, name), (one, other)):
                    self._name(connection, entry, new)
            return two

        self._change(work, lambda c, two: self.meaning(c, name)[0] == two.uuid)

    def alias(self, alias: str, name: str) -> None:
        """Point `alias` at a collection, at once if it pointed elsewhere."""
        validation.check_name(alias, "alias")
        validation.check_name(name)

        def work(connection: sa.Connection, held: ExitStack) -> None:
            target = _present(self.find(connection, name), name)
            if connection.execute(_OWN, {"name": alias}).first():
                raise Conflict(f"{alias!r} is the name of a collection", param="alias")
            before = self.find(connection, alias)
            if before is not None and before != target:
                held.enter_context(self.rows.without_writers(connection, before))
            connection.execute(sa.delete(ALIASES).where(ALIASES.c.name == alias))
            connection.execute(sa.insert(ALIASES).values(name=alias, target=target.name))

        self._change(work)

    def unalias(self, alias: str) -> None:
        """Remove an alias."""
        remove = sa.delete(ALIASES).where(ALIASES.c.name == validation.check_name(alias, "alias"))

        def work(connection: sa.Connection, _: ExitStack) -> None:
            if not connection.execute(remove).rowcount:
                raise NotFound(f"there is no alias {alias!r}", param="alias")

        self._change(work, lambda c, _: not self._is_alias(c, alias))

    def stamp(self, name: str, model: str, fingerprint: str | None) -> CollectionInfo:
        """Record whose vectors a collection holds. Raises Conflict if others are recorded."""
        validation.check_label(model, "model")
        validation.check_label(fingerprint, "fingerprint")
        known = self.look_up(name)
        if stamped(known, model, fingerprint) != known:

            def work(connection: sa.Connection, _: ExitStack) -> None:
                entry = _present(self.find(connection, name), name)
                now = stamped(entry, model, fingerprint)
                update = sa.update(COLLECTIONS).where(COLLECTIONS.c.uuid == entry.uuid)
                connection.execute(update.values(model=now.model, fingerprint=now.fingerprint))

            self._change(work)
        return self.info(name)

    def wait_for_writers(self, name: str) -> None:
        """Return once every write to a collection that began before has ended."""
        entry = self.look_up(name)
        with ExitStack() as held:
            self._database.read(lambda c: held.enter_context(self.rows.without_writers(c, entry)))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # -- helpers ---------------------------------------------------------------------------------

    def _remembered(self, key: tuple[str, str], work: Callable[[sa.Connection], T]) -> T:
        """Return what is found; a file is only asked again once it has changed."""
        version = self._database.version()
        if version is None:
            return self._database.read(work)
        seen = self._seen
        if seen[0] != version or len(seen[1]) > KNOWN_MOST:
            seen = self._seen = (version, {})
        if key not in seen[1]:  # what is read now is of this version or of a later one
            seen[1][key] = self._database.read(work)
        found: T = seen[1][key]
        return found

    def _described(
        self, name: str, pick: Callable[[sa.Connection], Sequence[Entry]]
    ) -> list[CollectionInfo]:
        """Return collections with their aliases and counts; those dropped meanwhile are left out.

        Rows in files are counted outside the transaction, for that opens other files. What `pick`
        finds in a file is remembered under `name`.
        """

        def count(connection: sa.Connection | None, entry: Entry) -> int | Corrupt | None:
            try:
                return self.rows.count(connection, entry)
            except ServiceError as exc:
                gone = isinstance(exc, NotFound)
                if connection is None and not (gone and name):
                    gone = not self._database.read(lambda c: self._is_there(c, entry))
                if gone:
                    return None
                if isinstance(exc, Corrupt | NotFound) and not name:  # it hides no other
                    lost = f"the files of {entry.name} are missing; restore a backup"
                    return exc if isinstance(exc, Corrupt) else Corrupt(lost)
                raise

        def work(connection: sa.Connection) -> list[tuple[Entry, list[str], int | Corrupt | None]]:
            entries, query, aliases = pick(connection), _ALIASES, dict[str, list[str]]()
            if len(entries) == 1:
                query = query.where(ALIASES.c.target == entries[0].name)
            for target, alias in connection.execute(query):
                aliases.setdefault(target, []).append(alias)
            counts = [None if self._file else count(connection, entry) for entry in entries]
            return [(e, aliases.get(e.name, []), n) for e, n in zip(entries, counts, strict=True)]

        found = self._remembered(("described", name), work)
        if self._file:
            found = [(entry, aliases, count(None, entry)) for entry, aliases, _ in found]
        return [
            CollectionInfo(**vars(entry), count=0, aliases=tuple(aliases), damage=rows.message)
            if isinstance(rows, Corrupt)
            else CollectionInfo(**vars(entry), count=rows, aliases=tuple(aliases))
            for entry, aliases, rows in found
            if rows is not None
        ]

    def _change(
        self,
        work: Callable[[sa.Connection, ExitStack], T],
        landed: Callable[[sa.Connection, T], bool] = lambda *_: False,
    ) -> T:
        """Change names in a transaction, one change at a time.

        What `work` enters into its stack is left once the transaction has ended. `landed` looks
        whether a change whose answer was lost took place; without it the change may be made twice
        to the same effect.
        """
        done: list[T] = []

        def turn(connection: sa.Connection) -> T:
            held.close()  # of an attempt that failed
            self._take_turn(connection)
            done[:] = [work(connection, held)]
            return done[0]

        def settled(connection: sa.Connection) -> bool:
            self._take_turn(connection)  # the change itself may still be under way
            return landed(connection, done[0])

        with ExitStack() as held:
            return self._database.write(turn, settled)

    def _take_turn(self, connection: sa.Connection) -> None:
        """Wait for other changes of names; SQLite's transactions do so by themselves."""
        if not self._file:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(TURN)))

    def _own(self, connection: sa.Connection, name: str) -> Entry:
        """Return the collection of exactly this name. Raises Conflict for an alias, or NotFound."""
        row = connection.execute(_OWN, {"name": validation.check_name(name)}).mappings().first()
        if row is None and self._is_alias(connection, name):
            raise Conflict(
                f"{name!r} is an alias: name the collection itself, or remove the alias",
                param="name",
            )
        return _present(_entry(row), name)

    def _insert(self, connection: sa.Connection, entry: Entry) -> None:
        self._refuse_taken(connection, entry.name)
        there = connection.scalar(sa.select(sa.func.count()).select_from(COLLECTIONS)) or 0
        if self._most is not None and there >= self._most:
            raise Conflict(
                f"there are {there:,} collections, and at most {self._most:,} are allowed"
                " (MAX_COLLECTIONS): drop some, or use fields and filters instead"
            )
        connection.execute(sa.insert(COLLECTIONS).values(**asdict(entry)))

    def _refuse_taken(self, connection: sa.Connection, name: str) -> None:
        if connection.execute(_OWN, {"name": name}).first():
            raise Conflict(f"collection {name!r} exists already", param="name")
        if self._is_alias(connection, name):
            raise Conflict(f"{name!r} is an alias already", param="name")

    @staticmethod
    def _name(connection: sa.Connection, entry: Entry, name: str) -> None:
        mine = COLLECTIONS.c.uuid == entry.uuid
        connection.execute(sa.update(COLLECTIONS).where(mine).values(name=name))

    @staticmethod
    def _is_alias(connection: sa.Connection, name: str) -> bool:
        return connection.execute(_IS_ALIAS, {"name": name}).first() is not None

    @staticmethod
    def _is_there(connection: sa.Connection, entry: Entry) -> bool:
        return bool(connection.scalar(sa.exists().where(COLLECTIONS.c.uuid == entry.uuid).select()))


def _entry(row: Any) -> Entry | None:
    """Return a row of the catalogue, which may have further columns."""
    if row is None:
        return None
    facts = {column.name: row[column.name] for column in COLLECTIONS.columns}
    return Entry(**facts | {"indexed": tuple(facts["indexed"])})


def _present(found: T | None, name: str) -> T:
    if found is None:
        raise NotFound(f"there is no collection {name!r}", param="name")
    return found
