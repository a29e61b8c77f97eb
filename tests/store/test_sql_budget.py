"""A budget in PostgreSQL: its statements end with the request, and its rows come in parts."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from errors import ClientGone, DeadlineExceeded, TooLarge
from store import Item
from store.budget import Budget
from store.pgvector import PostgresStore
from tests.servers.postgres import Postgres

TEXT = 1 << 20


@pytest.fixture
def store(postgres: Postgres) -> Iterator[PostgresStore]:
    with PostgresStore(postgres.database()) as opened:
        yield opened


@pytest.mark.fault("The store")
def test_the_database_stops_working_for_a_request_whose_deadline_passed(
    store: PostgresStore,
) -> None:
    """PostgreSQL is not done by the request's deadline -> its statement is cancelled, 504; a
    deletion has deleted nothing.
    """
    store.create("c", 2)
    store.upsert("c", [Item("a", [1, 2], None, {"n": 1})])
    table = store._look("c", lambda _, collection: collection.table)
    with store.db.engine.connect() as other:
        other.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        for call in (
            lambda soon: store.get("c", ["a"], budget=soon),
            lambda soon: store.count("c", {"n": 1}, soon),
            lambda soon: store.search("c", [[1, 2]], budget=soon),
            lambda soon: store.scroll("c", budget=soon),
            lambda soon: store.sample("c", 5, soon),
            lambda soon: store.delete("c", filter={"n": 1}, budget=soon),
        ):
            with pytest.raises(DeadlineExceeded):
                call(Budget(deadline=time.monotonic() + 0.2))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE :table AND pid <> :me"
        me = other.scalar(sa.text("SELECT pg_backend_pid()"))
        values = {"table": f"%FROM {table}%", "me": me}
        assert not other.scalar(sa.text(waiting + " AND state = 'active'"), values)
        other.rollback()
    assert store.count("c") == 1


def test_many_short_statements_end_with_one_deadline(store: PostgresStore) -> None:
    store.create("c", 2)
    store.upsert("c", [Item(str(i), [1, 0], None, {"x": "a" * 60_000}) for i in range(10)])
    nothing = {"$or": [{"x": {"$contains": f"y{i}"}} for i in range(5)]}  # of 3 MB a query
    with pytest.raises(DeadlineExceeded):
        store.search("c", [[1, 0]] * 100, filter=nothing, budget=Budget(time.monotonic() + 0.1))


@pytest.mark.fault("The store")
def test_the_database_stops_working_for_a_client_that_left(store: PostgresStore) -> None:
    """The client leaves while PostgreSQL works for it -> its statement is cancelled within a
    moment, and the connection is used again.
    """
    store.create("c", 2)
    table = store._look("c", lambda _, collection: collection.table)
    with store.db.engine.connect() as other:
        other.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        for call in (
            lambda budget: store.count("c", budget=budget),
            lambda budget: store.search("c", [[1, 2]], 100, budget=budget),
            lambda budget: store.delete("c", filter={"n": 1}, budget=budget),
        ):
            left_at, began = time.monotonic() + 0.3, store.db.engine.pool.checkedin()
            with pytest.raises(ClientGone):
                call(Budget(gone=lambda: time.monotonic() > left_at))  # noqa: B023
            assert store.db.engine.pool.checkedin() == max(1, began)
        other.rollback()
    assert store.count("c") == 0


def peak_mb() -> int:
    """Return the most memory that this process has held since it was last asked."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def test_what_is_not_replied_is_not_fetched(store: PostgresStore) -> None:
    store.create("c", 2)
    for i in range(0, 100, 20):
        store.upsert("c", [Item(f"{i + j:02}", [1, j], "x" * TEXT) for j in range(20)])
    ids = [f"{i:02}" for i in range(100)]
    peak_mb()
    before = peak_mb()
    for call in (
        lambda: store.get("c", ids, budget=Budget(left=TEXT * 3)),
        lambda: store.search("c", [[1, 2]], 100, budget=Budget(left=TEXT * 3)),
    ):
        with pytest.raises(TooLarge):
            call()
    assert len(store.scroll("c", limit=100, budget=Budget(left=TEXT * 3)).records) == 2
    assert peak_mb() - before < 80  # the whole reply is 100 MB, and as much again in the driver
