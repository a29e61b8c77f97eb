"""A connection to PostgreSQL that never waits longer than somebody needs its answer."""

import time
from collections.abc import Callable, Generator
from typing import Any, Protocol

import psycopg
from psycopg.waiting import Ready

from errors import ClientGone, DeadlineExceeded


class Limit(Protocol):
    """How long a caller needs an answer; `store.budget.Budget` is one."""

    deadline: float | None  # of time.monotonic()

    def check(self) -> None:
        """Raise DeadlineExceeded or ClientGone once no answer is needed."""


class NoAnswer(psycopg.OperationalError):
    """The server holds the connection open and says nothing (a machine that hangs)."""


class Connection(psycopg.Connection[Any]):
    """A connection that is closed where one wait exceeds `patience_s`.

    Once `limit` ends, the statement under way is cancelled and the limit's error raised.
    """

    patience_s: float | None = 30.0
    ping_s = 3.0  # for a sign of life from a connection of the pool, and to cancel
    limit: Limit | None = None

    @classmethod
    def opened(cls, *args: Any, patience_s: float, ping_s: float, **options: Any) -> "Connection":
        """Connect. Raises NoAnswer where the server is silent."""
        try:
            connection = cls.connect(*args, **options)
        except psycopg.errors.ConnectionTimeout as error:
            raise NoAnswer("no connection in time") from error
        connection.patience_s, connection.ping_s = patience_s, ping_s
        return connection

    def __del__(self, *_: Any) -> None:
        """Warn of nothing: a pool's connections end with it, and libpq closes them."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Take the driver's steps. Raises NoAnswer, or what the limit's `check` raises."""
        began = time.monotonic()
        steps = _steps(gen, None, self._check)
        try:
            return super().wait(steps, interval, timeout=timeout or self.patience_s)
        except psycopg.OperationalError as error:
            waited_s = time.monotonic() - began
            if error.sqlstate is None and self.patience_s and waited_s >= self.patience_s:
                self.pgconn.finish()  # half an answer may follow: it is not to be used again
                raise NoAnswer(f"no answer within {self.patience_s:g} s") from error
            raise
        except (ClientGone, DeadlineExceeded):
            self.limit = None  # the rollback is waited for
            self._cancel(gen, interval)
            raise

    def ping(self, ping: Callable[["Connection"], bool]) -> bool:
        """Run the pool's check of this connection, within `ping_s`."""
        patience_s, self.patience_s = self.patience_s, self.ping_s
        try:
            return ping(self)
        finally:
            self.patience_s = patience_s

    def _check(self) -> None:
        if self.limit is not None:
            self.limit.check()

    def _cancel(self, gen: Any, interval: float) -> None:
        """Have the server stop the statement, and read that it has; else close the connection."""
        try:
            self.cancel_safe(timeout=self.ping_s)
            super().wait(_steps(gen, Ready.NONE, self._check), interval, timeout=self.ping_s)
        except psycopg.errors.QueryCanceled:
            pass
        except psycopg.Error:
            self.pgconn.finish()


def _steps(gen: Any, ready: Any, check: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Take the driver's steps and call `check` between them; a second call goes on."""
    try:
        while True:
            ready = yield gen.send(ready)
            check()
    except StopIteration as end:
        return end.value
