"""Storage of changed settings in SQL: in the service's database, or in the memory of this process.

Every change has the next version number, and only one of two writers gets it. Values are JSON text
here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from errors import Conflict
from sql.database import Database, Schema
from sql.errors import Violation
from sql.tables import HISTORY, SERVICE, SETTINGS

# None means not set: the value of the environment or the default.
Changes = Mapping[str, tuple[str | None, str | None]]  # key: JSON before, JSON after
_VERSION = sa.select(sa.func.coalesce(sa.func.max(HISTORY.c.version), 0))


@dataclass(frozen=True)
class Change:
    """One entry of the history: the version it made, when, by whom, and what changed."""

    version: int
    at: str  # ISO 8601, UTC
    who: str
    action: str
    changes: Changes


class Storage:
    """Stores settings for every worker and the next start, or without a database in this process.

    Every method may raise Unavailable.
    """

    def __init__(self, database: Database | None = None) -> None:
        self.persistent = database is not None
        in_memory = Schema(lambda _: False, SERVICE.create_all)
        self._database = database or Database("sqlite://", in_memory)

    def version(self) -> int:
        """Return the version of the last change."""
        return int(self._database.read(lambda c: c.scalar(_VERSION)) or 0)

    def read(self) -> tuple[int, dict[str, str]]:
        """Return the version of the last change, and all values as of that one or a later one."""

        def work(connection: sa.Connection) -> tuple[int, dict[str, str]]:
            # The version first: a change that is made in between is read again at the next look.
            version = int(connection.scalar(_VERSION) or 0)
            rows = connection.execute(sa.select(SETTINGS.c.key, SETTINGS.c.value))
            return version, {row.key: row.value for row in rows}

        return self._database.read(work)

    def write(self, after: int, changes: Changes, who: str, action: str) -> None:
        """Store changes as version `after + 1`. Raises Conflict if it exists.

        The version is a primary key: the database accepts one of two writers.
        """
        entry = {
            "version": after + 1,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "who": who[:190],
            "action": action,
            "changes": json.dumps(changes),
        }

        def work(connection: sa.Connection) -> None:
            connection.execute(HISTORY.insert().values(entry))
            connection.execute(SETTINGS.delete().where(SETTINGS.c.key.in_(changes)))
            rows = [{"key": k, "value": new} for k, (_, new) in changes.items() if new is not None]
            if rows:
                connection.execute(SETTINGS.insert(), rows)

        def landed(connection: sa.Connection) -> bool:
            query = sa.select(HISTORY).where(HISTORY.c.version == after + 1)
            row = connection.execute(query).first()
            return row is not None and dict(row._mapping) == entry

        try:
            self._database.write(work, landed)
        except Violation:
            raise Conflict(
                "the settings were changed meanwhile; read them and send this again"
            ) from None

    def history(self, limit: int, after: int = 0) -> list[Change]:
        """Return the newest changes with a version above `after`, newest first."""
        query = sa.select(HISTORY).where(HISTORY.c.version > after)
        query = query.order_by(HISTORY.c.version.desc()).limit(limit)
        return self._database.read(lambda c: [_change(row) for row in c.execute(query)])

    def close(self) -> None:
        """Close the connections."""
        self._database.close()


def _change(row: Any) -> Change:
    changes = {key: (old, new) for key, (old, new) in json.loads(row.changes).items()}
    return Change(row.version, row.at, row.who, row.action, changes)
