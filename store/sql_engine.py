"""The way to PostgreSQL: a pool, transactions that survive a failover, errors in our own words.

Knows nothing of collections; `sql.py` hands it functions to run inside a transaction. A piece of
work may run more than once: it must keep nothing from a run that failed.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

import errors
from circuit_breaker import Guard
from config.addresses import driver_url
from store.budget import UNBOUNDED, Budget
from store.pg_connection import Connection, NoAnswer, hasten_ping
from store.pg_wire import register

T = TypeVar("T")
Owner = TypeVar("Owner", bound=object)

RETRY_PAUSES_S = (0.05, 0.25)  # three attempts; a promoted standby or a lost deadlock needs two
SERVER_MS = 900  # of each second of patience: the server gives up first
TCP_TIMEOUT_MS = 10_000  # a host that is gone, and not just silent, is noticed by the kernel
RETRY_AFTER_S = 2.0  # what a client is told when the database is away

_BY_STATE: dict[str, tuple[type[errors.ServiceError], str]] = {
    "08": (errors.Unavailable, "the connection to the database was lost"),
    "22": (errors.Invalid, "the database refused a value"),
    "23505": (errors.Conflict, "that exists already"),
    "25006": (errors.Unavailable, "the database is read-only (a standby?)"),
    "28": (errors.Unavailable, "the database refused our credentials"),
    "3D000": (errors.Unavailable, "the database named in STORE_URL does not exist"),
    "40": (errors.Busy, "other writers kept getting in the way"),
    "42501": (errors.Unavailable, "the database user lacks a right that the store needs"),
    "42P01": (errors.NotFound, "the collection was dropped meanwhile"),
    "53100": (errors.Full, "the database's disk is full"),
    "53300": (errors.Busy, "the database takes no more connections"),
    "53": (errors.Unavailable, "the database lacks resources"),
    "54": (errors.Invalid, "a value is beyond the database's limits"),
    "55P03": (errors.Busy, "a lock in the database was not had in time"),
    "57014": (errors.DeadlineExceeded, "the database took too long and was stopped"),
    "57": (errors.Unavailable, "the database is shutting down or starting"),
    "58": (errors.Unavailable, "the database met an error of its system"),
    "XX": (errors.Corrupt, "the database found its own data damaged"),
}
_AGAIN = ("40001", "40P01", "42P01")  # rolled back whole, or a table was replaced: run it again
_AWAY = ("08", "25006", "57P")  # the server went, or is not the primary any more


class Again(Exception):
    """Raised by work that met a change and is to be run anew."""


class Database:
    """A PostgreSQL that may restart, fail over, be full, be busy or hang."""

    def __init__(
        self,
        url: str,
        prepare: Callable[[sa.Connection], None] | None = None,
        *,
        pool_size: int = 5,
        max_overflow: int = 10,
        pool_timeout_s: float = 5.0,
        connect_timeout_s: int = 5,
        patience_s: float = 30.0,
    ) -> None:
        self.patience_s = patience_s
        self._prepare = prepare  # run once, before the first use
        self.engine = sa.create_engine(
            driver_url(url),
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout_s,
            pool_pre_ping=True,
            pool_recycle=1800,
            hide_parameters=True,  # texts and vectors do not belong into logs
            connect_args={"connect_timeout": connect_timeout_s, "tcp_user_timeout": TCP_TIMEOUT_MS},
        )
        event.listen(self.engine, "do_connect", self._connect)
        hasten_ping(self.engine.dialect)
        away = (errors.Unavailable,)
        self.guard = Guard("the store's database", self._probe, slow=away)
        after_fork(self.engine, lambda engine: engine.dispose(close=False))

    def read(self, work: Callable[[sa.Connection], T], budget: Budget = UNBOUNDED) -> T:
        """Run `work` in a transaction; run it again if the server went away."""
        return self._run(work, lambda _: False, budget)

    def write(
        self, work: Callable[[sa.Connection], T], landed: Callable[[sa.Connection], bool],
        budget: Budget = UNBOUNDED,
    ) -> T:  # fmt: skip
        """Run `work` in a transaction and commit it.

        If the connection is lost during the commit nobody knows whether it took place: `landed`
        looks, on a new connection, and only if it did not is the work done again.
        """
        return self._run(work, landed, budget)

    @contextmanager
    def upkeep(self) -> Iterator[sa.Connection]:
        """A connection of its own for long work outside transactions: no timeouts, not pooled."""
        self._once()
        try:
            with self.engine.connect() as connection:
                driver = connection.connection.driver_connection
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.detach()
                assert isinstance(driver, Connection)
                driver.patience_s = None
                connection.exec_driver_sql("SET statement_timeout = 0")
                yield connection
        except SQLAlchemyError as error:
            raise translate(error) from error

    def close(self) -> None:
        """Close every idle connection."""
        self.guard.close()
        self.engine.dispose()

    def _run(
        self, work: Callable[[sa.Connection], T], landed: Callable[[sa.Connection], bool],
        budget: Budget,
    ) -> T:  # fmt: skip
        self._once()
        left = budget.left

        def within(connection: sa.Connection) -> T:
            budget.left = left  # what an attempt that failed has read is read again
            budget.check()
            if budget.deadline is not None:
                self._stop_at(connection, budget.deadline)
            driver = connection.connection.driver_connection
            assert isinstance(driver, Connection)
            driver.budget = budget
            try:
                return work(connection)
            finally:
                driver.budget = UNBOUNDED

        return self._attempts(within, landed)

    def _stop_at(self, connection: sa.Connection, deadline: float) -> None:
        """Have the server stop a statement by itself where no cancelling comes through."""
        left_ms = int((deadline - time.monotonic()) * 1000)
        if left_ms < self.patience_s * SERVER_MS:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, left_ms)}")

    def _once(self) -> None:
        """Run `prepare`, if it has not been. Twice at the same time does no harm."""
        if self._prepare is not None:
            self._attempts(self._prepare, lambda _: False)
            self._prepare = None

    def _attempts(
        self, work: Callable[[sa.Connection], T], landed: Callable[[sa.Connection], bool]
    ) -> T:
        for pause_s in (*RETRY_PAUSES_S, None):
            result: list[T] = []  # filled once the work is done and only the commit is open
            try:
                with self.engine.connect() as connection:
                    result.append(work(connection))
                    connection.commit()
                    return result[0]
            except Again as error:
                if pause_s is None:
                    raise errors.Busy("the collection keeps being replaced") from error
            except SQLAlchemyError as error:
                if result and _is_away(error) and self._landed(landed, error):
                    return result[0]
                if pause_s is None or not _may_repeat(error):
                    problem = translate(error)
                    if type(problem) is errors.Unavailable:
                        self.guard.failed(problem)
                    raise problem from error
            time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _probe(self) -> None:
        self.read(lambda connection: connection.exec_driver_sql("SELECT 1"))

    def _landed(self, landed: Callable[[sa.Connection], bool], lost: SQLAlchemyError) -> bool:
        """Find out whether a commit whose answer was lost took place."""
        for pause_s in (*RETRY_PAUSES_S, 1.0):
            time.sleep(pause_s)
            try:
                with self.engine.connect() as connection:
                    return landed(connection)
            except SQLAlchemyError as error:
                if not _may_repeat(error):
                    break
        raise errors.Unavailable(
            "the connection was lost while the write was being committed: it is stored whole or"
            " not at all; read it back, or send it again",
            retry_after_s=RETRY_AFTER_S,
        ) from lost

    def _connect(self, dialect: Any, record: Any, args: Any, options: dict[str, Any]) -> Any:
        own = f"-c statement_timeout={int(self.patience_s * SERVER_MS)}"
        own += " -c cursor_tuple_fraction=1"  # of a cursor, too, everything is read
        options["options"] = f"{own} {options.get('options', '')}"
        connection = Connection.connect(*args, **options)
        connection.patience_s = self.patience_s
        register(connection)
        return connection


def translate(error: SQLAlchemyError) -> errors.ServiceError:
    """Say in our own words what the database or the pool refused."""
    if isinstance(error, PoolTimeout):
        return errors.Busy("no free connection to the database", retry_after_s=1.0)
    origin = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(origin, NoAnswer):
        return errors.Unavailable(f"the database hangs: {origin}", retry_after_s=RETRY_AFTER_S)
    state = _state(error)
    for length in (5, 2):
        if state[:length] in _BY_STATE:
            kind, message = _BY_STATE[state[:length]]
            wait_s = RETRY_AFTER_S if issubclass(kind, errors.Unavailable | errors.Full) else None
            return kind(f"{message} (SQLSTATE {state})", retry_after_s=wait_s)
    if isinstance(origin, psycopg.OperationalError | psycopg.InterfaceError):
        return errors.Unavailable("the database cannot be reached", retry_after_s=RETRY_AFTER_S)
    return errors.ServiceError(f"the database refused a statement (SQLSTATE {state or 'none'})")


def _state(error: SQLAlchemyError) -> str:
    origin = error.orig if isinstance(error, DBAPIError) else None
    return getattr(origin, "sqlstate", None) or ""


def _is_away(error: SQLAlchemyError) -> bool:
    """Whether the server, or the way to it, was lost."""
    if not isinstance(error, DBAPIError):
        return False
    lost = isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError)
    return (
        error.connection_invalidated
        or _state(error).startswith(_AWAY)
        or (lost and not _state(error))
    )


def _may_repeat(error: SQLAlchemyError) -> bool:
    """Whether running the same work again can help soon. Whoever was silent stays so a while."""
    silent = NoAnswer | psycopg.errors.ConnectionTimeout
    if isinstance(error, DBAPIError) and isinstance(error.orig, silent):
        return False
    return _is_away(error) or _state(error) in _AGAIN


def after_fork(owner: Owner, forget: Callable[[Owner], None]) -> None:
    """Let `owner`, if it still lives, forget in a forked child what is its parent's."""
    held = weakref.ref(owner)

    def run() -> None:
        if (alive := held()) is not None:
            forget(alive)

    os.register_at_fork(after_in_child=run)
