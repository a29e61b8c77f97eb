"""What is remembered of the accounts while the database is away, hangs or is written to."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from accounts.api_keys import KEYS
from accounts.users import USERS
from errors import Busy, Unavailable
from sql import row_cache
from sql.database import Database
from sql.row_cache import Memo
from tests.accounts.conftest import ADMIN, accounts_of, bearer, token_of
from tests.servers.fixtures import need
from tests.servers.mariadb import MariaDB
from tests.servers.postgres import Postgres

QUICK_S = 1.5  # half of what a hanging database costs whoever waits for it, and many times a reply


@pytest.fixture(params=[MariaDB, Postgres], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[MariaDB | Postgres]:
    """A database server of our own, to be treated badly."""
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
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def went_stale(app: Flask) -> None:
    """Let what is remembered be older than two seconds, without waiting for it."""
    accounts_of(app)._memo._doubted = time.monotonic()


@pytest.mark.fault("The SQL database")
def test_a_database_that_hangs_costs_one_pause_and_no_more(
    make_app: Callable[..., Flask], server: MariaDB | Postgres
) -> None:
    """The database hangs -> callers known in the last minute go on, after one pause."""
    app = make_app(db_url=server.database())
    client, took = app.test_client(), []
    key = key_of(client)
    assert client.post("/embed", json={"text": "x"}, headers=key).status_code == 200
    server.pause()
    try:
        went_stale(app)
        for _ in range(6):
            began = time.monotonic()
            assert client.post("/embed", json={"text": "x"}, headers=key).status_code == 200
            assert client.get("/health").status_code == 200
            took.append(time.monotonic() - began)
        assert sorted(took)[-2] < QUICK_S, took
        began = time.monotonic()
        unknown = client.get("/models", headers=bearer("emb_aaaaaaaa_x"))
        assert unknown.status_code == 503 and unknown.headers["Retry-After"]
        assert time.monotonic() - began < QUICK_S
    finally:
        server.resume()
    eventually(lambda: client.get("/models", headers=bearer("emb_aaaaaaaa_x")).status_code == 401)


def test_a_write_that_fails_takes_nobodys_access(app: Flask, client: FlaskClient) -> None:
    key, accounts = key_of(client), accounts_of(app)
    assert client.get("/models", headers=key).status_code == 200

    def away(work: object) -> None:
        raise Unavailable("away")

    database = accounts._memo._database
    database.read = database.write = away  # type: ignore[assignment, method-assign]
    with pytest.raises(Unavailable):
        accounts.users.remove("admin")
    assert client.get("/models", headers=key).status_code == 200
    assert client.get("/models", headers=bearer("emb_aaaaaaaa_x")).status_code == 503


def test_what_was_known_long_ago_serves_no_more(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, database = key_of(client), accounts_of(app)._memo._database
    assert client.get("/models", headers=key).status_code == 200

    def away(work: object) -> None:
        raise Unavailable("away")

    database.read = away  # type: ignore[assignment, method-assign]
    monkeypatch.setattr(row_cache, "REMEMBER_AWAY_S", 0.0)
    went_stale(app)
    assert client.get("/models", headers=key).status_code == 503


def test_a_keys_last_use_is_written_beside_the_request(app: Flask, client: FlaskClient) -> None:
    key, accounts = key_of(client), accounts_of(app)
    let, write, writes = threading.Event(), accounts._memo._database.write, []

    def slow(work: Callable) -> object:
        writes.append(threading.current_thread().name)
        assert let.wait(30)
        return write(work)

    accounts._memo._database.write = slow  # type: ignore[assignment, method-assign]
    for _ in range(3):
        assert client.get("/models", headers=key).status_code == 200
    known = dict(accounts._memo._known)
    let.set()
    eventually(lambda: all(k.last_used for k in accounts.keys.of("admin")))
    assert writes == ["notes"]
    assert known and accounts._memo._known == known, "a note forgets nothing"


def test_a_user_deleted_in_another_worker_is_unknown_not_missing(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_cache, "REMEMBER_S", 60.0)
    accounts = accounts_of(app)
    accounts.users.add("uma", "uma-password-1", "user")
    _, text = accounts.keys.add("uma")
    assert client.get("/models", headers=bearer(text)).status_code == 200
    accounts.keys._noted.clear()  # the key's next use is to be noted again
    other = Database(app.extensions["services"].config.db_url.get_secret_value())
    other.write(lambda c: c.execute(USERS.delete().where(USERS.c.username == "uma")))
    other.close()
    assert client.get("/models", headers=bearer(text)).status_code == 200  # as remembered
    went_stale(app)
    assert client.get("/models", headers=bearer(text)).status_code == 401


def test_a_damaged_row_is_nobody_elses_trouble(app: Flask, client: FlaskClient) -> None:
    accounts = accounts_of(app)
    key, text = accounts.keys.add("admin")
    damage = KEYS.update().where(KEYS.c.id == key.id).values(collections="{half")
    accounts._memo.write(lambda c: c.execute(damage))
    for _ in range(5):
        assert client.get("/models", headers=bearer(text)).status_code == 500
    assert client.get("/models", headers=key_of(client)).status_code == 200


def test_others_take_what_is_known_while_one_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_cache, "REMEMBER_S", 60.0)
    known = Memo(f"sqlite:///{tmp_path}/a.db")
    what = ("user", "uma")
    assert known.remembered(what, lambda c: 1) == 1
    known._doubted = time.monotonic()
    asks, answer = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> int:
        asks.set()
        assert answer.wait(30)
        return 2

    first: list[int] = []
    thread = threading.Thread(target=lambda: first.append(known.remembered(what, slow)))
    thread.start()
    assert asks.wait(30)
    assert known.remembered(what, lambda c: 3) == 1
    answer.set()
    thread.join(30)
    assert first == [2] and known.remembered(what, lambda c: 3) == 2
    known.close()


@pytest.mark.parametrize("kind", ["mariadb", "postgres"])
def test_a_change_that_loses_a_deadlock_is_made_again(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Two transactions that take two rows in opposite order; each has one when both ask for two."""
    database = Database(request.getfixturevalue(kind).database())
    database.migrate()
    rows = {"role": "user", "password_hash": "x", "token_version": 0, "created": 0.0}
    database.write(lambda c: c.execute(USERS.insert(), [{"username": n, **rows} for n in "ab"]))
    both = threading.Barrier(2, timeout=30)

    def change(names: str) -> None:
        def work(connection: sa.Connection) -> None:
            for i, name in enumerate(names):
                update = USERS.update().where(USERS.c.username == name)
                connection.execute(update.values(token_version=USERS.c.token_version + 1))
                if i == 0:
                    with suppress(threading.BrokenBarrierError):
                        both.wait()

        database.write(work)
        both.abort()  # the one that tries again waits for nobody

    threads = [threading.Thread(target=change, args=(names,)) for names in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    query = sa.select(USERS.c.token_version)
    assert database.read(lambda c: list(c.scalars(query))) == [2, 2]
    database.close()


def test_who_does_not_get_the_lock_over_the_tables_does_not_make_them(
    mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.database.LOCK_TRIES", 1)
    url = mariadb.database()
    holder, other = Database(url), Database(url)

    def work(connection: sa.Connection) -> None:
        with holder._alone(connection), pytest.raises(Busy, match="another process"):
            other.migrate()

    holder.write(work)
    other.migrate()
    holder.close()
    other.close()
