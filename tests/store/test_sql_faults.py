"""What a database server can do to us, done for real: killed, frozen, failed over, cut off."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

import errors
from store import Item
from store.budget import Budget
from store.pgvector import POOL, PostgresStore
from tests.servers.fixtures import need
from tests.servers.postgres import Postgres
from tests.servers.programs import Program
from tests.store.cutting_proxy import CuttingProxy

QUICK = replace(POOL, connect_timeout_s=2)
NARROW = replace(POOL, pool_size=1, max_overflow=0, pool_timeout_s=0.2)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server of this test's own, to be broken."""
    need(Postgres)
    with Postgres() as server:
        yield server


def item(id_: str, *vector: float) -> Item:
    return Item(id_, vector or (1.0, 2.0, 3.0))


def test_four_writers_and_kill_9_lose_nothing_acknowledged(
    own_postgres: Postgres, tmp_path: Path
) -> None:
    url, rows, stop = own_postgres.database(), 5, tmp_path / "stop"
    with PostgresStore(url) as store:
        store.create("c", 3)
        code = "import sys; from tests.store.sql_writer import main; main(*sys.argv[1:])"
        writers = [Program(code, url, str(i), str(rows), str(stop)) for i in range(4)]
        try:
            wait_until(lambda: store.count("c") > 200)
            own_postgres.kill()
            wait_until(Path(f"{stop}.away").exists)  # one has met it
            own_postgres.start()
            before = store.count("c")
            wait_until(lambda: store.count("c") > before + 200)
        finally:
            stop.touch()
            outputs = [writer.communicate(timeout=90)[0] for writer in writers]
        acked, whole = 0, 0
        for worker, output in enumerate(outputs):
            for line in output.splitlines():
                _, number, inserted, attempts = line.split()
                ids = [f"{worker}-{number}-{i}" for i in range(rows)]
                assert len(store.get("c", ids)) == rows, f"lost an acknowledged row of {line}"
                assert inserted == str(rows) or attempts != "1", f"a wrong answer: {line}"
                acked += rows
        stored = [record.id for record in everything(store, "c")]
        batches = [id_.rpartition("-")[0] for id_ in stored]
        assert all(batches.count(batch) == rows for batch in set(batches)), "half a batch"
        whole = len(stored) - acked
        assert acked > 400
        assert 0 <= whole <= 4 * rows  # each writer may have had one batch under way at the end
        assert any(line.split()[3] != "1" for output in outputs for line in output.splitlines())


def everything(store: PostgresStore, name: str) -> list:
    records, cursor = [], None
    while True:
        page = store.scroll(name, cursor, 1000)
        records += page.records
        if (cursor := page.next_cursor) is None:
            return records


def wait_until(true, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while True:
        try:
            if true():
                return
        except errors.Unavailable:
            pass
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def test_a_promoted_standby_takes_over_through_a_url_of_two_hosts(own_postgres: Postgres) -> None:
    own_postgres.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    with own_postgres.standby() as standby:
        own_postgres.sql("SELECT pg_reload_conf()")
        hosts = f"127.0.0.1:{own_postgres.port},127.0.0.1:{standby.port}"
        url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
        with PostgresStore(url, pool=QUICK) as store:
            store.create("c", 3)
            store.upsert("c", [item("before")])
            with PostgresStore(standby.url()) as follower:  # a standby can be searched, not written
                # A commit waits until the standby has it on disk, not until it can be read there.
                wait_until(lambda: follower.search("c", [1.0, 2.0, 3.0]).hits[0][0].id == "before")
                with pytest.raises(errors.Unavailable):
                    follower.upsert("c", [item("never")])
            own_postgres.kill()
            with pytest.raises(errors.Unavailable) as refused:
                store.upsert("c", [item("between")])
            assert refused.value.retry_after_s
            standby.sql("ALTER SYSTEM RESET synchronous_standby_names")
            standby.sql("SELECT pg_reload_conf()")  # it has no standby of its own to wait for
            standby.promote()
            wait_until(lambda: store.upsert("c", [item("after")]))
            assert [record.id for record in everything(store, "c")] == ["after", "before"]


def test_a_server_that_is_down_is_said_at_once_and_found_again(own_postgres: Postgres) -> None:
    with PostgresStore(own_postgres.url()) as store:
        store.create("c", 3)
        own_postgres.halt()
        began = time.monotonic()
        with pytest.raises(errors.Unavailable) as refused:
            store.count("c")
        assert time.monotonic() - began < 3
        assert refused.value.retry_after_s
        assert "postgres@" not in refused.value.message
        own_postgres.start()
        assert store.upsert("c", [item("a")]).inserted == 1


def test_a_restart_between_two_calls_is_not_noticed(own_postgres: Postgres) -> None:
    with PostgresStore(own_postgres.url()) as store:
        store.create("c", 3)
        own_postgres.restart()
        assert store.upsert("c", [item("a")]).inserted == 1


def test_a_server_that_hangs_is_waited_for_only_so_long(own_postgres: Postgres) -> None:
    with PostgresStore(own_postgres.url(), pool=replace(QUICK, patience_s=1.0)) as store:
        store.create("c", 3)
        own_postgres.pause()
        began = time.monotonic()
        with pytest.raises(errors.Unavailable):
            store.upsert("c", [item("a")])
        waited_s = time.monotonic() - began
        own_postgres.resume()
        assert 0.9 < waited_s < 15  # 3 s for a sign of life, 2 s for a new connection
        wait_until(lambda: store.upsert("c", [item("a")]))


def test_nobody_who_left_keeps_a_thread_though_the_server_hangs(
    own_postgres: Postgres,
) -> None:
    with PostgresStore(own_postgres.url(), pool=replace(POOL, ping_s=0.5)) as store:
        store.create("c", 3)
        table = store._look("c", lambda _, collection: collection.table)
        with store.db.engine.connect() as other:
            other.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            left_at = time.monotonic() + 0.3

            def gone() -> bool:
                if time.monotonic() < left_at:
                    return False
                own_postgres.pause()  # while the statement waits
                return True

            with pytest.raises((errors.ClientGone, errors.Unavailable)):
                store.count("c", budget=Budget(gone=gone))
            assert (
                time.monotonic() - left_at < 10
            )  # by itself the statement would be waited for 30 s
            own_postgres.resume()
            other.rollback()
        wait_until(lambda: store.count("c") == 0)


def test_a_store_opened_while_the_server_is_down_works_later(own_postgres: Postgres) -> None:
    own_postgres.halt()
    with PostgresStore(own_postgres.url()) as store:
        with pytest.raises(errors.Unavailable):
            store.collections()
        own_postgres.start()
        assert store.collections() == []


def test_an_exhausted_pool_is_busy_and_comes_back(postgres: Postgres) -> None:
    with PostgresStore(postgres.database(), pool=NARROW) as store:
        store.create("c", 3)
        with store.db.engine.connect():
            began = time.monotonic()
            with pytest.raises(errors.Busy) as refused:
                store.count("c")
            assert time.monotonic() - began < 10
            assert refused.value.retry_after_s
        assert store.count("c") == 0


def test_a_statement_that_takes_too_long_is_stopped_by_the_server(postgres: Postgres) -> None:
    with PostgresStore(postgres.database(), pool=replace(POOL, patience_s=1.0)) as store:
        with pytest.raises(errors.DeadlineExceeded):
            store.db.read(lambda c: c.scalar(sa.text("SELECT pg_sleep(5)")))
        assert store.collections() == []


@pytest.mark.parametrize("forwarded", [True, False], ids=["committed", "not committed"])
@pytest.mark.parametrize("mode", ["insert", "upsert"])
def test_a_lost_answer_to_a_commit_is_settled(
    postgres: Postgres, forwarded: bool, mode: str
) -> None:
    """Nobody knows whether a commit took place when its answer is lost; the store finds out."""
    name = postgres.database().rpartition("/")[2]
    with (
        CuttingProxy(postgres.port) as proxy,
        PostgresStore(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}") as store,
    ):
        store.create("c", 3)
        proxy.cut_at(b"COMMIT", forwarded)
        assert store.upsert("c", [item("a"), item("b")], mode).inserted == 2
        assert proxy.cuts == 1
        proxy.cut_at(b"COMMIT", forwarded)
        assert store.delete("c", ["a", "zz"]) == 1
        proxy.cut_at(b"COMMIT", forwarded)
        assert store.create("d", 3)[1]
        proxy.cut_at(b"COMMIT", forwarded)
        store.swap("c", "d")
        assert (store.count("c"), store.count("d")) == (0, 1)
        proxy.cut_at(b"COMMIT", forwarded)
        store.drop("c")
        assert proxy.cuts == 5


def test_a_commit_that_hangs_is_neither_repeated_nor_claimed(own_postgres: Postgres) -> None:
    """A synchronous standby that is not there: the commit is under way, and may yet take place."""
    with PostgresStore(own_postgres.url(), pool=replace(POOL, patience_s=1.0)) as store:
        store.create("c", 3)
        own_postgres.sql("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        own_postgres.restart()  # a reload would take place some time later
        assert store.count("c") == 0
        began = time.monotonic()
        with pytest.raises(errors.Unavailable, match="stored whole or not at all"):
            store.upsert("c", [item("a")], "insert")
        assert time.monotonic() - began < 10
        assert store.count("c") == 0  # not repeated while the first is under way
        own_postgres.sql("ALTER SYSTEM RESET synchronous_standby_names")
        own_postgres.sql("SELECT pg_reload_conf()")
        wait_until(lambda: store.count("c") == 1)


def test_a_connection_cut_before_the_commit_is_simply_tried_again(postgres: Postgres) -> None:
    name = postgres.database().rpartition("/")[2]
    with (
        CuttingProxy(postgres.port) as proxy,
        PostgresStore(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}") as store,
    ):
        store.create("c", 3)
        for word in (b"BEGIN", b"INSERT INTO"):
            proxy.cut_at(word, True)
            assert store.upsert("c", [item(word.decode())], "insert").inserted == 1
        assert proxy.cuts == 2


# Whoever writes row b waits for the advisory lock 1 before.
HOLD_B = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
CREATE TRIGGER hold BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.id = 'b')
EXECUTE FUNCTION hold();
"""
WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.mark.fault("The SQL database")
def test_a_deadlock_with_another_program_is_tried_again(postgres: Postgres) -> None:
    """A deadlock with another program -> the write is tried again."""
    url = postgres.database()
    with PostgresStore(f"{url}?options=-c%20deadlock_timeout%3D100ms") as store:
        store.create("c", 3)
        store.upsert("c", [item("a"), item("b")])
        table = store.db.read(
            lambda c: c.scalar(sa.text("SELECT 'emb_v_' || uuid FROM emb_collections"))
        )
        with store.db.upkeep() as connection:
            connection.exec_driver_sql(HOLD_B.format(table=table))
        other = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))

        def wait_for_locks(count: int) -> None:
            wait_until(lambda: store.db.read(lambda c: c.scalar(sa.text(WAITING))) == count)

        with other.connect() as rude, other.connect() as gate:
            gate.exec_driver_sql("SELECT pg_advisory_lock(1)")
            touch = f"UPDATE {table} SET text = 'x' WHERE id = "
            rude.exec_driver_sql("SET deadlock_timeout = '60s'")
            rude.exec_driver_sql(f"{touch} 'b'")
            result: list = []
            writer = threading.Thread(
                target=lambda: result.append(store.upsert("c", [item("a"), item("b")]))
            )
            writer.start()
            wait_for_locks(1)  # it holds a, and waits at the gate before it takes b
            taking = threading.Thread(target=rude.exec_driver_sql, args=(f"{touch} 'a'",))
            taking.start()
            wait_for_locks(2)
            gate.exec_driver_sql("SELECT pg_advisory_unlock(1)")
            taking.join(60)
            rude.commit()
            writer.join(60)
        other.dispose()
        assert result[0].updated == 2
        assert [record.text for record in store.get("c", ["a", "b"])] == [None, None]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # from Python 3.12 on
def test_a_child_forked_after_the_store_was_used_opens_its_own_connections(
    postgres: Postgres,
) -> None:
    with PostgresStore(postgres.database()) as store:
        store.create("c", 3)
        store.upsert("c", [item("parent")])
        children = []
        for number in range(3):
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    for i in range(20):
                        store.upsert("c", [item(f"{number}-{i}")])
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        for i in range(20):
            store.upsert("c", [item(f"parent-{i}")])
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
        assert store.count("c") == 81


def test_a_name_that_is_swapped_waits_for_the_write_under_way(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a write would be acknowledged into what its name meant before."""
    from store import pg_rows

    with PostgresStore(postgres.database()) as store:
        old, _ = store.create("live", 3)
        store.create("next", 3)
        inside, go_on, write = threading.Event(), threading.Event(), pg_rows.write

        def slow(*args):
            done = write(*args)
            inside.set()
            assert go_on.wait(60)
            return done

        monkeypatch.setattr(pg_rows, "write", slow)
        writer = threading.Thread(target=store.upsert, args=("live", [item("a")]))
        writer.start()
        assert inside.wait(60)
        swapper = threading.Thread(target=store.swap, args=("live", "next"))
        swapper.start()
        swapper.join(0.3)
        assert swapper.is_alive(), "the swap did not wait"
        go_on.set()
        writer.join(60)
        swapper.join(60)
        assert store.info("next").uuid == old.uuid
        assert [store.count("live"), store.count("next")] == [0, 1]


def test_a_write_that_met_a_swap_goes_to_what_the_name_means_now(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresStore(postgres.database()) as store, PostgresStore(str(store_url(store))) as other:
        store.create("live", 3)
        store.create("next", 3)
        resolve, swapped = store._resolve, []

        def stale(connection, name, *, writing=False):
            found = resolve(connection, name)  # without announcing itself: the swap does not wait
            if not swapped:
                swapped.append(True)
                other.swap("live", "next")
            return found

        monkeypatch.setattr(store, "_resolve", stale)
        store.upsert("live", [item("a")])
        monkeypatch.undo()
        assert [store.count("live"), store.count("next")] == [1, 0]


def store_url(store: PostgresStore) -> str:
    return store.db.engine.url.render_as_string(hide_password=False)
