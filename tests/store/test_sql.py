"""SqlStore on a real PostgreSQL: what the contract cannot know because it is only true here."""

from collections.abc import Iterator

import numpy as np
import pytest

import errors
from store import Item
from store.sql import SqlStore


@pytest.fixture
def store(postgres) -> Iterator[SqlStore]:
    with SqlStore(postgres.database()) as opened:
        yield opened


def rows(n: int, dim: int = 8, seed: int = 0) -> list[Item]:
    vectors = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    return [
        Item(f"{i:06d}", v, f"text {i}", {"n": i, "even": i % 2 == 0})
        for i, v in enumerate(vectors)
    ]


def test_it_works(store: SqlStore) -> None:
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
