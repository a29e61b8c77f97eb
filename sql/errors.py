"""What a database refused, by its code and never by its words.

PostgreSQL gives an SQLSTATE, MySQL and MariaDB an error number, SQLite a result code. No message
holds a statement, its values or the database's address.
"""

from pathlib import Path

from sqlalchemy import exc

from errors import (
    Busy,
    Conflict,
    Corrupt,
    DeadlineExceeded,
    Full,
    Invalid,
    ServiceError,
    Unavailable,
)

RETRY_AFTER_S = 2.0  # suggested to a client while the database is away


class Violation(Conflict):
    """What was to be written contradicts what is there: a primary key is taken, for one."""


Meaning = tuple[type[ServiceError], str]

BUSY: Meaning = (Busy, "another writer holds a lock in the database")
CROSSED: Meaning = (Busy, "other writers kept getting in the way")
VIOLATION: Meaning = (Violation, "that exists already, or belongs to something that does not exist")
BAD_VALUE: Meaning = (Invalid, "the database cannot store a value, a NUL character perhaps")
REFUSED: Meaning = (Unavailable, "the database refused the user or password")
NO_RIGHT: Meaning = (Unavailable, "the database's user lacks a right that the service needs")
NO_DATABASE: Meaning = (Unavailable, "the server has no database of the configured name")
NO_TABLE: Meaning = (Unavailable, "a table is missing, or was dropped meanwhile")
NO_CONNECTION: Meaning = (Busy, "the database takes no more connections")
READ_ONLY: Meaning = (Unavailable, "the database is read-only")
FULL: Meaning = (Full, "the database's disk is full; nothing was changed")
TOO_SLOW: Meaning = (DeadlineExceeded, "the database took too long and was stopped")
LOST: Meaning = (Unavailable, "the connection to the database was lost")
AWAY: Meaning = (Unavailable, "the database cannot be reached")

# https://www.postgresql.org/docs/current/errcodes-appendix.html: a code, else its class.
POSTGRESQL: dict[str, Meaning] = {
    "08": LOST,
    "22": BAD_VALUE,
    "23": VIOLATION,
    "25006": READ_ONLY,
    "28": REFUSED,
    "3D000": NO_DATABASE,
    "40": CROSSED,
    "42501": NO_RIGHT,
    "42P01": NO_TABLE,
    "53100": FULL,
    "53300": NO_CONNECTION,
    "53": (Unavailable, "the database lacks memory or another resource"),
    "54": (Invalid, "a value exceeds the database's limits"),
    "55P03": BUSY,
    "57014": TOO_SLOW,
    "57": (Unavailable, "the database is starting or shutting down"),
    "58": (Unavailable, "the database met an error of its operating system"),
    "XX001": (Corrupt, "the database found its data damaged"),
    "XX002": (Corrupt, "the database found an index damaged"),
    # Citus reports a lost worker and "tuple concurrently updated" by it.
    "XX": (Unavailable, "the database met an internal error"),
}
# https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
MYSQL: dict[int, Meaning] = {
    code: meaning
    for meaning, codes in {
        CROSSED: (1020, 1213),
        BUSY: (1205,),
        FULL: (1021, 1114),
        TOO_SLOW: (1317,),
        LOST: (2006, 2013),
        NO_CONNECTION: (1040,),
        REFUSED: (1045,),
        NO_RIGHT: (1044, 1142),
        NO_DATABASE: (1049,),
        NO_TABLE: (1146,),
        READ_ONLY: (1290, 1792, 1836),
        VIOLATION: (1062, 1451, 1452),
    }.items()
    for code in codes
}
# https://sqlite.org/rescode.html: an extended code, else its last eight bits.
SQLITE: dict[int, Meaning] = {
    3: (Unavailable, "{file} may not be opened: let this user read and write it and its folder"),
    5: (Busy, "another process holds the lock of {file}"),
    6: (Busy, "another connection holds the lock of {file}"),
    7: (Unavailable, "SQLite found no memory"),
    8: (Unavailable, "{file} cannot be written: let this user write it and its folder"),
    10: (Unavailable, "the disk failed under {file}"),
    11: (Corrupt, "{file} is damaged"),
    13: (Full, "the disk of {file} is full; nothing was changed"),
    14: (Unavailable, "{file} cannot be opened: let this user write it and its folder"),
    15: (Busy, "other processes kept the locks of {file}"),
    18: BAD_VALUE,
    19: VIOLATION,
    23: (Unavailable, "{file} may not be opened: let this user read and write it and its folder"),
    26: (Corrupt, "{file} is damaged, or no database of SQLite"),
    1032: (Unavailable, "{file} was moved or replaced: put it back, or restart the service"),
}

# The transaction was rolled back whole, or a table was replaced: the same may succeed now.
AGAIN = frozenset(("40001", "40P01", "42P01", "55P03", "XX000", 1020, 1205, 1213))
# The server went away, or is not the primary any more.
GONE = frozenset((1053, 1290, 1792, 1836, 2002, 2003, 2006, 2013, 2055))
GONE_CLASSES = ("08", "25006", "57P")


def code_of(error: exc.SQLAlchemyError) -> str | int | None:
    """Return the database's code of an error; None where the driver gives none."""
    origin = error.orig if isinstance(error, exc.DBAPIError) else None
    if origin is None:
        return None
    if origin.args and isinstance(origin.args[0], int):  # MySQL's SQLSTATE says less
        return origin.args[0]
    code = getattr(origin, "sqlstate", None) or getattr(origin, "sqlite_errorcode", None)
    return code if isinstance(code, str | int) else None


def is_lost(error: exc.SQLAlchemyError) -> bool:
    """Whether the connection was lost, so that a commit under way may have taken place."""
    if not isinstance(error, exc.DBAPIError) or hasattr(error.orig, "sqlite_errorcode"):
        return False
    code = code_of(error)
    if isinstance(code, str):
        return code.startswith(GONE_CLASSES) or code == "XX000" or error.connection_invalidated
    silent = code is None and isinstance(error, exc.OperationalError | exc.InterfaceError)
    return silent or code in GONE or error.connection_invalidated


def may_repeat(error: exc.SQLAlchemyError) -> bool:
    """Whether the same work may succeed soon: the server went away, or another was let through."""
    return code_of(error) in AGAIN or is_lost(error)


def translate(error: exc.SQLAlchemyError, file: Path | None = None) -> ServiceError:
    """Return what a database or its pool refused as an error of the service."""
    if isinstance(error, exc.TimeoutError):
        return Busy("all connections to the database are in use", retry_after_s=1.0)
    code = code_of(error)
    if file is not None and isinstance(code, int):
        return of_sqlite(code, file)
    for known in (code[:5], code[:2]) if isinstance(code, str) else ():
        if known in POSTGRESQL:
            return _made(POSTGRESQL[known], f" (SQLSTATE {code})")
    if isinstance(code, int) and code in MYSQL:
        return _made(MYSQL[code], f" (error {code})")
    if isinstance(error, exc.IntegrityError):
        return _made(VIOLATION)
    if isinstance(error, exc.DataError):
        return _made(BAD_VALUE)
    if is_lost(error) or isinstance(error, exc.OperationalError | exc.InterfaceError):
        return _made(AWAY)
    return ServiceError(f"the database refused a statement (code {code or 'none'})")


def of_sqlite(code: int, file: Path) -> ServiceError:
    """Return what an (extended) result code of SQLite means for this file."""
    unknown = (ServiceError, f"SQLite refused a statement (code {code})")
    kind, message = SQLITE.get(code) or SQLITE.get(code & 0xFF) or unknown
    # A client need not know the folder. Whoever mends a damaged file does.
    return _made((kind, message.format(file=file if kind is Corrupt else file.name)))


def _made(meaning: Meaning, suffix: str = "") -> ServiceError:
    kind, message = meaning
    waits = issubclass(kind, Unavailable | Full) and kind is not Corrupt
    return kind(message + suffix, retry_after_s=RETRY_AFTER_S if waits else None)
