"""Notes in PostgreSQL: a table of texts, claimed by advisory locks.

A claim is held by a connection of its own, so that the server lets go when its holder dies. A
failover lets go too while the holder lives: what is done under a claim must bear being done twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from store.keyvalue import check_key
from store.sql_engine import Database

_CLAIMS = 0x656D626A  # "embj", with the key's hash
_PUT = sa.text(
    "INSERT INTO emb_notes (key, body) VALUES (:key, :body)"
    " ON CONFLICT (key) DO UPDATE SET body = excluded.body"
)
_GET = sa.text("SELECT body FROM emb_notes WHERE key = :key")
_ALL = sa.text("SELECT body FROM emb_notes ORDER BY key")
_REMOVE = sa.text("DELETE FROM emb_notes WHERE key = :key")
_CLAIM = sa.text(f"SELECT pg_try_advisory_lock({_CLAIMS}, hashtext(:key))")
_RELEASE = sa.text(f"SELECT pg_advisory_unlock({_CLAIMS}, hashtext(:key))")


class SqlNotes:
    """Notes that every copy of the service sees."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, key: str, text: str) -> None:
        """Write a text, over the one that is there."""
        self._change(_PUT, {"key": check_key(key), "body": text})

    def get(self, key: str) -> str | None:
        """Return the text of a key, if there is one."""
        body = self._db.read(lambda c: c.scalar(_GET, {"key": check_key(key)}))
        return None if body is None else str(body)

    def all(self) -> list[str]:
        """Return every text."""
        return self._db.read(lambda c: [str(body) for body in c.scalars(_ALL)])

    def remove(self, key: str) -> None:
        """Forget a key, if it is there."""
        self._change(_REMOVE, {"key": check_key(key)})

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Hold a key against every other process, for as long as the connection lasts."""
        with self._db.upkeep() as connection:
            mine = bool(connection.scalar(_CLAIM, {"key": check_key(key)}))
            try:
                yield mine
            finally:  # at once: the server notices some time later that a connection was closed
                if mine:
                    with suppress(SQLAlchemyError):
                        connection.scalar(_RELEASE, {"key": key})

    def _change(self, statement: sa.TextClause, values: dict[str, str]) -> None:
        """Make a change that may be made twice to the same effect."""

        def work(connection: sa.Connection) -> None:
            connection.execute(statement, values)

        self._db.write(work, lambda _: False)
