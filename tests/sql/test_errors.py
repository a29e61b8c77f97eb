"""What databases refuse, by code: PostgreSQL's SQLSTATE, MySQL's number, SQLite's result code."""

import sqlite3
from pathlib import Path

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

import errors
from sql.database import Database, PoolOptions
from sql.errors import Violation, is_lost, may_repeat, of_sqlite, translate


@pytest.mark.parametrize(
    ("state", "kind", "again"),
    [
        ("23505", Violation, False),
        ("22000", errors.Invalid, False),
        ("42P01", errors.Unavailable, True),
        ("53100", errors.Full, False),
        ("53300", errors.Busy, False),
        ("53200", errors.Unavailable, False),
        ("40001", errors.Busy, True),
        ("40P01", errors.Busy, True),
        ("55P03", errors.Busy, True),
        ("57014", errors.DeadlineExceeded, False),
        ("57P01", errors.Unavailable, True),
        ("57P03", errors.Unavailable, True),
        ("08006", errors.Unavailable, True),
        ("25006", errors.Unavailable, True),
        ("28P01", errors.Unavailable, False),
        ("3D000", errors.Unavailable, False),
        ("42501", errors.Unavailable, False),
        ("58030", errors.Unavailable, False),
        ("XX000", errors.Unavailable, True),  # Citus: a worker went, or a tuple was updated
        ("XX001", errors.Corrupt, False),
        ("XX002", errors.Corrupt, False),
        ("42601", errors.ServiceError, False),
    ],
)
def test_postgresql(state: str, kind: type[errors.ServiceError], again: bool) -> None:
    origin = psycopg.errors.lookup(state)("secret detail")
    refused = sa.exc.DBAPIError.instance("SELECT secret", {"p": "secret"}, origin, psycopg.Error)
    said = translate(refused)
    assert type(said) is kind and "secret" not in said.message
    assert may_repeat(refused) is again
    if said.status in (503, 507) and kind is not errors.Corrupt:
        assert said.retry_after_s


@pytest.mark.parametrize(
    ("number", "kind", "again"),
    [
        (1062, Violation, False),
        (1213, errors.Busy, True),
        (1205, errors.Busy, True),
        (1040, errors.Busy, False),
        (1114, errors.Full, False),
        (1045, errors.Unavailable, False),
        (2006, errors.Unavailable, True),
        (2013, errors.Unavailable, True),
        (2003, errors.Unavailable, True),
        (1290, errors.Unavailable, True),
        (1064, errors.ServiceError, False),
    ],
)
def test_mysql(number: int, kind: type[errors.ServiceError], again: bool) -> None:
    try:
        pymysql.err.raise_mysql_exception(b"\xff" + number.to_bytes(2, "little") + b"#HY000secret")
    except pymysql.Error as origin:
        refused = sa.exc.DBAPIError.instance("SELECT secret", {}, origin, pymysql.Error)
        if number >= 2000:  # by the client, not the server
            origin = pymysql.err.OperationalError(number, "secret")
            refused = sa.exc.DBAPIError.instance("SELECT secret", {}, origin, pymysql.Error)
    said = translate(refused)
    assert type(said) is kind and "secret" not in said.message
    assert may_repeat(refused) is again


def test_a_server_that_cannot_be_reached_may_be_asked_again() -> None:
    origin = psycopg.OperationalError("connection refused to secret")
    refused = sa.exc.DBAPIError.instance("", {}, origin, psycopg.Error)
    assert is_lost(refused) and may_repeat(refused)
    assert type(translate(refused)) is errors.Unavailable


FILE = Path("/data/x.db")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, errors.Busy),
        (sqlite3.SQLITE_FULL, errors.Full),
        (sqlite3.SQLITE_READONLY, errors.Unavailable),
        (sqlite3.SQLITE_CANTOPEN, errors.Unavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, errors.Unavailable),
        (sqlite3.SQLITE_CORRUPT_INDEX, errors.Corrupt),
        (sqlite3.SQLITE_NOTADB, errors.Corrupt),
        (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, Violation),
        (sqlite3.SQLITE_ERROR, errors.ServiceError),
    ],
)
def test_sqlite(code: int, kind: type[errors.ServiceError]) -> None:
    said = of_sqlite(code, FILE)
    assert type(said) is kind
    if kind in (errors.Busy, errors.Full, errors.Unavailable, errors.Corrupt):
        assert (str(FILE) if kind is errors.Corrupt else FILE.name) in said.message


def fill(connection: sa.Connection) -> None:
    connection.exec_driver_sql("PRAGMA max_page_count = 30")
    connection.exec_driver_sql("CREATE TABLE big (x BLOB)")
    connection.exec_driver_sql("INSERT INTO big VALUES (zeroblob(1000000))")


def test_real_files_of_sqlite(tmp_path: Path) -> None:
    """Full, damaged, read-only, in no folder, locked: each is told by its code."""
    options = PoolOptions(patience_s=0.1)
    file = tmp_path / "full.db"
    database = Database(f"sqlite:///{file}", pool=options)
    with pytest.raises(errors.Unavailable, match="full.db is full"):
        database.write(fill)
    other = Database(f"sqlite:///{file}", pool=options)
    with database.engine.connect().execution_options(writes=True) as holder:
        holder.exec_driver_sql("DELETE FROM users")
        assert other.read(lambda c: c.scalar(sa.text("SELECT count(*) FROM users"))) == 0
        with pytest.raises(errors.Busy, match="full.db"):
            other.write(lambda c: c.exec_driver_sql("DELETE FROM users"))
    database.close()
    other.close()

    file = tmp_path / "damaged.db"
    file.write_bytes(b"no database at all" * 100)
    for database in (
        Database(f"sqlite:///{file}"),
        Database(f"sqlite:///{tmp_path}/damaged.db/inside/x.db"),
    ):
        with pytest.raises(errors.Unavailable, match="damaged.db|x.db"):
            database.read(lambda c: c.exec_driver_sql("SELECT * FROM users"))
        database.close()
