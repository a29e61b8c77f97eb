"""SQLite files: how they are opened, and a way to see cheaply that one has changed.

In WAL mode readers wait for no one, not even for a process that stops in a commit. Several
processes may write so since SQLite 3.51.3 (https://sqlite.org/wal.html, "the WAL-reset bug").
"""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import sqlalchemy as sa
from sqlalchemy import event

from sql import apsw_driver
from sql.errors import of_sqlite


def file_of(url: sa.URL) -> Path | None:
    """Return the file that a URL names; None for a database in memory."""
    name = url.database or ":memory:"
    return None if name == ":memory:" or name.startswith("file:") else Path(name).absolute()


def engine_of(url: sa.URL, timeout_s: float, **pool: Any) -> sa.Engine:
    """Return an engine whose transactions wait for others up to `timeout_s`.

    A write takes its lock at BEGIN: what first reads and then writes could not wait for it.
    """
    file = file_of(url)
    if file is None:  # each connection would have a database of its own
        pool |= {"pool_size": 1, "max_overflow": 0, "poolclass": sa.QueuePool}
    engine = sa.create_engine(
        url, module=apsw_driver, connect_args={"timeout": timeout_s}, hide_parameters=True, **pool
    )

    @event.listens_for(engine, "do_connect")
    def connect(dialect: sa.Dialect, record: object, args: Any, params: Any) -> Any:
        """Connect. A file or folder that is made is its owner's alone."""
        if file is None:
            return None
        with suppress(OSError):  # where that is not allowed SQLite says that it cannot open it
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return dialect.connect(*args, **params)  # SQLite gives its log the same mode

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: object) -> None:
        end = time.monotonic() + timeout_s
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except apsw_driver.OperationalError as error:  # others do the same to a new file
                if error.sqlite_errorcode & 0xFF != apsw.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(apsw_driver.LONGEST_NAP_S)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Watch:
    """Sees whether a file has changed, in some microseconds, by a connection that never writes."""

    def __init__(self, file: Path, timeout_s: float) -> None:
        self._file, self._timeout_s = file, timeout_s
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._opened = 0

    def version(self) -> tuple[int, int]:
        """Return what stays the same while nothing is committed to the file.

        Waits for no commit that is under way. Raises Busy, Unavailable, Corrupt.
        """
        # With a limit: each thread would wait for those before it as long as they for the file.
        if not self._lock.acquire(timeout=self._timeout_s):
            raise of_sqlite(apsw.SQLITE_BUSY, self._file)
        try:
            if self._connection is None:
                self._opened += 1
                self._connection = apsw.Connection(
                    str(self._file), flags=apsw.SQLITE_OPEN_READWRITE
                )
                self._connection.set_busy_handler(apsw_driver.patience(self._timeout_s))
            return self._opened, int(self._connection.pragma("data_version"))
        except apsw.Error as error:
            raise of_sqlite(getattr(error, "extendedresult", 1), self._file) from error
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
