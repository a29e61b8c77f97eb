"""Calls on a store are counted by what became of them, and its size is known a while later."""

from pathlib import Path

import numpy as np
import pytest

from errors import BadRequest, Conflict, ServiceError
from observability import metrics
from store import Item, open_store
from store.instrumented import OPERATIONS, InstrumentedStore
from store.lazy import open_or_wait
from tests.faults.conftest import until
from tests.ops.test_metrics import value


def counted(operation: str, outcome: str) -> float:
    series = f'embedding_vector_operations_total{{operation="{operation}",outcome="{outcome}"}}'
    return value(metrics.exposition().decode(), series)


def test_it_works(tmp_path: Path) -> None:
    with open_store(None, tmp_path / "s") as inner:
        store = InstrumentedStore(inner, measure_after_s=0.01)
        before = counted("upsert", "ok"), counted("create", "conflict"), counted("search", "ok")
        store.create("docs", 3)
        for i in range(5):
            store.upsert("docs", [Item(f"{i}", [1, 2, 3])])
        with pytest.raises(Conflict):
            store.create("docs", 3)
        store.search("docs", np.ones((1, 3)))
        after = counted("upsert", "ok"), counted("create", "conflict"), counted("search", "ok")
        assert np.subtract(after, before).tolist() == [5, 1, 1]
        with pytest.raises(BadRequest):
            store.search("docs", np.ones((1, 3)), filter={"n": {"$near": 1}})
        assert counted("search", "bad_request") >= 1
        text = "embedding_store_collections"
        until(lambda: value(metrics.exposition().decode(), text) == 1)
        store.drop("docs")
        until(lambda: value(metrics.exposition().decode(), text) == 0)


def test_the_size_is_what_the_files_take(tmp_path: Path) -> None:
    with open_store(None, tmp_path / "s") as inner:
        store = InstrumentedStore(inner, measure_after_s=0.01)
        store.create("docs", 1000)
        store.upsert("docs", [Item(f"{i}", np.full(1000, i + 1.0)) for i in range(500)])
        until(lambda: value(metrics.exposition().decode(), "embedding_store_bytes") > 4_000_000)
        assert inner.stats()["bytes"] < 6_000_000  # journal and matrix, 2 MB each


def test_every_operation_is_one_of_the_store_and_every_outcome_a_code(tmp_path: Path) -> None:
    with open_store(None, tmp_path / "s") as inner:
        assert all(callable(getattr(inner, name)) for name in OPERATIONS)
    codes = {"ok", "internal_error"} | {kind.code for kind in _kinds(ServiceError)}
    for sample in [s for m in metrics.VECTOR_OPERATIONS.collect() for s in m.samples]:
        assert sample.labels["outcome"] in codes and sample.labels["operation"] in OPERATIONS


def _kinds(kind: type[ServiceError]) -> set[type[ServiceError]]:
    return {kind}.union(*(_kinds(each) for each in kind.__subclasses__()))


def test_a_store_that_is_not_there_is_counted_too(tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.write_text("")
    store = InstrumentedStore(open_or_wait(lambda: open_store(None, place)), measure_after_s=0.01)
    before = counted("get", "unavailable")
    with pytest.raises(ServiceError):
        store.get("docs", ["a"])
    assert counted("get", "unavailable") == before + 1
    assert store.problem
