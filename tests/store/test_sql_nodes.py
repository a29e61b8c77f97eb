"""What Citus leaves prepared on a node, on one PostgreSQL: a transaction of two connections."""

import threading
from collections.abc import Iterator

import psycopg
import pytest

from errors import Unavailable
from store import pg_nodes
from store.pgvector import PostgresStore
from tests.servers.postgres import Postgres
from tests.store.contract import DIM, items


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    Postgres.require()
    with Postgres(max_prepared_transactions=5) as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.database()


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    with PostgresStore(url) as opened:
        opened.create("docs", DIM)
        yield opened


@pytest.fixture
def other(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
        for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
            connection.execute(f"ROLLBACK PREPARED '{gid}'")


def prepare(other: psycopg.Connection, store: PostgresStore, gid: str, id_: str) -> None:
    """Write a row in a transaction that is decided and not finished."""
    table = f"emb_v_{store.info('docs').uuid}"
    vector = "[" + ",".join("1" * DIM) + "]"
    other.execute("BEGIN")
    other.execute(f"INSERT INTO {table} VALUES (%s, %s, NULL, '{{}}', 1)", (id_, vector))
    other.execute(f"PREPARE TRANSACTION '{gid}'")


def test_a_write_that_is_decided_and_not_finished_is_waited_for(
    store: PostgresStore, other: psycopg.Connection
) -> None:
    prepare(other, store, "citus_0_1_2_3", "late")
    seen: list[int] = []

    def wait() -> None:
        store.wait_for_writers("docs")
        seen.append(store.count("docs"))

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    prepare(other, store, "citus_0_1_2_4", "later")  # what comes after is not waited for
    other.execute("COMMIT PREPARED 'citus_0_1_2_3'")
    waiting.join(60)
    assert seen == [1]


def test_one_that_is_never_finished_is_reported(
    store: PostgresStore, other: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg_nodes, "LOCK_TIMEOUT_S", 0.2)
    prepare(other, store, "citus_0_1_2_3", "late")
    with pytest.raises(Unavailable, match="1 transactions are decided.*recover_2pc_interval"):
        store.wait_for_writers("docs")


def test_another_programs_transactions_are_its_own(
    store: PostgresStore, other: psycopg.Connection
) -> None:
    prepare(other, store, "citusless", "late")
    store.wait_for_writers("docs")
    store.upsert("docs", items(3))
    assert store.count("docs") == 3
