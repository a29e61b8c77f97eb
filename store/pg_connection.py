"""One connection to PostgreSQL, on which nothing is waited for that nobody wants any more."""

import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
from psycopg.waiting import Ready

from errors import ClientGone, DeadlineExceeded
from store.budget import UNBOUNDED, Budget

PING_S = 3.0  # how long a connection out of the pool may take to say that it lives, or to cancel


class NoAnswer(psycopg.OperationalError):
    """The server holds the connection open but says nothing (a machine that hangs)."""


class Connection(psycopg.Connection[Any]):
    """A connection on which no single wait lasts for ever; past `patience_s` it is closed.

    When `budget` ends, the statement under way is cancelled and the budget's error raised.
    """

    patience_s: float | None = 30.0
    budget: Budget = UNBOUNDED

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Do what the driver wants done. Raises NoAnswer, or as the budget's `check`."""
        began = time.monotonic()
        steps = _steps(gen, None, self.budget.check)
        try:
            return super().wait(steps, interval, timeout=timeout or self.patience_s)
        except psycopg.OperationalError as error:
            waited_s = time.monotonic() - began
            if error.sqlstate is None and self.patience_s and waited_s >= self.patience_s:
                self.pgconn.finish()
                raise NoAnswer(f"no answer within {self.patience_s:g} s") from error
            raise
        except (ClientGone, DeadlineExceeded):
            self.budget = UNBOUNDED  # the rollback is waited for
            self._cancel(gen, interval)
            raise

    def _cancel(self, gen: Any, interval: float) -> None:
        """Have the server stop a statement, and read that it has; otherwise close."""
        try:
            self.cancel_safe(timeout=PING_S)
            super().wait(_steps(gen, Ready.NONE, self.budget.check), interval, timeout=PING_S)
        except psycopg.errors.QueryCanceled:
            pass
        except psycopg.Error:
            self.pgconn.finish()


def _steps(gen: Any, ready: Any, check: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Go through the driver's steps, asking `check` between them; another call may go on."""
    try:
        while True:
            ready = yield gen.send(ready)
            check()
    except StopIteration as end:
        return end.value


def hasten_ping(dialect: Any) -> None:
    """Let a connection's check on leaving the pool take no longer than `PING_S`."""
    ping = dialect.do_ping

    def hastened(connection: Connection) -> Any:
        patience_s, connection.patience_s = connection.patience_s, PING_S
        try:
            return ping(connection)
        finally:
            connection.patience_s = patience_s

    dialect.do_ping = hastened
