"""The catalogue: which collections there are, under which names and aliases.

Changes of names take turns. One that sends a name elsewhere first waits for the writes under way in
the collections concerned; a writer says that it is there (`resolve(..., writing=True)`) and looks
again before it commits (`meant`). So no write is ever acknowledged into a collection that its name
no longer means.
"""

import time
import uuid
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from errors import Conflict, NotFound
from store.base import SUCCESSOR, CollectionInfo, IfExists, Metric
from store.pg_schema import Collection, create_rows, lock_catalogue
from store.validation import check_name, check_uuid
from store.values import brief

LOCK_TIMEOUT_S = 10  # a change of names gives up behind a longer write

_COLUMNS = "c.name, c.uuid, c.dim, c.metric, c.model, c.fingerprint, c.created, c.indexed"
_READY = (
    "COALESCE((SELECT indisvalid FROM pg_index"
    " WHERE indexrelid = to_regclass('emb_h_' || c.uuid)), FALSE) AS ready"
)
_MEANT = (
    " FROM emb_collections c"
    " WHERE c.name = COALESCE((SELECT target FROM emb_aliases WHERE name = :name), :name)"
)
_RESOLVE = sa.text(f"SELECT {_COLUMNS}, {_READY} {_MEANT}")
_MEANING = sa.text(
    "SELECT c.uuid, EXISTS (SELECT 1 FROM emb_collections next"
    f" WHERE next.name = '{SUCCESSOR}' || c.uuid) {_MEANT}"
)
_WRITERS = 0x656D6277  # "embw", with the collection's hash: shared by writers, else exclusive
_RESOLVE_TO_WRITE = sa.text(
    f"SELECT {_COLUMNS}, {_READY},"
    f" CAST(pg_advisory_xact_lock_shared({_WRITERS}, hashtext(c.uuid)) AS text) AS held {_MEANT}"
)
_STOP_INDEXING = sa.text(  # or the drop would wait for the index to be finished
    "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index"
    " WHERE relid = to_regclass(:table)"
)


def resolve(connection: sa.Connection, name: str, writing: bool = False) -> Collection:
    """Return the collection that a name or alias means. Raises NotFound."""
    query = _RESOLVE_TO_WRITE if writing else _RESOLVE
    row = connection.execute(query, {"name": check_name(name)}).mappings().first()
    if row is None:
        raise NotFound(f"no collection {name!r}", param="name")
    return _recorded(**{key: value for key, value in row.items() if key != "held"})


def meant(connection: sa.Connection, name: str) -> str | None:
    """Return the uuid of the collection that a name or alias means now, if any."""
    query = sa.text(f"SELECT c.uuid {_MEANT}")
    found = connection.scalar(query, {"name": check_name(name)})
    return None if found is None else str(found)


def meaning(connection: sa.Connection, name: str) -> tuple[str | None, bool]:
    """Return what a name means now, and whether what will replace that is being built."""
    row = connection.execute(_MEANING, {"name": check_name(name)}).first()
    return (None, False) if row is None else (str(row[0]), bool(row[1]))


def wait_for_writers(connection: sa.Connection, *collections: Collection) -> None:
    """Wait for the writes under way in these collections, and keep others out."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
    lock = sa.text(f"SELECT pg_advisory_xact_lock({_WRITERS}, hashtext(:uuid))")
    for collection in sorted(collections, key=lambda each: each.uuid):
        connection.execute(lock, {"uuid": collection.uuid})


def describe(connection: sa.Connection, collection: Collection) -> CollectionInfo:
    """Add what is counted to what is recorded."""
    facts = {key: value for key, value in asdict(collection).items() if key != "ready"}
    count = connection.scalar(sa.text(f"SELECT count(*) FROM {collection.table}"))
    return CollectionInfo(**facts, count=count or 0, aliases=_aliases(connection, collection.name))


def everything(connection: sa.Connection) -> list[Collection]:
    """Return every collection by name."""
    query = sa.text(f"SELECT {_COLUMNS}, {_READY} FROM emb_collections c ORDER BY c.name")
    return [_recorded(**row) for row in connection.execute(query).mappings()]


def create(
    connection: sa.Connection, wanted: Collection, if_exists: IfExists, shards: int
) -> tuple[Collection, bool]:
    """Make a collection and its table; also say whether it is new. Raises Conflict."""
    lock_catalogue(connection)
    if _is_alias(connection, wanted.name):
        raise Conflict(f"{wanted.name!r} is an alias", param="name")
    found = _collection(connection, wanted.name)
    if found is not None:
        if if_exists == "ok" and (found.uuid == wanted.uuid or _agree(found, wanted)):
            return found, False
        raise Conflict(_difference(found, wanted, if_exists), param="name")
    connection.execute(
        sa.text(
            "INSERT INTO emb_collections"
            " (name, uuid, dim, metric, model, fingerprint, created, indexed)"
            " VALUES (:name, :uuid, :dim, :metric, :model, :fingerprint, :created, :indexed)"
        ),
        asdict(wanted) | {"indexed": list(wanted.indexed)},
    )
    create_rows(connection, wanted, shards)
    return wanted, True


def new(
    name: str, dim: int, metric: Metric, model: str | None, fingerprint: str | None,
    indexed: tuple[str, ...],
) -> Collection:  # fmt: skip
    """Describe a collection that is to be made."""
    return Collection(name, uuid.uuid4().hex, dim, metric, model, fingerprint, time.time(), indexed)


def drop(connection: sa.Connection, name: str) -> None:
    """Delete a collection, its rows and the aliases that point at it."""
    found = _own(connection, name, "drop")
    wait_for_writers(connection, found)
    connection.execute(sa.text("DELETE FROM emb_aliases WHERE target = :n"), {"n": name})
    connection.execute(sa.text("DELETE FROM emb_collections WHERE name = :n"), {"n": name})
    connection.execute(_STOP_INDEXING, {"table": found.table})
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {found.table}")


def rename(connection: sa.Connection, name: str, new_name: str) -> None:
    """Give a collection another name; its aliases follow."""
    found = _own(connection, name, "rename")
    _refuse_taken(connection, new_name)
    wait_for_writers(connection, found)
    both = {"n": name, "new": new_name}
    connection.execute(sa.text("UPDATE emb_collections SET name = :new WHERE name = :n"), both)
    connection.execute(sa.text("UPDATE emb_aliases SET target = :new WHERE target = :n"), both)


def swap(connection: sa.Connection, name: str, other: str, uuid: str | None = None) -> None:
    """Exchange two names in one step. Raises Conflict if `name` is not `uuid`, where given."""
    one, two = _own(connection, name, "swap"), _own(connection, other, "swap")
    check_uuid(one.uuid, uuid, name)
    wait_for_writers(connection, one, two)
    rename_to = sa.text("UPDATE emb_collections SET name = :name WHERE uuid = :uuid")
    for target, collection in ((f"~{one.uuid}", one), (name, two), (other, one)):
        connection.execute(rename_to, {"name": target, "uuid": collection.uuid})


def alias(connection: sa.Connection, name: str, target: str) -> None:
    """Point an alias at a collection, wherever it pointed before."""
    lock_catalogue(connection)
    if _collection(connection, name) is not None:
        raise Conflict(f"{name!r} is a collection", param="alias")
    found = resolve(connection, target)
    if _is_alias(connection, name):
        wait_for_writers(connection, resolve(connection, name))
    connection.execute(
        sa.text(
            "INSERT INTO emb_aliases (name, target) VALUES (:name, :target)"
            " ON CONFLICT (name) DO UPDATE SET target = excluded.target"
        ),
        {"name": name, "target": found.name},
    )


def unalias(connection: sa.Connection, name: str) -> None:
    """Remove an alias."""
    lock_catalogue(connection)
    if not connection.execute(
        sa.text("DELETE FROM emb_aliases WHERE name = :n"), {"n": check_name(name, "alias")}
    ).rowcount:
        raise NotFound(f"no alias {name!r}", param="alias")


def stamp(connection: sa.Connection, name: str, model: str, fingerprint: str | None) -> Collection:
    """Record whose vectors a collection holds, or check that they are the same. Raises Conflict."""
    lock_catalogue(connection)
    found = resolve(connection, name)
    if found.model not in (None, model) or not _same(found.fingerprint, fingerprint):
        raise Conflict(
            f"collection {name!r} holds vectors of {found.model} ({found.fingerprint}), not of"
            f" {model} ({fingerprint}); embed with that model, use another collection, or reembed",
            param="model",
        )
    connection.execute(
        sa.text(
            "UPDATE emb_collections SET model = :model, fingerprint = COALESCE(fingerprint, :mark)"
            " WHERE uuid = :uuid"
        ),
        {"model": model, "mark": fingerprint, "uuid": found.uuid},
    )
    return resolve(connection, name)


# -- helpers ---------------------------------------------------------------------------------------


def _own(connection: sa.Connection, name: str, verb: str) -> Collection:
    """Return the collection of that very name. Raises Conflict for an alias, or NotFound."""
    check_name(name)
    lock_catalogue(connection)
    if _is_alias(connection, name):
        raise Conflict(f"{name!r} is an alias: {verb} its collection, or unalias it", param="name")
    found = _collection(connection, name)
    if found is None:
        raise NotFound(f"no collection {name!r}", param="name")
    return found


def _collection(connection: sa.Connection, name: str) -> Collection | None:
    query = sa.text(f"SELECT {_COLUMNS}, {_READY} FROM emb_collections c WHERE c.name = :n")
    row = connection.execute(query, {"n": name}).mappings().first()
    return _recorded(**row) if row else None


def _recorded(indexed: list[str], **facts: Any) -> Collection:
    """Return a row of the catalogue; the driver gives an array as a list."""
    return Collection(**facts, indexed=tuple(indexed))


def _is_alias(connection: sa.Connection, name: str) -> bool:
    query = sa.text("SELECT 1 FROM emb_aliases WHERE name = :n")
    return connection.scalar(query, {"n": name}) is not None


def _aliases(connection: sa.Connection, name: str) -> tuple[str, ...]:
    query = sa.text("SELECT name FROM emb_aliases WHERE target = :n ORDER BY name")
    return tuple(connection.scalars(query, {"n": name}))


def _refuse_taken(connection: sa.Connection, name: str) -> None:
    if _is_alias(connection, name) or _collection(connection, name) is not None:
        raise Conflict(f"{name!r} exists already", param="name")


def _agree(found: Collection, wanted: Collection) -> bool:
    return (
        (found.dim, found.metric) == (wanted.dim, wanted.metric)
        and _same(found.model, wanted.model)
        and _same(found.fingerprint, wanted.fingerprint)
        and (not wanted.indexed or set(found.indexed) == set(wanted.indexed))
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two values agree where both are known."""
    return one is None or other is None or one == other


def _difference(found: Collection, wanted: Collection, if_exists: IfExists) -> str:
    if if_exists == "error":
        return f"collection {wanted.name!r} exists already"
    facts = f"dim {found.dim}, {found.metric}, model {found.model} ({found.fingerprint})"
    known = f"indexed fields {brief(list(found.indexed))}"
    return f"collection {wanted.name!r} exists already, with {facts}, {known}"
