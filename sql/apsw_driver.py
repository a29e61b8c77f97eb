"""apsw as SQLAlchemy's driver for SQLite: the library is apsw's own, newer than most systems'.

A commit that fails is rolled back: no connection goes back to its pool inside a transaction.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import apsw

apilevel, threadsafety, paramstyle = "2.0", 1, "qmark"
sqlite_version_info = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))

LONGEST_NAP_S = 0.005


class Error(Exception):
    """What SQLite refused, with its extended result code."""

    def __init__(self, message: str, sqlite_errorcode: int) -> None:
        super().__init__(message)
        self.sqlite_errorcode = sqlite_errorcode


class InterfaceError(Error):
    """The driver was used wrongly."""


class DatabaseError(Error):
    """The file is damaged, for one."""


class OperationalError(DatabaseError):
    """A lock, a disk, a missing table."""


class IntegrityError(DatabaseError):
    """A key is taken, or refers to nothing."""


class ProgrammingError(DatabaseError):
    """A statement and its values do not match."""


class DataError(DatabaseError):
    """A value is too large."""


class InternalError(DatabaseError):
    """Never raised; SQLAlchemy asks for it."""


class NotSupportedError(DatabaseError):
    """Never raised; SQLAlchemy asks for it."""


KINDS: dict[type[apsw.Error], type[Error]] = {
    apsw.ConstraintError: IntegrityError,
    apsw.MismatchError: IntegrityError,
    apsw.TooBigError: DataError,
    apsw.CorruptError: DatabaseError,
    apsw.NotADBError: DatabaseError,
    apsw.MisuseError: InterfaceError,
}


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        code = getattr(error, "extendedresult", 0) or getattr(error, "result", 0)
        kind = KINDS.get(type(error), OperationalError if code else ProgrammingError)
        raise kind(str(error), code or apsw.SQLITE_MISUSE) from error
    except UnicodeDecodeError as error:  # a text in a damaged file
        raise DatabaseError(str(error), apsw.SQLITE_CORRUPT) from error


def _then(rows: list[Any], error: apsw.Error) -> Iterator[Any]:
    yield from rows
    with _translated():
        raise error


class Cursor:
    """One statement; all its rows are read at once."""

    arraysize = 1

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.description: Sequence[Any] | None = None
        self.rowcount, self.lastrowid = -1, 0
        self._rows: Iterator[Any] = iter(())

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> "Cursor":
        """Run a statement."""
        return self._run(lambda cursor: cursor.execute(sql, parameters), once=True)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> "Cursor":
        """Run a statement for each of many values."""
        return self._run(lambda cursor: cursor.executemany(sql, parameters), once=False)

    def _run(self, call: Callable[[apsw.Cursor], apsw.Cursor], once: bool) -> "Cursor":
        reads = False

        def note(cursor: apsw.Cursor, sql: str, values: object) -> bool:
            """Note what is known of a statement only until it ends."""
            nonlocal reads
            self.description, reads = cursor.get_description() or None, cursor.is_readonly
            return True

        with _translated():
            before = self._connection.total_changes()
            cursor = self._connection.cursor()
            cursor.exec_trace = note
            self._rows = self._read(call(cursor))
            changed = self._connection.total_changes() - before
            self.rowcount = self._connection.changes() if changed and once else changed
            self.rowcount = -1 if reads else self.rowcount
            self.lastrowid = self._connection.last_insert_rowid()
        return self

    @staticmethod
    def _read(cursor: apsw.Cursor) -> Iterator[Any]:
        """Read every row now; those before a damage are given first."""
        rows: list[Any] = []
        try:
            rows.extend(cursor)
        except apsw.CorruptError as error:
            if not rows:
                raise
            return _then(rows, error)
        return iter(rows)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[Any]:
        """Return the next rows."""
        return [row for row, _ in zip(self._rows, range(size), strict=False)]

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        return list(self._rows)

    def close(self) -> None:
        """Drop the rows that are left."""
        self._rows = iter(())


class Connection:
    """One connection. Transactions are begun by the caller."""

    isolation_level = None

    def __init__(self, name: str, flags: int, timeout_s: float) -> None:
        with _translated():
            self._apsw = apsw.Connection(name, flags=flags)
            self._apsw.set_busy_handler(patience(timeout_s))

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._apsw.in_transaction

    def cursor(self) -> Cursor:
        """Return what runs one statement."""
        return Cursor(self._apsw)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run a statement."""
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        """Commit, or roll back and raise."""
        if not self.in_transaction:
            return
        try:
            self.execute("COMMIT")
        except BaseException:
            with suppress(Error):
                self.rollback()
            raise

    def rollback(self) -> None:
        """End a transaction if one is open, with nothing changed."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def create_function(self, *_: object, **__: object) -> None:
        """Do nothing: no statement uses the functions that SQLAlchemy offers."""

    def close(self) -> None:
        """Close it."""
        with _translated():
            self._apsw.close()


def connect(name: str, timeout: float = 5.0, uri: bool = False, **_: object) -> Connection:
    """Open a file, which is made if it is missing."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    return Connection(name, flags | (apsw.SQLITE_OPEN_URI if uri else 0), timeout)


def patience(timeout_s: float) -> Callable[[int], bool]:
    """Return what waits for a lock: SQLite's own would sleep for up to 100 ms at a time."""
    began = 0.0

    def wait(tries: int) -> bool:
        nonlocal began
        if tries == 0:
            began = time.monotonic()
        time.sleep(min(0.00005 * 1.5 ** min(tries, 20), LONGEST_NAP_S))
        return time.monotonic() - began < timeout_s

    return wait
