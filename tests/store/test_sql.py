"""PostgresStore on a real PostgreSQL: what is true of it alone."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import errors
from store import Item
from store.__main__ import main
from store.pg_maintenance import EXPORT, MANIFEST
from store.pgvector import PostgresStore


@pytest.fixture
def store(postgres) -> Iterator[PostgresStore]:
    with PostgresStore(postgres.database()) as opened:
        yield opened


def rows(n: int, dim: int = 8, seed: int = 0) -> list[Item]:
    vectors = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    return [
        Item(f"{i:06d}", v, f"text {i}", {"n": i, "even": i % 2 == 0})
        for i, v in enumerate(vectors)
    ]


def test_it_works(store: PostgresStore) -> None:
    info, new = store.create("docs", 8)
    assert new and info.count == 0
    items = rows(10)
    assert store.upsert("docs", items).inserted == 10
    assert store.upsert("docs", items[:3]).updated == 3
    best = store.search("docs", items[4].vector, k=3, filter={"even": True}).hits[0]
    assert best[0].id == "000004"
    assert best[0].score == pytest.approx(1.0, abs=1e-6)
    assert [hit.metadata["even"] for hit in best] == [True] * 3
    got = store.get("docs", ["000007", "nothing", "000001"])
    assert [record.id for record in got] == ["000007", "000001"]
    assert np.array_equal(got[0].vector, items[7].vector)
    assert got[0].text == "text 7" and got[0].metadata == {"n": 7, "even": False}
    page = store.scroll("docs", limit=4)
    assert page.next_cursor == "000003"
    assert [r.id for r in store.scroll("docs", page.next_cursor, 100).records] == [
        f"{i:06d}" for i in range(4, 10)
    ]
    assert store.count("docs", {"n": {"$gte": 5}}) == 5
    assert store.delete("docs", ["000000", "zzz"]) == 1
    assert store.delete("docs", filter={"n": {"$lt": 3}}) == 2
    assert store.info("docs").count == 7
    store.alias("live", "docs")
    assert store.info("live").aliases == ("live",)
    assert store.verify("live").ok
    assert store.compact("live").rows == 7
    assert store.stats()["collections"] == 1
    assert store.stats("docs")["rows"] == 7
    store.drop("docs")
    with pytest.raises(errors.NotFound):
        store.count("live")


def test_eight_copies_that_start_together_on_an_empty_database_agree(postgres) -> None:
    url, barrier, made = postgres.database(), threading.Barrier(8), []

    def start() -> None:
        with PostgresStore(url) as opened:
            barrier.wait()
            made.append(opened.create("docs", 8, if_exists="ok"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 8
    assert [new for _, new in made].count(True) == 1
    assert len({info.uuid for info, _ in made}) == 1


def cut_short(backup: Path) -> None:
    rows = backup / EXPORT
    rows.write_bytes(rows.read_bytes()[:-40])


def change_a_number(backup: Path) -> None:
    rows = backup / EXPORT
    rows.write_text(rows.read_text().replace('"n":1', '"n":2', 1))


def drop_a_row(backup: Path) -> None:
    rows = backup / EXPORT
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(True)[:-1]))


def lose_the_rows(backup: Path) -> None:
    (backup / EXPORT).unlink()


def aim_elsewhere(backup: Path) -> None:
    manifest = json.loads((backup / MANIFEST).read_text())
    (backup / MANIFEST).write_text(json.dumps({**manifest, "name": "x; DROP TABLE t"}))


def widen_it_and_sign_that(backup: Path) -> None:
    """What the checksum does not find, the import does."""
    rows = backup / EXPORT
    rows.write_text(rows.read_text().replace('"dim":8', '"dim":9', 1))
    manifest = json.loads((backup / MANIFEST).read_text())
    signed = {**manifest, "sha256": hashlib.sha256(rows.read_bytes()).hexdigest()}
    (backup / MANIFEST).write_text(json.dumps(signed))


def nest_deeply(backup: Path) -> None:
    (backup / MANIFEST).write_text("[" * 100_000)


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        change_a_number,
        drop_a_row,
        lose_the_rows,
        aim_elsewhere,
        widen_it_and_sign_that,
        nest_deeply,
    ],
)
def test_a_damaged_backup_is_refused_and_leaves_nothing(
    store: PostgresStore, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store.create("docs", 8)
    store.upsert("docs", rows(20))
    store.backup("docs", tmp_path / "b")
    store.drop("docs")
    damage(tmp_path / "b")
    with pytest.raises((errors.Invalid, errors.DimensionMismatch)):
        store.restore(tmp_path / "b")
    assert store.collections() == []


def test_a_backup_is_of_one_moment_while_writes_go_on(store: PostgresStore, tmp_path: Path) -> None:
    store.create("docs", 8)
    batch, stop, written = rows(40), threading.Event(), []

    def write() -> None:
        while not stop.is_set():  # every row of the batch says which round wrote it
            mark = len(written)
            store.upsert("docs", [Item(i.id, i.vector, None, {"round": mark}) for i in batch])
            written.append(mark)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(10):
            store.backup("docs", tmp_path / str(number))
            store.restore(tmp_path / str(number), f"copy{number}")
            found = {r.metadata["round"] for r in store.scroll(f"copy{number}").records}
            assert len(found) <= 1, "two moments in one backup"
    finally:
        stop.set()
        writer.join(30)
    assert written


def test_no_text_or_vector_stands_in_an_error(store: PostgresStore) -> None:
    store.create("docs", 8)
    table = f"emb_v_{store.info('docs').uuid}"
    with store.db.upkeep() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD CHECK (text <> 'private')")
    with pytest.raises(errors.ServiceError) as refused:
        store.upsert("docs", [Item("a", [1.0] * 8, "private")])
    cause = refused.value.__cause__
    assert "private" not in refused.value.message
    assert "parameters hidden" in str(cause)


def test_the_commands_work_on_it(
    store: PostgresStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.create("docs", 8, indexed=["n"])
    store.upsert("docs", rows(30))
    url = store.db.engine.url.render_as_string(hide_password=False)

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--url", url, *arguments])
        assert ended.value.code == code
        return capsys.readouterr().out

    assert run("verify") == "docs: ok, 30 rows\n"
    assert "30 rows" in run("backup", "docs", str(tmp_path / "backup"))
    assert "again" in run("restore", str(tmp_path / "backup"), "--name", "again")
    run("export", "docs", str(tmp_path / "docs.jsonl"))
    assert "copy" in run("import", str(tmp_path / "docs.jsonl"), "--name", "copy")
    assert [info["count"] for info in json.loads(run("--json", "list"))] == [30] * 3
    run("repair", code=2)


def test_a_backup_that_fails_leaves_nothing(store: PostgresStore, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        store.backup("docs", tmp_path / "b")
    store.create("docs", 8)
    with pytest.raises(errors.Unavailable, match="cannot be written"):
        (tmp_path / "file").touch()
        store.backup("docs", tmp_path / "file" / "b")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
