"""The store on a real Citus cluster, where `CITUS_URL` names its coordinator.

The database must be the tests' own: every collection in it is dropped. `docs/scale.md` tells how a
cluster for it is made. What holds on plain PostgreSQL too is in `test_sql_nodes.py`.
"""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from errors import Unavailable
from store import Item, VectorStore
from store.pgvector import PostgresStore
from tests.faults.conftest import until
from tests.store.contract import DIM, Contract, items
from tests.store.operations import machine, run

URL = os.environ.get("CITUS_URL", "")
if not URL:
    pytest.skip("CITUS_URL names no Citus coordinator", allow_module_level=True)


def fresh(shards: int = 4) -> PostgresStore:
    store = PostgresStore(URL, shards=shards)
    for info in store.collections():
        store.drop(info.name)
    return store


@pytest.fixture
def store() -> Iterator[VectorStore]:
    with fresh() as opened:
        yield opened


class TestCitus(Contract):
    pass


def test_random_operations_agree_with_a_dict() -> None:
    run(machine(fresh), 12, 25)


def test_a_backup_is_of_one_moment_on_every_node(store: PostgresStore, tmp_path: Path) -> None:
    store.create("docs", DIM)
    batch, stop, rounds = items(40), threading.Event(), 0

    def write() -> None:
        nonlocal rounds
        while not stop.is_set():  # every row of the batch says which round wrote it
            store.upsert("docs", [Item(i.id, i.vector, None, {"round": rounds}) for i in batch])
            rounds += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: rounds > 1)
        for number in range(40):
            store.backup("docs", tmp_path / str(number))
            lines = (tmp_path / str(number) / "collection.jsonl").read_text().splitlines()[1:]
            assert len({json.loads(line)["metadata"]["round"] for line in lines}) == 1
    finally:
        stop.set()
        writer.join(60)


def test_what_a_worker_has_not_finished_is_waited_for(store: PostgresStore) -> None:
    store.create("docs", DIM)
    store.upsert("docs", items(20))
    find = "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid <> 0 LIMIT 1"
    with psycopg.connect(URL) as coordinator:
        host, port = coordinator.execute(find).fetchone() or ("", 0)
    worker = psycopg.connect(URL, host=host, port=port, autocommit=True)
    ended = threading.Event()
    try:
        worker.execute("BEGIN")
        worker.execute("SELECT pg_advisory_xact_lock(77)")
        # Of a node that is not there, as Citus would at once undo what the coordinator never began.
        worker.execute("PREPARE TRANSACTION 'citus_77_0_0_0'")

        def wait() -> None:
            store.wait_for_writers("docs")
            ended.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not ended.wait(0.5)
        worker.execute("COMMIT PREPARED 'citus_77_0_0_0'")
        assert ended.wait(30)
        waiting.join(30)
    finally:
        worker.close()


def test_a_copy_without_shards_finds_as_many(store: PostgresStore) -> None:
    store.create("docs", DIM)
    store.upsert("docs", items(600))
    with PostgresStore(URL) as other:
        (hits,) = other.search("docs", items(1)[0].vector, k=500).hits
        assert len(hits) == 500


def test_a_worker_that_cannot_be_asked_is_a_problem(store: PostgresStore) -> None:
    store.create("docs", DIM)
    with psycopg.connect(URL, autocommit=True) as coordinator:
        dead = "SELECT citus_add_inactive_node('127.0.0.1', 1)"
        try:
            coordinator.execute(dead)
            coordinator.execute("UPDATE pg_dist_node SET isactive = true WHERE nodeport = 1")
            with pytest.raises(Unavailable, match="cannot be asked"):
                store.wait_for_writers("docs")
        finally:
            coordinator.execute("UPDATE pg_dist_node SET isactive = false WHERE nodeport = 1")
            coordinator.execute("SELECT citus_remove_node('127.0.0.1', 1)")
