"""What is known of the accounts while the database is away, hangs or is written to."""

import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from errors import Unavailable
from sql import forks
from sql.database import Database
from sql.row_cache import RowCache
from sql.tables import API_KEYS, USERS
from tests.accounts.conftest import ADMIN, accounts_of, bearer, token_of
from tests.servers.fixtures import need
from tests.servers.mariadb import MariaDB
from tests.servers.postgres import Postgres

QUICK_S = 1.5  # half of what a hanging database costs its caller, and many times a reply


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX, 510, 0x40000002)  # what SQLite locks to keep all others out
print("held", flush=True)
sys.stdin.read()
"""


def program(code: str, file: str) -> subprocess.Popen[bytes]:
    """Return a program that says when it has locked a file, until its input ends."""
    command = [sys.executable, "-c", code, file]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


class HeldFile:
    """A file of SQLite that another process keeps to itself: no connection can be opened."""

    def __enter__(self) -> "HeldFile":
        self._folder = tempfile.TemporaryDirectory()
        self._file = f"{self._folder.name}/service.db"
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def database(self) -> str:
        return f"sqlite:///{self._file}"

    def pause(self) -> None:
        self._holder = program(HOLD, self._file)
        assert self._holder.stdout is not None
        while not select.select([self._holder.stdout], [], [], 0.05)[0]:
            for calls in list(forks._all):  # what is open goes on, and keeps the lock shared
                calls._close_idle()

    def resume(self) -> None:
        self._holder.communicate()


@pytest.fixture(params=[MariaDB, Postgres, HeldFile], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[MariaDB | Postgres | HeldFile]:
    """A database of our own, to be treated badly."""
    if request.param is not HeldFile:
        need(request.param)
    with request.param() as running:
        yield running


def key_of(client: FlaskClient) -> dict[str, str]:
    """Make a key of the admin and return its headers."""
    admin = bearer(token_of(client, *ADMIN))
    return bearer(client.post("/users/admin/api-key", headers=admin).json["api_key"])


def eventually(condition: Callable[[], bool], limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def rows_of(app: Flask) -> RowCache:
    return accounts_of(app)._rows


def grow_old(rows: RowCache, age_s: float) -> None:
    """Make every cached row so much older, without waiting."""
    for what, (at, row) in list(rows._rows.items()):
        rows._rows[what] = (at - age_s, row)


def away(*_: object) -> None:
    raise Unavailable("away")


WRITER = """
import sqlite3, sys
holder = sqlite3.connect(sys.argv[1], isolation_level=None)
holder.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_writer_that_hangs_delays_no_request(
    make_app: Callable[..., Flask], tmp_path: Path
) -> None:
    """Another process stops in a change of the accounts' file: all that only reads goes on."""
    app = make_app(db_url=f"sqlite:///{tmp_path}/service.db")
    client = app.test_client()
    key = key_of(client)
    holder = program(WRITER, f"{tmp_path}/service.db")
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        for _ in range(3):
            grow_old(rows_of(app), 3)
            began = time.monotonic()
            assert client.post("/embed", json={"text": "x"}, headers=key).status_code == 200
            assert client.get("/models", headers=bearer("emb_aaaaaaaa_x")).status_code == 401
            assert time.monotonic() - began < QUICK_S
        assert rows_of(app).problem is None
    finally:
        holder.communicate()


@pytest.mark.fault("The SQL database")
def test_a_database_that_hangs_costs_one_pause_and_no_more(
    make_app: Callable[..., Flask], server: MariaDB | Postgres | HeldFile
) -> None:
    """The database hangs -> callers seen in the last minute are served after one pause."""
    app = make_app(db_url=server.database())
    client, took = app.test_client(), []
    key = key_of(client)
    assert client.post("/embed", json={"text": "x"}, headers=key).status_code == 200
    server.pause()
    try:
        grow_old(rows_of(app), 3)
        for _ in range(6):
            began = time.monotonic()
            assert client.post("/embed", json={"text": "x"}, headers=key).status_code == 200
            assert client.get("/health").json["degraded"]
            took.append(time.monotonic() - began)
        assert max(took) < 6 and sorted(took)[-2] < QUICK_S, took
        began = time.monotonic()
        unknown = client.get("/models", headers=bearer("emb_aaaaaaaa_x"))
        assert unknown.status_code == 503 and unknown.headers["Retry-After"]
        assert time.monotonic() - began < QUICK_S
    finally:
        server.resume()
    eventually(lambda: client.get("/models", headers=bearer("emb_aaaaaaaa_x")).status_code == 401)


def test_a_write_that_fails_takes_no_ones_access(app: Flask, client: FlaskClient) -> None:
    key, rows = key_of(client), rows_of(app)
    assert client.get("/models", headers=key).status_code == 200
    rows.database.read = rows.database.write = away  # type: ignore[assignment, method-assign]
    with pytest.raises(Unavailable):
        accounts_of(app).users.remove("admin")
    assert client.get("/models", headers=key).status_code == 200
    assert client.get("/models", headers=bearer("emb_aaaaaaaa_x")).status_code == 503


def test_a_keys_last_use_is_written_beside_the_request(app: Flask, client: FlaskClient) -> None:
    key, rows = key_of(client), rows_of(app)
    go_on, write, writes = threading.Event(), rows.database.write, []

    def slow(*args: Callable) -> object:
        writes.append(threading.current_thread().name)
        assert go_on.wait(30)
        return write(*args)

    rows.database.write = slow  # type: ignore[method-assign]
    for _ in range(3):
        assert client.get("/models", headers=key).status_code == 200
    known = dict(rows._rows)
    go_on.set()
    eventually(lambda: all(k.last_used for k in accounts_of(app).keys.of("admin")))
    assert writes == ["notes"]
    assert known and dict(rows._rows) == known, "a note forgets no row"


def test_a_user_deleted_in_another_worker_is_refused_once_the_row_is_old(
    app: Flask, client: FlaskClient
) -> None:
    accounts = accounts_of(app)
    accounts.users.add("uma", "uma-password-1", "user")
    _, text = accounts.keys.add("uma")
    assert client.get("/models", headers=bearer(text)).status_code == 200
    other = Database(app.extensions["services"].config.db_url.get_secret_value())
    other.write(lambda c: c.execute(USERS.delete().where(USERS.c.username == "uma")))
    other.close()
    accounts.keys._noted.clear()  # its next use is noted again, in a row that is gone
    rows = rows_of(app)
    assert rows._fresh_s == 2
    rows._fresh_s = 60
    assert client.get("/models", headers=bearer(text)).status_code == 200
    grow_old(rows, 60)
    assert client.get("/models", headers=bearer(text)).status_code == 401


def test_a_damaged_row_harms_no_other_key(app: Flask, client: FlaskClient) -> None:
    key, text = accounts_of(app).keys.add("admin")
    damage = API_KEYS.update().where(API_KEYS.c.id == key.id).values(collections="{half")
    rows_of(app).write(lambda c: c.execute(damage))
    for _ in range(5):
        assert client.get("/models", headers=bearer(text)).status_code == 500
    assert client.get("/models", headers=key_of(client)).status_code == 200


WHAT = ("user", "uma")


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[RowCache]:
    opened = RowCache(f"sqlite:///{tmp_path}/a.db", kept_s=0.5)
    yield opened
    opened.close()


def test_a_row_is_read_again_after_two_seconds_and_used_for_longer_if_it_cannot_be(
    rows: RowCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows.get(WHAT, lambda c: 1) == rows.get(WHAT, lambda c: 2) == 1
    assert rows.get(WHAT, lambda c: 3, fresh=True) == rows.get(WHAT, lambda c: 4) == 3
    grow_old(rows, 3)
    assert rows.get(WHAT, lambda c: 5) == 5
    monkeypatch.setattr(rows.database, "read", away)
    grow_old(rows, 3)
    assert rows.get(WHAT, lambda c: 6) == rows.get(WHAT, lambda c: 6, fresh=True) == 5
    time.sleep(0.6)  # it was kept for half a second
    with pytest.raises(Unavailable):
        rows.get(WHAT, lambda c: 7)


def test_what_is_not_there_is_no_answer_while_the_database_is_away(
    rows: RowCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows.get(WHAT, lambda c: None) is None
    grow_old(rows, 3)
    monkeypatch.setattr(rows.database, "read", away)
    with pytest.raises(Unavailable):
        rows.get(WHAT, lambda c: None)


def test_others_take_what_is_known_while_one_asks(rows: RowCache) -> None:
    assert rows.get(WHAT, lambda c: 1) == 1
    grow_old(rows, 3)
    asks, answer = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> int:
        asks.set()
        assert answer.wait(30)
        return 2

    first: list[int] = []
    thread = threading.Thread(target=lambda: first.append(rows.get(WHAT, slow)))
    thread.start()
    assert asks.wait(30)
    assert rows.get(WHAT, lambda c: 3) == 1
    answer.set()
    thread.join(30)
    assert first == [2] and rows.get(WHAT, lambda c: 3) == 2
