"""Where changed settings are kept: in SQL, or in this process's memory.

Owns versions: every change is the next number, and only one of two writers gets it. Knows neither
what settings there are nor what their values mean: values are JSON text here.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from errors import Conflict
from sql.database import Database

# None stands for "not set": the environment's value, or the default.
Changes = Mapping[str, tuple[str | None, str | None]]  # key: JSON before, JSON after


@dataclass(frozen=True)
class Kept:
    """All kept values, as JSON text, and the number of the last change."""

    version: int = 0
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One entry of the history."""

    version: int
    at: str  # ISO 8601, UTC
    who: str
    action: str
    changes: Changes


class Keeper(Protocol):
    """What keeps settings. Every method may raise Unavailable."""

    persistent: bool

    def version(self) -> int:
        """Return the number of the last change."""

    def read(self) -> Kept:
        """Return everything, as of one moment."""

    def write(self, after: int, changes: Changes, who: str, action: str) -> None:
        """Store changes as version `after + 1`. Raises Conflict if another took that number."""

    def history(self, limit: int, after: int = 0) -> Sequence[Change]:
        """Return the newest changes with a version above `after`, newest first."""

    def close(self) -> None:
        """Let go of connections."""


def _taken() -> Conflict:
    return Conflict("the settings were changed by someone else meanwhile; look and send it again")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class MemoryKeeper:
    """Keeps settings for as long as this process lives."""

    persistent = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, str] = {}
        self._changes: list[Change] = []

    def version(self) -> int:
        """See `Keeper`."""
        return len(self._changes)

    def read(self) -> Kept:
        """See `Keeper`."""
        with self._lock:
            return Kept(len(self._changes), dict(self._values))

    def write(self, after: int, changes: Changes, who: str, action: str) -> None:
        """See `Keeper`."""
        with self._lock:
            if after != len(self._changes):
                raise _taken()
            for key, (_, new) in changes.items():
                self._values.pop(key, None)
                if new is not None:
                    self._values[key] = new
            self._changes.append(Change(after + 1, _now(), who, action, changes))

    def history(self, limit: int, after: int = 0) -> Sequence[Change]:
        """See `Keeper`."""
        return self._changes[after:][::-1][:limit]

    def close(self) -> None:
        """See `Keeper`."""


TABLES = sa.MetaData()
# MySQL and MariaDB fold case unless told: `A` and `a` would be one key.
_Name = sa.String(190).with_variant(sa.String(190, collation="utf8mb4_bin"), "mysql")

SETTINGS = sa.Table(
    "settings",
    TABLES,
    sa.Column("key", _Name, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
HISTORY = sa.Table(
    "settings_history",
    TABLES,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("who", sa.String(190), nullable=False),
    sa.Column("action", sa.String(20), nullable=False),
    sa.Column("changes", sa.Text, nullable=False),
)
_VERSION = sa.select(sa.func.coalesce(sa.func.max(HISTORY.c.version), 0))


class SqlKeeper:
    """Keeps settings in SQL, where every worker and the next start find them."""

    persistent = True

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made = False

    def _ready(self) -> Database:
        if not self._made:
            self._database.migrate()
            self._made = True
        return self._database

    def version(self) -> int:
        """See `Keeper`."""
        return int(self._ready().read(lambda c: c.scalar(_VERSION)) or 0)

    def read(self) -> Kept:
        """See `Keeper`. The version is read first: what is newer is read again at the next look."""

        def work(connection: sa.Connection) -> Kept:
            version = int(connection.scalar(_VERSION) or 0)
            rows = connection.execute(sa.select(SETTINGS.c.key, SETTINGS.c.value))
            return Kept(version, {row.key: row.value for row in rows})

        return self._ready().read(work)

    def write(self, after: int, changes: Changes, who: str, action: str) -> None:
        """See `Keeper`. The version is a primary key: the database lets one of two writers in."""

        def work(connection: sa.Connection) -> None:
            entry = {"version": after + 1, "at": _now(), "who": who[:190], "action": action}
            connection.execute(HISTORY.insert().values(**entry, changes=json.dumps(changes)))
            connection.execute(SETTINGS.delete().where(SETTINGS.c.key.in_(changes)))
            rows = [{"key": k, "value": new} for k, (_, new) in changes.items() if new is not None]
            if rows:
                connection.execute(SETTINGS.insert(), rows)

        try:
            self._ready().write(work)
        except IntegrityError:
            raise _taken() from None

    def history(self, limit: int, after: int = 0) -> Sequence[Change]:
        """See `Keeper`."""
        query = sa.select(HISTORY).where(HISTORY.c.version > after)
        query = query.order_by(HISTORY.c.version.desc()).limit(limit)
        return self._ready().read(lambda c: [_change(row) for row in c.execute(query)])

    def close(self) -> None:
        """See `Keeper`."""
        self._database.close()


def _change(row: Any) -> Change:
    changes = {key: (old, new) for key, (old, new) in json.loads(row.changes).items()}
    return Change(row.version, row.at, row.who, row.action, changes)
