"""A budget in PostgreSQL: its statements end with the request, and its rows come in parts."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from errors import DeadlineExceeded, TooLarge
from store import Item
from store.budget import Budget
from store.sql import SqlStore
from tests.servers.postgres import Postgres

TEXT = 1 << 20


@pytest.fixture
def store(postgres: Postgres) -> Iterator[SqlStore]:
    with SqlStore(postgres.database()) as opened:
        yield opened


@pytest.mark.fault("The store")
def test_the_database_stops_working_for_a_request_whose_deadline_passed(store: SqlStore) -> None:
    """PostgreSQL is not done by the request's deadline -> its statement is cancelled, 504; a
    deletion has then deleted nothing.
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


def peak_mb() -> int:
    """Return the most memory that this process has held since it was last asked."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def test_what_is_not_replied_is_not_fetched(store: SqlStore) -> None:
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
