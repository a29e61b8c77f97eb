"""The one way to SQL: SQLite, PostgreSQL, MySQL or MariaDB.

A piece of work runs in a transaction, and again where the server went away or a deadlock was lost:
it must keep nothing of a run that failed. No wait lasts longer than the limits below, even on a
server that hangs. Knows no tables, and never shows the URL, which holds a password.
"""

import math
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from circuit_breaker import CircuitBreaker
from config.addresses import driver_url
from errors import Busy, Full, Unavailable
from sql import migrations, postgres, sqlite
from sql.errors import RETRY_AFTER_S, code_of, is_lost, may_repeat, translate
from sql.forks import Calls

T = TypeVar("T")
Owner = TypeVar("Owner", bound=object)
Work = Callable[[sa.Connection], T]

RETRY_PAUSES_S = (0.05, 0.25)  # three attempts: a promoted standby and a lost deadlock need two
LOCK_WAITS = ("55P03", 1205)  # a lock was not released in time
LOCK_AGAIN_S = 5.0  # it is waited for again until so long after the beginning
PROBE_PAUSES_S = (1.0,)  # from one look for a lost database to the next
TCP_TIMEOUT_MS = 10_000  # the kernel notices a host that is gone, and not just silent
TABLES_LOCK = 0x656D6265  # "embe": held while tables are made
TABLES_LOCK_TRIES = 5  # of a second each


class Again(Exception):
    """Raised by work that met a change and is to be run again."""


@dataclass(frozen=True)
class PoolOptions:
    """How long a database is waited for, and how many connections are kept to it.

    On a loaded machine PostgreSQL needs well over its second to find a deadlock, so a lock is
    waited for longer than that; and the server ends a statement before the client gives up.
    """

    pool_size: int = 5
    max_overflow: int = 10
    pool_timeout_s: float = 2.0
    connect_timeout_s: int = 2
    ping_s: float = 2.0  # for a sign of life from a connection of the pool
    patience_s: float = 4.0  # for one answer
    lock_timeout_s: float | None = 3.0

    @property
    def statement_s(self) -> float:
        """After how long the server stops a statement."""
        return self.patience_s * 0.9


@dataclass(frozen=True)
class Schema:
    """Tables that are made before the first use: whether they are there, and how to make them."""

    is_there: Callable[[sa.Connection], bool]
    make: Callable[[sa.Connection], None]


SERVICE = Schema(migrations.is_newest, migrations.run)


class Database:
    """A database that may restart, fail over, be full, be locked or hang.

    Every call may raise Unavailable, Busy, Full, Corrupt, Invalid or `sql.errors.Violation`.
    """

    def __init__(
        self,
        url: str,
        schema: Schema = SERVICE,
        pool: PoolOptions | None = None,
        name: str = "the SQL database",
        probe: Work[object] = lambda _: None,
    ) -> None:
        """Use the database at `url`; `probe` tells by raising what else it must be able to do."""
        self.pool = pool or PoolOptions()
        parsed = driver_url(url)
        self.kind = parsed.get_backend_name()
        self.file = sqlite.file_of(parsed) if self.kind == "sqlite" else None
        self.engine = _engine(parsed, self.kind, self.pool)
        self.breaker = CircuitBreaker(name, self._probe, (Unavailable,), pauses=PROBE_PAUSES_S)
        self._asked_too = probe
        self._service = schema is SERVICE
        self._schema: Schema | None = schema
        self._watch = sqlite.Watch(self.file, self.pool.patience_s) if self.file else None
        if self.file:
            self._calls: Calls | None = Calls(self.file, self._close_idle)
        else:
            self._calls = None
            after_fork(self, Database._forget)

    @property
    def problem(self) -> str | None:
        """Why the database cannot be used, from the call that found it to the next answer."""
        return self.breaker.problem

    def read(self, work: Work[T], limit: postgres.Limit | None = None) -> T:
        """Return what `work` does in a transaction that writes nothing."""
        return self._run(work, lambda _: False, limit, writes=False)

    def write(
        self, work: Work[T], landed: Work[bool] | None = None, limit: postgres.Limit | None = None
    ) -> T:
        """Return what `work` does in a transaction that is committed.

        A connection may be lost during the commit. `landed` then looks, on a new connection,
        whether it took place, and only if not is the work done again. Without `landed` that is
        Unavailable; what may be done twice to the same effect gives one that returns False.
        """
        return self._run(work, landed, limit, writes=True)

    def version(self) -> tuple[int, int] | None:
        """Return what stays the same while a file is unchanged; None for servers."""
        if self._watch is None:
            return None
        self.make_tables()
        with self._under_way():
            return self._watch.version()

    @contextmanager
    def upkeep(self) -> Iterator[sa.Connection]:
        """Lend a connection to PostgreSQL for long work, outside transactions and the pool."""
        self.make_tables()
        try:
            with self.engine.connect() as connection:
                driver = connection.connection.driver_connection
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.detach()
                assert isinstance(driver, postgres.Connection)
                driver.patience_s = None
                connection.exec_driver_sql("SET statement_timeout = 0; SET lock_timeout = 0")
                yield connection
        except SQLAlchemyError as error:
            raise translate(error) from error

    def close(self) -> None:
        """Close every idle connection."""
        self.breaker.close()
        with suppress(Unavailable), self._under_way():
            self._close_idle()

    def _close_idle(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self.engine.dispose()

    def _under_way(self) -> AbstractContextManager[None]:
        """Hold back forks for a block that uses a file."""
        return nullcontext() if self._calls is None else self._calls.under_way()

    # -- transactions ----------------------------------------------------------------------------

    def _run(
        self, work: Work[T], landed: Work[bool] | None, limit: postgres.Limit | None, writes: bool
    ) -> T:
        self.make_tables()
        if limit is None:
            return self._attempts(work, landed, writes)

        def within(connection: sa.Connection) -> T:
            limit.check()
            driver = connection.connection.driver_connection
            if not isinstance(driver, postgres.Connection):
                return work(connection)
            left_s = math.inf if limit.deadline is None else limit.deadline - time.monotonic()
            if left_s < self.pool.statement_s:
                # The server stops by itself where no cancelling comes through.
                left_ms = max(1, int(left_s * 1000))
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {left_ms}")
            driver.limit = limit
            try:
                return work(connection)
            finally:
                driver.limit = None

        return self._attempts(within, landed, writes)

    def _attempts(self, work: Work[T], landed: Work[bool] | None, writes: bool) -> T:
        began = time.monotonic()
        for pause_s in (*RETRY_PAUSES_S, None):
            done: list[T] = []  # filled once only the commit is open
            try:
                with (
                    self._under_way(),
                    self.engine.connect().execution_options(writes=writes) as connection,
                ):
                    done.append(work(connection))
                    connection.commit()
                    return done[0]
            except Again as error:
                if pause_s is None:
                    raise Busy("what was to be changed keeps being replaced") from error
            except SQLAlchemyError as error:
                if done and writes and is_lost(error) and self._landed(landed, error):
                    return done[0]
                if pause_s is None or not self._may_repeat(error, time.monotonic() - began):
                    problem = translate(error, self.file)
                    if isinstance(problem, Full) and self._service:
                        # What the service's own routes describe; 507 is a store's.
                        problem = Unavailable(problem.message, retry_after_s=problem.retry_after_s)
                    # A file that may not even be read is held by a process that hangs.
                    held = self.file is not None and not writes and isinstance(problem, Busy)
                    if held or type(problem) is Unavailable:
                        self.breaker.failed(problem)
                    raise problem from error
            time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _may_repeat(self, error: SQLAlchemyError, elapsed_s: float) -> bool:
        """Whether to run the work again: not on a server that was silent and will stay so."""
        if isinstance(getattr(error, "orig", None), postgres.NoAnswer):
            return False
        waits_lock = code_of(error) in LOCK_WAITS
        return may_repeat(error) and elapsed_s < (
            LOCK_AGAIN_S if waits_lock else self.pool.patience_s
        )

    def _landed(self, landed: Work[bool] | None, lost: SQLAlchemyError) -> bool:
        """Whether a commit whose answer was lost took place. Raises Unavailable if unknown."""
        for pause_s in (*RETRY_PAUSES_S, 1.0) if landed else ():
            time.sleep(pause_s)
            try:
                with self.engine.connect() as connection:
                    return landed is not None and landed(connection)
            except SQLAlchemyError as error:
                if not self._may_repeat(error, 0):
                    break
        raise Unavailable(
            "the connection was lost while the write was being committed: it is stored whole or"
            " not at all; read it back, or send it again",
            retry_after_s=RETRY_AFTER_S,
        ) from lost

    def _probe(self) -> None:
        # Of SQLite a constant would be answered without a look at the file.
        asked = "SELECT 1 FROM sqlite_master" if self.kind == "sqlite" else "SELECT 1"

        def ask(connection: sa.Connection) -> None:
            connection.execute(sa.text(asked))
            self._asked_too(connection)

        self.read(ask)

    # -- tables ----------------------------------------------------------------------------------

    def make_tables(self) -> None:
        """Make the tables if they are not there. Twice at the same time does no harm."""
        if (schema := self._schema) is None:
            return
        if not self._attempts(schema.is_there, None, writes=False):

            def work(connection: sa.Connection) -> None:
                with self._alone(connection):
                    schema.make(connection)

            self._attempts(work, lambda _: False, writes=True)
        self._schema = None

    @contextmanager
    def _alone(self, connection: sa.Connection) -> Iterator[None]:
        """Keep other processes from making tables; a write to SQLite does so by itself."""
        if self.kind == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(TABLES_LOCK)))
        if self.kind == "mysql":
            # Asked by the second, within the limit of each answer.
            lock = sa.select(sa.func.get_lock(str(TABLES_LOCK), 1))
            if not any(connection.scalar(lock) for _ in range(TABLES_LOCK_TRIES)):
                raise Busy("another process makes the tables; send this again", retry_after_s=2)
        try:
            yield
            if self.kind == "mysql":  # its lock ends first, and the next process must see them
                connection.exec_driver_sql("COMMIT")
        finally:
            if self.kind == "mysql":
                connection.execute(sa.select(sa.func.release_lock(str(TABLES_LOCK))))

    def _forget(self) -> None:
        """Leave the connections to the parent, in a child that was forked."""
        self.engine.dispose(close=False)


def _engine(url: sa.URL, kind: str, options: PoolOptions) -> sa.Engine:
    pool = {
        "pool_size": options.pool_size,
        "max_overflow": options.max_overflow,
        "pool_timeout": options.pool_timeout_s,
    }
    if kind == "sqlite":
        return sqlite.engine_of(url, options.patience_s, **pool)
    arguments: dict[str, Any] = {"connect_timeout": options.connect_timeout_s}
    if kind == "mysql":
        # PyMySQL waits so long for the pool's ping and the handshake, too. MySQL finds a deadlock
        # at once, so its locks need less patience.
        answer_s = options.connect_timeout_s
        arguments |= {"read_timeout": answer_s, "write_timeout": answer_s, "charset": "utf8mb4"}
        lock_s = max(1, answer_s - 1)
        arguments["init_command"] = f"SET innodb_lock_wait_timeout = {lock_s}"
    else:
        arguments["tcp_user_timeout"] = TCP_TIMEOUT_MS
    engine = sa.create_engine(
        url,
        connect_args=arguments,
        pool_pre_ping=True,
        pool_recycle=1800,
        hide_parameters=True,  # texts and vectors do not belong into logs
        **pool,
    )
    if kind == "postgresql":
        settings = {
            "statement_timeout": int(options.statement_s * 1000),
            "lock_timeout": int((options.lock_timeout_s or 0) * 1000),
            "cursor_tuple_fraction": 1,  # everything is read of a cursor, too
        }
        own = " ".join(f"-c {name}={value}" for name, value in settings.items())

        @event.listens_for(engine, "do_connect")
        def connect(dialect: object, record: object, args: Any, given: dict[str, Any]) -> Any:
            given["options"] = f"{own} {given.get('options', '')}"
            return postgres.Connection.opened(
                *args, patience_s=options.patience_s, ping_s=options.ping_s, **given
            )

        ping: Any = engine.dialect.do_ping
        engine.dialect.do_ping = lambda connection: connection.ping(ping)  # type: ignore[assignment, method-assign]
    return engine


def after_fork(owner: Owner, forget: Callable[[Owner], None]) -> None:
    """Have `owner`, while it lives, forget in a forked child what is its parent's."""
    held = weakref.ref(owner)

    def run() -> None:
        if (alive := held()) is not None:
            forget(alive)

    os.register_at_fork(after_in_child=run)
