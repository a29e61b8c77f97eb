"""The way to the SQL database: SQLite, MySQL or MariaDB, PostgreSQL.

Owns the pool, the time limits and the words for what went wrong. No wait lasts longer than a few
seconds, even on a server that hangs. Knows no tables (`migrations/` makes them) and never shows the
URL, which holds a password.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

import migrations
from config import ConfigError
from errors import Busy, Unavailable

T = TypeVar("T")

# Asynchronous drivers, and no driver at all, mean the synchronous one that is installed.
DRIVERS = {
    "sqlite": "sqlite",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
TIMEOUT_S = 2  # to connect and for each answer
SQLITE_TIMEOUT_S = 5  # for another process's write to end
LOCK = 0x656D6265  # "embe": the number of the lock under which tables are made


def driver_url(text: str) -> sa.URL:
    """Read a database URL and give it a driver we have. Raises ConfigError without showing it."""
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(["EMBEDDING_DB_URL: is no URL such as sqlite:///data/x.db"]) from None
    driver = DRIVERS.get(url.drivername.partition("+")[0])
    if driver is None:
        raise ConfigError([f"EMBEDDING_DB_URL: {url.drivername!r} is none of {', '.join(DRIVERS)}"])
    return url.set(drivername=driver)


class Database:
    """A database that may be away, hang, or be locked by someone else."""

    def __init__(self, text: str) -> None:
        url = driver_url(text)
        self._kind = url.get_backend_name()
        if self._kind == "sqlite":
            self._engine = _sqlite(url)
        else:
            args: dict[str, Any] = {"connect_timeout": TIMEOUT_S}
            if self._kind == "mysql":
                args |= {"read_timeout": TIMEOUT_S, "write_timeout": TIMEOUT_S}
                args |= {"charset": "utf8mb4", "init_command": "SET innodb_lock_wait_timeout = 2"}
            self._engine = sa.create_engine(
                url,
                connect_args=args,
                pool_size=5,
                max_overflow=10,
                pool_timeout=TIMEOUT_S,
                pool_pre_ping=True,
                pool_recycle=1800,
            )
            if self._kind == "postgresql":
                event.listen(self._engine, "do_connect", _patient)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in a transaction; run it again if the connection turned out to be dead."""
        try:
            return self._run(work, write=False)
        except Unavailable:
            return self._run(work, write=False)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in a transaction and commit it. Lets IntegrityError through."""
        return self._run(work, write=True)

    def migrate(self) -> None:
        """Bring the tables to the newest step; any number of processes may do so at once."""

        def work(connection: sa.Connection) -> None:
            with self._alone(connection):
                migrations.run(connection)

        self.write(work)

    def close(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()

    def _run(self, work: Callable[[sa.Connection], T], *, write: bool) -> T:
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(writes=write)
                with connection.begin():
                    return work(connection)
        except IntegrityError:
            raise
        except PoolTimeout:
            raise Busy("the database's connections are all in use", retry_after_s=2) from None
        except SQLAlchemyError as exc:
            raise _away(exc) from None

    @contextmanager
    def _alone(self, connection: sa.Connection) -> Iterator[None]:
        """Keep other processes out; SQLite's write transaction does so by itself."""
        if self._kind == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        if self._kind == "mysql":
            connection.execute(sa.select(sa.func.get_lock(str(LOCK), TIMEOUT_S)))
        try:
            yield
        finally:
            if self._kind == "mysql":
                connection.execute(sa.select(sa.func.release_lock(str(LOCK))))


def _away(exc: SQLAlchemyError) -> Unavailable:
    """Say what happened without the statement, its values or the address."""
    reason = str(exc.orig) if isinstance(exc, DBAPIError) else ""
    if "locked" in reason or "Lock wait timeout" in reason or "lock timeout" in reason:
        return Busy("another process holds the database's lock; send this again", retry_after_s=2)
    if "disk is full" in reason:
        return Unavailable("the database's disk is full; nothing was changed", retry_after_s=30)
    if "readonly" in reason or "unable to open" in reason:
        return Unavailable("the database's file cannot be opened for writing", retry_after_s=30)
    return Unavailable("the database cannot be reached; send this again later", retry_after_s=5)


def _sqlite(url: sa.URL) -> sa.Engine:
    """Open a file in WAL mode; a write transaction takes the lock at its start, not half way."""
    engine = sa.create_engine(url, connect_args={"timeout": SQLITE_TIMEOUT_S})

    @event.listens_for(engine, "do_connect")
    def make_room(*_: object) -> None:
        """Make the file's folder; where that is not allowed, SQLite says that it cannot open it."""
        if url.database and url.database != ":memory:":
            with suppress(OSError):
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        _use_wal(connection)
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: Any) -> None:
    """Choose the WAL mode, again while another does so: SQLite waits for no lock in this alone."""
    end = time.monotonic() + SQLITE_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _patient(dialect: object, record: object, args: Any, params: Any) -> Any:
    """Connect to PostgreSQL with a connection that gives up on a server that does not answer."""
    import psycopg

    class Patient(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                return super().wait(gen, interval, timeout=timeout or TIMEOUT_S)
            except psycopg.OperationalError:
                if not self.pgconn.error_message:
                    self.pgconn.finish()  # half an answer may follow: not to be used again
                raise

    options = f"-c statement_timeout={TIMEOUT_S * 1000} -c lock_timeout={TIMEOUT_S * 1000}"
    return Patient.connect(*args, **{"options": options, **params})
