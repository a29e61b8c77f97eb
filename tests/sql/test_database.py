"""One way to SQL: deadlocks, locks, lost commits, forks, and many processes on one file."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
import sqlalchemy as sa

import errors
from config.addresses import driver_url
from sql import forks
from sql.database import Database, PoolOptions
from sql.errors import Violation
from sql.tables import API_KEYS, SETTINGS, USERS
from tests.servers.mariadb import MariaDB
from tests.servers.postgres import Postgres
from tests.store.cutting_proxy import CuttingProxy


@pytest.fixture(params=["mariadb", "postgres"])
def server(request: pytest.FixtureRequest) -> MariaDB | Postgres:
    return request.getfixturevalue(request.param)


def two_users(url: str, pool: PoolOptions | None = None) -> Database:
    database = Database(url, pool=pool)
    rows = {"role": "user", "password_hash": "x", "token_version": 0, "created": 0.0}
    database.write(lambda c: c.execute(USERS.insert(), [{"username": n, **rows} for n in "ab"]))
    return database


def raise_version(connection: sa.Connection, name: str) -> None:
    update = USERS.update().where(USERS.c.username == name)
    connection.execute(update.values(token_version=USERS.c.token_version + 1))


def versions(database: Database) -> list[int]:
    query = sa.select(USERS.c.token_version).order_by(USERS.c.username)
    return database.read(lambda c: list(c.scalars(query)))


def test_a_change_that_loses_a_deadlock_is_made_again(server: MariaDB | Postgres) -> None:
    """Two transactions that take two rows in opposite order; each has one when both ask for two."""
    database = two_users(server.database())
    both = threading.Barrier(2, timeout=30)

    def change(names: str) -> None:
        def work(connection: sa.Connection) -> None:
            for i, name in enumerate(names):
                raise_version(connection, name)
                if i == 0:
                    with suppress(threading.BrokenBarrierError):
                        both.wait()

        database.write(work)
        both.abort()  # the one that tries again waits for no one

    threads = [threading.Thread(target=change, args=(names,)) for names in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert versions(database) == [2, 2]
    database.close()


def test_a_lock_that_is_not_released_in_time_is_waited_for_again(
    server: MariaDB | Postgres,
) -> None:
    database = two_users(server.database(), PoolOptions(lock_timeout_s=1.0))
    tries: list[float] = []

    def work(connection: sa.Connection) -> None:
        tries.append(time.monotonic())
        raise_version(connection, "a")

    with database.engine.connect() as holder:
        raise_version(holder, "a")
        writer = threading.Thread(target=database.write, args=(work,))
        writer.start()
        while len(tries) < 2 and writer.is_alive():
            time.sleep(0.01)
        holder.commit()
    writer.join(60)
    assert versions(database) == [2, 0]
    with database.engine.connect() as holder:
        raise_version(holder, "a")
        began = time.monotonic()
        with pytest.raises(errors.Busy):
            database.write(work)
        assert time.monotonic() - began < 15
    database.close()


def test_an_internal_error_is_tried_again_and_is_no_damage(postgres: Postgres) -> None:
    """Citus reports `tuple concurrently updated` and a lost worker as XX000."""
    database = Database(postgres.database())
    fails = "DO $$ BEGIN RAISE 'tuple concurrently updated' USING ERRCODE = 'XX000'; END $$"
    tries: list[str] = []

    def work(connection: sa.Connection, failures: int) -> int:
        tries.append("")
        if len(tries) <= failures:
            connection.exec_driver_sql(fails)
        return len(tries)

    assert database.write(lambda c: work(c, 1)) == 2
    with pytest.raises(errors.Unavailable) as refused:
        database.write(lambda c: work(c, 99))
    assert type(refused.value) is errors.Unavailable and refused.value.retry_after_s
    database.close()


def test_what_is_taken_is_a_violation(server: MariaDB | Postgres) -> None:
    database = two_users(server.database())
    row = {"username": "a", "role": "user", "password_hash": "x", "token_version": 0, "created": 0}
    with pytest.raises(Violation):
        database.write(lambda c: c.execute(USERS.insert().values(row)))
    with pytest.raises(errors.Invalid) if isinstance(server, Postgres) else suppress(Exception):
        database.write(lambda c: c.execute(SETTINGS.insert().values(key="a\0b", value="1")))
    database.close()


def test_a_commit_whose_answer_was_lost_is_not_claimed(postgres: Postgres) -> None:
    name = postgres.database().rpartition("/")[2]
    with CuttingProxy(postgres.port) as proxy:
        database = two_users(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}")
        proxy.cut_at(b"COMMIT", True)
        with pytest.raises(errors.Unavailable, match="whole or not at all"):
            database.write(lambda c: raise_version(c, "a"))
        end = time.monotonic() + 60
        while versions(database) != [1, 0]:  # the server may still be at it
            assert time.monotonic() < end
        proxy.cut_at(b"UPDATE", True)  # before the commit: simply done again
        database.write(lambda c: raise_version(c, "a"))
        assert versions(database) == [2, 0] and proxy.cuts == 2
        database.close()


def test_connections_that_were_left_open_warn_of_nothing(postgres: Postgres) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        database = Database(postgres.database())
        held = database.engine.connect()
        held.exec_driver_sql("SELECT 1")
        del database, held
        gc.collect()
    with pytest.warns(ResourceWarning):  # the control: psycopg's own class
        open_ = psycopg.connect(postgres.url())
        del open_
        gc.collect()


# -- SQLite ----------------------------------------------------------------------------------------


def test_files_keep_a_log_and_sync_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a.db")
    asked = ("journal_mode", "synchronous", "foreign_keys")
    found = database.read(lambda c: [c.exec_driver_sql(f"PRAGMA {p}").scalar() for p in asked])
    assert found == ["wal", 2, 1]
    database.close()


def held_in_commit(database: Database) -> None:
    """Raise as the COMMIT of a row that refers to nothing does: the transaction stays open."""

    def work(connection: sa.Connection) -> None:
        raise_version(connection, "a")
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        row = {"id": "k", "owner": "nobody", "label": "x", "hash": "x", "created": 0.0}
        connection.execute(API_KEYS.insert().values(row))

    with pytest.raises(Violation):
        database.write(work)


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    database = two_users(f"sqlite:///{tmp_path}/a.db", PoolOptions(patience_s=0.5))
    other = Database(f"sqlite:///{tmp_path}/a.db", pool=PoolOptions(patience_s=0.5))
    held_in_commit(database)
    assert versions(database) == versions(other) == [0, 0]
    for each in (other, database, other):
        each.write(lambda c: raise_version(c, "b"))
    assert versions(database) == versions(other) == [0, 3]
    database.close()
    other.close()


def test_a_commit_that_meets_a_reader_leaves_no_lock(tmp_path: Path) -> None:
    """With a rollback journal, which another program may have set, a reader delays a commit."""
    database = two_users(f"sqlite:///{tmp_path}/a.db", PoolOptions(patience_s=0.3))
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.rollback()
        assert driver.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    reader = apsw.Connection(f"{tmp_path}/a.db")
    reader.execute("BEGIN; SELECT * FROM users").fetchall()
    with pytest.raises(errors.Busy):
        database.write(lambda c: raise_version(c, "a"))
    reader.execute("ROLLBACK")
    assert reader.execute("SELECT token_version FROM users").fetchall() == [(0,), (0,)]
    database.write(lambda c: raise_version(c, "b"))
    assert versions(database) == [0, 1]
    reader.close()
    database.close()


STOPS = """
import os, signal, sys
import apsw
holder = apsw.Connection(sys.argv[1])
holder.execute("BEGIN EXCLUSIVE; UPDATE users SET token_version = 9")
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
holder.execute("COMMIT")
"""


def test_a_process_that_stops_in_a_change_delays_no_reader(tmp_path: Path) -> None:
    database = two_users(f"sqlite:///{tmp_path}/a.db", PoolOptions(patience_s=0.5))
    file, seen = f"{tmp_path}/a.db", database.version()
    holder = subprocess.Popen([sys.executable, "-c", STOPS, file], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        other = Database(f"sqlite:///{file}")
        began = time.monotonic()
        for _ in range(20):
            assert versions(database) == versions(other) == [0, 0] and database.version() == seen
        assert time.monotonic() - began < 0.5
        with pytest.raises(errors.Busy):
            database.write(lambda c: raise_version(c, "a"))
        other.close()
    finally:
        holder.send_signal(signal.SIGCONT)
        holder.communicate()
    assert versions(database) == [9, 9] and database.version() != seen
    database.close()


def count_up(url: str, times: int, failures: Any) -> None:
    """Read and write by turns; a write reads first, as most do."""
    database = Database(url)

    def work(connection: sa.Connection) -> None:
        query = sa.select(USERS.c.token_version).where(USERS.c.username == "a")
        known = connection.scalar(query) or 0
        update = USERS.update().where(USERS.c.username == "a")
        connection.execute(update.values(token_version=known + 1))

    try:
        for _ in range(times):
            database.write(work)
            for _ in range(5):
                versions(database)
    except errors.ServiceError as error:
        failures.put(str(error))
    database.close()


def test_four_processes_read_and_write_one_file(tmp_path: Path) -> None:
    url, spawn = f"sqlite:///{tmp_path}/a.db", multiprocessing.get_context("spawn")
    two_users(url).close()
    failures = spawn.Queue()
    processes = [spawn.Process(target=count_up, args=(url, 30, failures)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert failures.empty() and [process.exitcode for process in processes] == [0] * 4
    database = Database(url)
    assert versions(database) == [120, 0]
    database.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_uses_connections_of_its_own(tmp_path: Path) -> None:
    database = two_users(f"sqlite:///{tmp_path}/a.db")
    before = database.version()
    children = []
    for _ in range(3):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                for _ in range(10):
                    database.write(lambda c: raise_version(c, "a"))
                    seen = database.version()
                    database.write(lambda c: raise_version(c, "b"))
                    assert database.version() != seen
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    for _ in range(10):
        database.write(lambda c: raise_version(c, "a"))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert versions(database) == [40, 30] and database.version() != before
    assert database.version() == database.version()
    database.close()


def forked(database: Database) -> int:
    """Return how a child fares that writes: 0 if well, 2 if it is refused for the fork."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            database.write(lambda c: raise_version(c, "b"))
            code = 0
        except errors.Unavailable as error:
            code = 2 if "during a fork" in error.message else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("reads_s", "waits_s", "fares"), [(0.5, 60, 0), (6, 1.5, 2)])
def test_a_fork_waits_for_the_calls_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads_s: float, waits_s: float, fares: int
) -> None:
    """A thread reads, and reads from another file meanwhile. If that takes too long, the child is
    refused: it must neither use those connections nor open others.
    """
    monkeypatch.setattr(forks, "WAIT_S", waits_s)
    database, other = (two_users(f"sqlite:///{tmp_path}/{name}.db") for name in "xy")
    given_up = forks.Calls(tmp_path, lambda: None).under_way()
    given_up.__enter__()
    ends_it = threading.Thread(target=lambda: given_up.__exit__(None, None, None))
    ends_it.start()
    ends_it.join()
    reads, nested = threading.Event(), list[Any]()

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.select(USERS)).first()
        reads.set()
        time.sleep(reads_s)
        nested.append(versions(other))

    thread = threading.Thread(target=database.read, args=(work,))
    thread.start()
    assert reads.wait(60)
    began = time.monotonic()
    assert forked(database) == fares
    assert time.monotonic() - began >= min(reads_s, waits_s) - 0.1
    assert fares == 0 or thread.is_alive()  # the fork did not wait for it to the end
    thread.join()
    assert nested == [[0, 0]]
    database.write(lambda c: raise_version(c, "a"))
    assert versions(database) == [1, fares == 0] and forked(other) == 0
    database.close()
    other.close()


def test_a_database_in_memory_is_one_for_all_threads() -> None:
    database = two_users("sqlite://")
    threads = [
        threading.Thread(target=database.write, args=(lambda c: raise_version(c, "a"),))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert versions(database) == [8, 0]
    database.close()


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hosts", "database"),
    [
        ("postgresql://u:p@h:1/d", {"h"}, "d"),
        ("postgres://u:p@h/d", {"h"}, "d"),
        ("postgresql+asyncpg://u:p@h/d", {"h"}, "d"),
        ("postgresql://u:p%40,w@h1:1,h2:2/d?target_session_attrs=any", {"h1:1", "h2:2"}, "d"),
        ("postgresql://h1,h2/d", {"h1", "h2"}, "d"),
        ("postgresql://u@/d?host=h1:1&host=h2:2", {"h1:1", "h2:2"}, "d"),
    ],
)
def test_every_spelling_of_a_url_is_read(text: str, hosts: set[str], database: str) -> None:
    url = driver_url(text)
    given = url.query.get("host", url.host)
    assert url.drivername == "postgresql+psycopg"
    assert ({given} if isinstance(given, str) else set(given)) == hosts
    assert url.database == database
    if "%40" in text:
        assert url.password == "p@,w"
