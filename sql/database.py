"""The way to the SQL database: SQLite, MySQL or MariaDB, PostgreSQL.

Owns the pool, the time limits and the words for what went wrong. No wait lasts longer than a few
seconds, even on a server that hangs. Knows no tables (`sql/migrations/` makes them) and never shows
the URL, which holds a password.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from config.addresses import driver_url
from errors import Busy, Invalid, Unavailable
from sql import migrations

T = TypeVar("T")

TIMEOUT_S = 2  # to connect and for each answer
SQLITE_TIMEOUT_S = 5  # for another process's write to end
LOCK = 0x656D6265  # "embe": the number of the lock under which tables are made
LOCK_TRIES = 5  # of a second each


class _Deadlock(Busy):
    """The database undid a transaction so that another, which it crossed, could go on."""


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
        began = time.monotonic()
        try:
            return self._run(work, write=False)
        except Unavailable:
            if time.monotonic() - began >= TIMEOUT_S:
                raise  # the server hangs: it would do so again
            return self._run(work, write=False)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in a transaction and commit it; again if it was the victim of a deadlock.

        Lets IntegrityError through.
        """
        try:
            return self._run(work, write=True)
        except _Deadlock:  # the other transaction was let through and is done
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
        except DataError:
            raise Invalid("a value holds what this database cannot keep, NUL perhaps") from None
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
            _take_lock(connection)
        try:
            yield
            if self._kind == "mysql":  # its lock ends before the transaction: who is next must see
                connection.exec_driver_sql("COMMIT")
        finally:
            if self._kind == "mysql":
                connection.execute(sa.select(sa.func.release_lock(str(LOCK))))


def _take_lock(connection: sa.Connection) -> None:
    """Take MySQL's lock over the tables; asks by the second, within the limit of each answer."""
    for _ in range(LOCK_TRIES):
        if connection.scalar(sa.select(sa.func.get_lock(str(LOCK), 1))):
            return
    raise Busy("another process makes the tables; send this again", retry_after_s=2)


def _away(exc: SQLAlchemyError) -> Unavailable:
    """Say what happened without the statement, its values or the address."""
    reason = str(exc.orig) if isinstance(exc, DBAPIError) else ""
    if "Deadlock found" in reason or "deadlock detected" in reason:  # MySQL's and PostgreSQL's
        return _Deadlock("two changes crossed each other; send this again", retry_after_s=1)
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
    def connect(dialect: sa.Dialect, record: object, args: Any, params: Any) -> Any:
        """Make the file and its folder for their owner only; those that are there stay as they are.

        Where that is not allowed, SQLite says that it cannot open the file.
        """
        if not url.database or url.database == ":memory:":
            return None  # the usual way
        file = Path(url.database)
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = not file.exists()
        connection = dialect.connect(*args, **params)
        with suppress(OSError):
            if made:  # before anything is in it; the files that SQLite makes beside it are alike
                file.chmod(0o600)
        return connection

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
