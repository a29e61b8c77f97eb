"""Filters that cost more than they say are refused while they are read, whatever they look like."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from errors import BadRequest, ClientGone, DeadlineExceeded
from store import Item, VectorStore
from store.budget import Budget
from store.file import FileStore
from store.filters import FIELD_CHARS, parse
from store.metadata_columns import MetadataColumns


def chain(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"$not": inner}
    return inner


COSTLY: dict[str, Callable[[], Any]] = {
    "empty filters": lambda: {"$and": [{}] * 100_000},
    "empty filters in empty filters": lambda: {"$or": [{"$and": [{}] * 40}] * 40},
    "a chain of $not": lambda: chain(200),
    "many chains of $not": lambda: {"$and": [chain(10)] * 200},
    "many fields": lambda: {f"f{i}": i for i in range(300)},
    "many operators": lambda: {f"f{i}": {"$gt": 0, "$lt": 9} for i in range(200)},
    "a long $in": lambda: {"a": {"$in": list(range(20_000))}},
    "many $in": lambda: {f"f{i}": {"$in": list(range(1000))} for i in range(20)},
    "long strings in $in": lambda: {"a": {"$in": [f"{i}" + "x" * 5000 for i in range(9000)]}},
    "a long string": lambda: {"a": "x" * 2_000_000},
    "long strings of many fields": lambda: {
        f"f{i}": {"$contains": "x" * 60_000} for i in range(99)
    },
    "a long field": lambda: {"a" * 5000: 1},
    "a deep field": lambda: {".".join("a" * 200): 1},
    "a long operator": lambda: {"a": {"$" + "x" * 10_000_000: 1}},
}


@pytest.mark.fault("Hostile clients")
@pytest.mark.parametrize("kind", COSTLY)
def test_a_filter_that_costs_too_much_is_refused(kind: str) -> None:
    """A filter of 100,000 empty filters, of 300 fields, of long strings -> 400 before any record is
    read.
    """
    raw = COSTLY[kind]()
    began = time.thread_time()
    with pytest.raises(BadRequest) as refused:
        parse(raw)
    assert time.thread_time() - began < 1
    assert len(refused.value.message) < 500


@pytest.mark.parametrize(
    "raw",
    [
        {"$or": [{f"field{i}": i} for i in range(256)]},
        {"a": {"$in": [f"0b7e5a2c-{i:026}" for i in range(10_000)]}},
        chain(15),
        {"a" * FIELD_CHARS: 1},
    ],
)
def test_what_people_ask_for_is_not(raw: dict[str, Any]) -> None:
    assert parse(raw) is not None


@pytest.fixture
def filled(store: FileStore) -> VectorStore:
    store.create("c", 2)
    for start in range(0, 1000, 500):
        rows = range(start, start + 500)
        store.upsert("c", [Item(str(i), [1, i], None, {"n": i}) for i in rows])
    return store


@pytest.mark.fault("Overload")
def test_a_filter_that_is_at_work_ends_with_its_request(filled: VectorStore) -> None:
    """The deadline passes, or the client leaves, while a filter reads records -> 504, or no reply;
    a deletion has deleted nothing.
    """
    asked = []

    def gone() -> bool:
        asked.append(1)
        time.sleep(0.11)  # so that it is asked each time
        return len(asked) > 2

    with pytest.raises(ClientGone):
        filled.delete("c", filter={"n": {"$gte": 0}}, budget=Budget(gone=gone))
    with pytest.raises(DeadlineExceeded):
        filled.delete("c", filter={"n": {"$gte": 0}}, budget=Budget(deadline=time.monotonic()))
    assert len(asked) == 3
    assert filled.count("c") == filled.count("c", {"n": {"$gte": 0}}) == 1000


@pytest.fixture
def long_lists(store: FileStore) -> FileStore:
    """A store whose collection `c` of 40 records has lists of 3,000 numbers, read already."""
    store.create("c", 2, indexed=["n"])
    rows = [{"n": i, "l": [i, *range(3000)]} for i in range(40)]
    store.upsert("c", [Item(str(i), [1, i], None, row) for i, row in enumerate(rows)])
    assert store.count("c", {"l": {"$exists": True}}) == 40
    return store


def test_looking_through_lists_ends_with_its_request(
    long_lists: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.budget.ASK_EVERY_S", 0)
    asked: list[int] = []
    budget = Budget(gone=lambda: len(asked) > 10 or asked.append(1))  # type: ignore
    with pytest.raises(ClientGone):
        long_lists.count("c", {"l": {"$contains": -5}}, budget)
    assert len(asked) == 11


@pytest.mark.fault("Overload")
def test_a_slow_filter_keeps_nobody_else_waiting(long_lists: FileStore) -> None:
    """A filter reads long lists for seconds -> others read and write the collection meanwhile;
    another filter waits, at most until its deadline: 504.
    """
    at_work, go = threading.Event(), threading.Event()

    def gone() -> bool:
        at_work.set()
        assert go.wait(30)
        return False

    store, filter_ = long_lists, {"l": {"$contains": -5}}
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(store.delete, "c", filter=filter_, budget=Budget(gone=gone))
        assert at_work.wait(30)
        try:
            assert [record.id for record in store.get("c", ["1"])] == ["1"]
            assert store.upsert("c", [Item("new", [1, 1], None, {"n": 7, "l": [-5]})]).inserted
            assert len(store.search("c", [[1, 1]], 50).hits[0]) == 41
            assert len(store.scroll("c").records) == store.count("c") == 41
            with pytest.raises(DeadlineExceeded):
                store.count("c", {"n": 7}, Budget(time.monotonic() + 0.2))
        finally:
            go.set()
        assert slow.result() == 1  # what was written before the deletion had its turn
    store.upsert("c", [Item("newer", [1, 1], None, {"n": 7})])
    assert store.count("c", {"n": 7}) == 2


def test_a_record_is_in_its_page_whatever_is_written_meanwhile(long_lists: FileStore) -> None:
    written: list[int] = []
    long_lists.upsert("c", [Item(k, [1, 1], None, {"l": [-5]}) for k in ("3", "5")])

    def gone() -> bool:
        if not written:
            rows = {"3": [-5], "4": [0], "5": [-5]}
            long_lists.upsert("c", [Item(k, [1, 1], None, {"l": row}) for k, row in rows.items()])
            written.append(1)
        return False

    page = long_lists.scroll("c", None, 1, {"l": {"$contains": -5}}, budget=Budget(gone=gone))
    assert written and [record.id for record in page.records] == [page.next_cursor] == ["3"]
    rest = long_lists.scroll("c", "3", 9, {"l": {"$contains": -5}})
    assert [record.id for record in rest.records] == ["5"]


def test_waiting_for_a_collection_ends_at_the_deadline(filled: FileStore) -> None:
    with (
        filled.files.using(filled.catalog.look_up("c")) as collection,
        ThreadPoolExecutor() as threads,
        collection.state,
    ):
        late = threads.submit(filled.get, "c", ["1"], budget=Budget(time.monotonic() + 0.2))
        with pytest.raises(DeadlineExceeded):
            late.result(30)


def test_long_operands_are_not_remembered(filled: FileStore) -> None:
    for i in range(20):
        assert filled.count("c", {"n": {"$in": list(range(i, 5000 + i))}}) == 1000 - i
    with filled.files.using(filled.catalog.look_up("c")) as collection:
        (field,) = collection.derived.columns._fields.values()
    assert not field._tables
    assert filled.count("c", {"n": 5}) == 1
    assert len(field._tables) == 1


def meanwhile(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Budget:
    """Return a budget that does some work at the first look at it, so within a filter."""
    monkeypatch.setattr("store.budget.ASK_EVERY_S", 0)
    done: list[int] = []

    def gone() -> bool:
        if not done:
            done.append(1)
            work()
        return False

    return Budget(gone=gone)


@pytest.mark.parametrize("by", ["count", "scroll", "search", "delete"])
def test_a_filter_at_work_is_not_confused_by_a_compaction(
    filled: FileStore, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    filled.delete("c", [str(i) for i in range(600)])
    filter_, follow = {"n": {"$gte": 700}}, MetadataColumns.follow
    done: list[int] = []

    def compacted(self: MetadataColumns, *args: Any) -> None:
        follow(self, *args)
        if not done:
            done.append(1)
            filled.compact("c")
            filled.search("c", [[1, 1]], 1)  # takes the new generation in

    monkeypatch.setattr(MetadataColumns, "follow", compacted)
    found: int = {
        "count": lambda: filled.count("c", filter_),
        "scroll": lambda: len(filled.scroll("c", None, 900, filter_).records),
        "search": lambda: len(filled.search("c", [[1, 1]], 900, filter=filter_).hits[0]),
        "delete": lambda: filled.delete("c", filter=filter_),
    }[by]()
    assert done and found == 300 and filled.stats("c")["generation"] == 1
    left = 0 if by == "delete" else 300
    assert filled.count("c", filter_) == left and filled.count("c") == 100 + left
    filled.upsert("c", [Item(f"new{i}", [1, i], None, {"n": 800}) for i in range(300)])
    assert filled.count("c", filter_) == left + 300


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("ends", ["drop", "close"])
def test_a_search_under_way_has_its_answer_though_its_collection_goes(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, metric: Any, ends: str
) -> None:
    store.create("c", 2, metric)
    store.upsert("c", [Item(str(i), [1, i], f"{i}", {"n": i}) for i in range(50)])

    def work() -> None:
        if ends == "drop":
            store.drop("c")
        else:
            store.files.close()

    budget = meanwhile(work, monkeypatch)
    hits = store.search("c", [[1, 1]], 9, filter={"n": {"$lt": 5}}, budget=budget).hits[0]
    assert {hit.id for hit in hits} == {hit.text for hit in hits} == set("01234")
    assert store.names() == ([] if ends == "drop" else ["c"])
