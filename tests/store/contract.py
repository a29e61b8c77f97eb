"""What every vector store must do, run unchanged on each backend.

A backend's test file gives a `store` fixture (an empty `VectorStore`) and subclasses `Contract`.
`Model`, a dict, defines what is right; `operations.py` compares a store with it at random.
"""

import contextlib
import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import (
    BadRequest,
    ClientGone,
    Conflict,
    DeadlineExceeded,
    DimensionMismatch,
    Invalid,
    NotFound,
    TooLarge,
)
from store import Item, Record, VectorStore
from store.base import successor
from store.budget import Budget
from store.filters import matches, parse
from store.transfer import export_jsonl, import_jsonl

DIM = 8


def vectors(n: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def items(n: int, dim: int = DIM, seed: int = 0) -> list[Item]:
    meta = [{"n": i, "parity": "odd" if i % 2 else "even", "tags": [f"t{i % 3}"]} for i in range(n)]
    rows = vectors(n, dim, seed)
    return [Item(f"id{i:04}", rows[i], f"text {i}", meta[i]) for i in range(n)]


def same(record: Record, item: Item) -> bool:
    return (
        record.id == item.id
        and record.vector is not None
        and record.vector.tobytes() == np.asarray(item.vector, np.float32).tobytes()
        and record.text == item.text
        and record.metadata == dict(item.metadata)
    )


def scores(wanted: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    wide, q = wanted.astype(np.float64), np.asarray(query, np.float64)
    dots = wide @ q
    return dots if metric == "dot" else dots / np.linalg.norm(wide, axis=1) / np.linalg.norm(q)


METADATA: list[dict[str, Any]] = [
    {},
    {"a": None},
    {"a": True},
    {"a": False},
    {"a": 0},
    {"a": 1},
    {"a": 1.0},
    {"a": 1.5},
    {"a": -3},
    {"a": 2**53 + 1},
    {"a": 2**53},
    {"a": "1"},
    {"a": ""},
    {"a": "abc"},
    {"a": "abd"},
    {"a": "é"},
    {"a": "🎈"},
    {"a": "%_\\"},
    {"a": []},
    {"a": [1, "abc", None, True]},
    {"a": ["x", [1]]},
    {"a": {"b": 1}},
    {"a": {"b": {"c": "deep"}}},
    {"a": {"b": None}},
    {"a.b": 1},
    {"b": 1, "a": "abc"},
    {"b": 2},
]
OPERANDS: list[Any] = [None, True, False, 0, 1, 1.0, 1.5, 2**53, 2**53 + 1, "", "1", "abc"]
OPERANDS += ["b", "é", "%", "_", "\\", "'"]
FILTERS: list[Any] = [
    *({"a": value} for value in OPERANDS),
    *({"a": {op: value}} for op in ("$eq", "$ne", "$contains") for value in OPERANDS),
    *(
        {"a": {op: value}}
        for op in ("$gt", "$gte", "$lt", "$lte")
        for value in (0, 1, 1.5, 2**53, 2**53 + 1, "", "abc", "é", "z")
    ),
    *({"a": {op: v}} for op in ("$in", "$nin") for v in ([], [1, "abc"], [None, True, "é"])),
    *({field: {"$exists": v}} for field in ("a", "b", "a.b", "a.b.c") for v in (True, False)),
    {"a.b": 1},
    {"a.b.c": "deep"},
    {"a.b": {"$ne": 1}},
    {"a": {"$gte": 0, "$lt": 1.5}},
    {"a": "abc", "b": 1},
    {"$and": [{"a": {"$gt": 0}}, {"a": {"$lt": 2}}]},
    {"$or": [{"a": "abc"}, {"b": 2}]},
    {"$not": {"a": "abc"}},
    {"$not": {"a": {"$gt": 0}}},
    {"$not": {"$or": [{"a": {"$exists": True}}, {"b": {"$in": [2]}}]}},
    {"$or": [{"$and": [{"a": "abc"}, {"$not": {"b": 1}}]}, {"a": {"$contains": "x"}}]},
    {},
]


class Model:
    """A vector store as a dict: the definition of what is right."""

    def __init__(self, metric: str = "cosine") -> None:
        self.metric = metric
        self.items: dict[str, Item] = {}

    def upsert(self, new: list[Item], mode: str) -> tuple[int, int] | str:
        known = sum(item.id in self.items for item in new)
        if mode == "insert" and known:
            return "Conflict"
        if mode == "update" and known < len(new):
            return "NotFound"
        self.items |= {item.id: item for item in new}
        return len(new) - known, known

    def matching(self, filter: Any) -> list[Item]:
        tree = parse(filter)
        return [item for item in self.items.values() if matches(tree, item.metadata)]

    def delete(self, ids: list[str] | None, filter: Any) -> int:
        gone = set(ids or ()) & set(self.items)
        if filter is not None:
            gone = {item.id for item in self.matching(filter)}
        for id_ in gone:
            del self.items[id_]
        return len(gone)

    def search(self, query: np.ndarray, filter: Any) -> list[tuple[str, float]]:
        """Return every match with its score, best first."""
        found = self.matching(filter)
        if not found:
            return []
        values = scores(np.stack([np.asarray(i.vector) for i in found]), query, self.metric)
        pairs = [(item.id, float(v)) for item, v in zip(found, values, strict=True)]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def check_hits(hits: list[Any], wanted: list[tuple[str, float]], k: int, offset: int = 0) -> None:
    """Compare with the oracle: never short, right scores, right order up to float32."""
    assert len(hits) == len(wanted[offset : offset + k]), "short, or too many"
    right = dict(wanted)
    got = [(-hit.score, hit.id) for hit in hits]
    assert got == sorted(got), "not ordered by score, then id"
    for hit, (_, score) in zip(hits, wanted[offset:], strict=False):
        assert hit.score == pytest.approx(score, abs=2e-6 * max(1, abs(score)))
        assert hit.score == pytest.approx(right[hit.id], abs=2e-6 * max(1, abs(score)))
    assert len({hit.id for hit in hits}) == len(hits)


class Contract:
    """The tests. Subclass it where the `store` fixture is."""

    # -- collections -----------------------------------------------------------------------------

    def test_it_works(self, store: VectorStore) -> None:
        info, new = store.create("docs", DIM)
        assert new and (info.name, info.dim, info.metric, info.count) == ("docs", DIM, "cosine", 0)
        written = store.upsert("docs", items(20))
        assert (written.inserted, written.updated) == (20, 0)
        assert store.info("docs").count == store.count("docs") == 20
        found = store.search("docs", items(20)[3].vector, k=3)
        assert found.exact and found.hits[0][0].id == "id0003"
        assert found.hits[0][0].score == pytest.approx(1, abs=1e-6)
        assert found.hits[0][0].text == "text 3"
        assert found.hits[0][0].metadata == {"n": 3, "parity": "odd", "tags": ["t0"]}
        assert found.hits[0][0].vector is None

    def test_create_again_is_a_conflict_or_ok_when_equal(self, store: VectorStore) -> None:
        first, _ = store.create("docs", DIM, model="m")
        with pytest.raises(Conflict, match="docs"):
            store.create("docs", DIM)
        again, new = store.create("docs", DIM, if_exists="ok")
        assert not new and again == first
        for other in ({"dim": DIM + 1}, {"metric": "dot"}, {"model": "other"}):
            with pytest.raises(Conflict):
                store.create("docs", **{"dim": DIM, "if_exists": "ok"} | other)  # type: ignore
        assert [info.name for info in store.collections()] == ["docs"]

    def test_a_declaration_of_fields_is_kept_and_told(self, store: VectorStore) -> None:
        fields = ("n", "author.name", "ü $x")
        made, _ = store.create("docs", DIM, indexed=fields)
        store.create("plain", DIM)
        assert made.indexed == fields and store.info("plain").indexed == ()
        store.rename("docs", "papers")
        assert store.stamp("papers", "m", None).indexed == fields
        assert {info.name: info.indexed for info in store.collections()} == {
            "papers": fields,
            "plain": (),
        }

    def test_another_declaration_is_a_conflict_and_none_agrees_with_any(
        self, store: VectorStore
    ) -> None:
        made, _ = store.create("docs", DIM, indexed=["n", "m"])
        store.create("plain", DIM)
        for fields in ((), ["n", "m"], ["m", "n"]):
            assert store.create("docs", DIM, if_exists="ok", indexed=fields) == (made, False)
        for name, fields, says in (
            ("docs", ["n"], "['n', 'm']"),
            ("docs", ["n", "m", "o"], "['n', 'm']"),
            ("plain", ["n"], "[]"),
        ):
            with pytest.raises(Conflict, match=re.escape(says)):
                store.create(name, DIM, if_exists="ok", indexed=fields)
        assert store.info("docs").indexed == ("n", "m") and store.info("plain").indexed == ()

    def test_64_fields_may_be_declared(self, store: VectorStore) -> None:
        fields = ["x" * 512, ".".join("a" * 16), *(f"f{i}" for i in range(62))]
        assert store.create("docs", DIM, indexed=fields)[0].indexed == tuple(fields)

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ([f"f{i}" for i in range(65)], "65 indexed fields; at most 64"),
            ("lang", "a list of fields"),
            (None, "a list of fields"),
            ({"n": 1}, "a list of fields"),
            (["n", ""], "indexed field 1: '' is no field"),
            (["a..b"], "indexed field 0: 'a..b' is no field"),
            (["n", "m", ".a"], "indexed field 2: '.a' is no field"),
            (["$and"], "no field"),
            ([".".join("a" * 17)], "no field"),
            (["x" * 513], "512 characters at most"),
            (["n", 5], "indexed field 1: 5 is no field"),
            (["n", None], "indexed field 1: None is no field"),
            (["n", ["m"]], "indexed field 1: .'m'. is no field"),
            (["n", "m", "n"], "indexed field 2: 'n' comes twice"),
            (["a\0"], "indexed field 0 holds a NUL"),
            (["\ud800"], "indexed field 0 holds half a surrogate"),
        ],
    )
    def test_it_refuses_a_bad_declaration_and_makes_nothing(
        self, store: VectorStore, fields: Any, says: str
    ) -> None:
        with pytest.raises(Invalid, match=says) as caught:
            store.create("docs", DIM, indexed=fields)
        assert caught.value.param == "indexed" and len(str(caught.value)) < 300
        assert store.collections() == []

    @pytest.mark.parametrize(
        "name", ["", "../x", "a/b", ".a", "-a", "a b", "é", "x" * 256, "a\n", None, 3, "a\0"]
    )
    def test_it_refuses_a_bad_name(self, store: VectorStore, name: Any) -> None:
        for call in (
            lambda: store.create(name, DIM),
            lambda: store.info(name),
            lambda: store.upsert(name, items(1)),
            lambda: store.search(name, vectors(1)),
            lambda: store.alias(name, "docs"),
            lambda: store.drop(name),
        ):
            with pytest.raises(Invalid):
                call()
        assert store.collections() == []

    @pytest.mark.parametrize("dim", [0, -1, 16_001, 1.5, "8", True, None])
    def test_it_refuses_a_bad_dim(self, store: VectorStore, dim: Any) -> None:
        with pytest.raises(Invalid, match="dim"):
            store.create("docs", dim)

    @pytest.mark.parametrize("metric", ["euclidean", "l2", "COSINE", None, 1])
    def test_it_refuses_an_unknown_metric(self, store: VectorStore, metric: Any) -> None:
        with pytest.raises(Invalid, match="cosine and dot"):
            store.create("docs", DIM, metric)

    def test_an_unknown_collection_is_not_found(self, store: VectorStore, tmp_path: Path) -> None:
        for call in (
            lambda: store.info("nope"),
            lambda: store.drop("nope"),
            lambda: store.rename("nope", "x"),
            lambda: store.alias("x", "nope"),
            lambda: store.unalias("nope"),
            lambda: store.stamp("nope", "m", "f"),
            lambda: store.upsert("nope", items(1)),
            lambda: store.delete("nope", ["a"]),
            lambda: store.get("nope", ["a"]),
            lambda: store.search("nope", vectors(1)),
            lambda: store.scroll("nope"),
            lambda: store.count("nope"),
            lambda: store.verify("nope"),
            lambda: store.compact("nope"),
            lambda: store.stats("nope"),
            lambda: store.backup("nope", tmp_path / "b"),
        ):
            with pytest.raises(NotFound):
                call()

    def test_drop_makes_room_for_a_new_one(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(3))
        store.alias("live", "docs")
        with pytest.raises(Conflict, match="alias"):
            store.drop("live")
        store.drop("docs")
        for name in ("docs", "live"):
            with pytest.raises(NotFound):
                store.info(name)
        store.create("docs", 3)
        assert store.count("docs") == 0 and store.info("docs").dim == 3

    def test_aliases_switch_at_once(self, store: VectorStore) -> None:
        store.create("one", DIM)
        store.create("two", DIM)
        store.upsert("two", items(2))
        store.alias("live", "one")
        assert store.count("live") == 0 and store.info("live").name == "one"
        store.alias("live", "two")
        assert store.count("live") == 2
        store.alias("newest", "live")  # an alias of an alias points at its target
        assert store.info("two").aliases == ("live", "newest")
        assert store.upsert("live", items(3)).inserted == 1
        with pytest.raises(Conflict):
            store.alias("one", "two")
        with pytest.raises(Conflict):
            store.create("live", DIM)
        store.unalias("live")
        with pytest.raises(NotFound):
            store.count("live")

    def test_rename_and_swap(self, store: VectorStore) -> None:
        first, _ = store.create("one", DIM)
        second, _ = store.create("two", 3)
        store.upsert("one", items(2))
        store.alias("live", "one")
        store.rename("one", "uno")
        assert store.info("uno").uuid == store.info("live").uuid == first.uuid
        with pytest.raises(NotFound):
            store.info("one")
        with pytest.raises(Conflict):
            store.rename("uno", "two")
        store.swap("uno", "two")
        assert (store.info("two").uuid, store.info("uno").uuid) == (first.uuid, second.uuid)
        assert store.info("live").uuid == second.uuid and store.count("two") == 2
        with pytest.raises(NotFound):
            store.swap("uno", "nope")

    def test_stamp_is_compare_and_set(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        assert store.stamp("docs", "minilm", None).fingerprint is None
        assert store.stamp("docs", "minilm", "f1").fingerprint == "f1"
        assert store.stamp("docs", "minilm", None).fingerprint == "f1"
        for model, fingerprint in (("other", "f1"), ("minilm", "f2")):
            with pytest.raises(Conflict, match="docs"):
                store.stamp("docs", model, fingerprint)
        info = store.info("docs")
        assert (info.model, info.fingerprint) == ("minilm", "f1")

    def test_a_name_tells_which_collection_it_means(self, store: VectorStore) -> None:
        made, _ = store.create("docs", DIM, "dot", "minilm", "f1")
        store.create("another", 3)
        store.alias("live", "docs")
        assert store.names() == ["another", "docs"]
        found = store.identity("live")
        assert (found.name, found.uuid, found.dim) == ("docs", made.uuid, DIM)
        assert (found.metric, found.model, found.fingerprint) == ("dot", "minilm", "f1")
        with pytest.raises(NotFound):
            store.identity("none")

    def test_what_is_meant_for_one_collection_changes_no_other(self, store: VectorStore) -> None:
        first, _ = store.create("docs", DIM)
        second, _ = store.create("next", DIM)
        store.swap("docs", "next", first.uuid)
        with pytest.raises(Conflict, match="replaced"):
            store.swap("docs", "next", first.uuid)
        with pytest.raises(Conflict, match="replaced"):
            store.upsert("docs", items(1), uuid=first.uuid)
        assert store.identity("docs").uuid == second.uuid and store.count("docs") == 0
        assert store.upsert("docs", items(1), uuid=second.uuid).inserted == 1

    def test_a_collection_with_a_successor_takes_no_writes(self, store: VectorStore) -> None:
        made, _ = store.create("docs", DIM)
        store.upsert("docs", items(2))
        store.create(successor(made.uuid), DIM)
        for write in (
            lambda: store.upsert("docs", items(3)),
            lambda: store.delete("docs", ["id0000"]),
            lambda: store.delete("docs", filter={"n": 1}),
        ):
            with pytest.raises(Conflict, match="re-embedded") as refused:
                write()
            assert refused.value.retry_after_s
        assert store.count("docs") == 2
        assert store.upsert(successor(made.uuid), items(1)).inserted == 1
        store.drop(successor(made.uuid))
        assert store.upsert("docs", items(3)).inserted == 1

    def test_nothing_is_written_behind_a_wait_for_writers(self, store: VectorStore) -> None:
        made, _ = store.create("docs", DIM)
        written: list[str] = []

        def write(number: int) -> None:
            with contextlib.suppress(Conflict):
                for i in range(10_000):
                    rows = [Item(f"{number}-{i}", vectors(1)[0])]
                    written.extend([rows[0].id] * store.upsert("docs", rows).inserted)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        while len(written) < 20:
            time.sleep(0.001)
        store.create(successor(made.uuid), DIM)
        store.wait_for_writers("docs")
        there = store.count("docs")
        for thread in threads:
            thread.join()
        assert there == store.count("docs") == len(written)

    def test_notes_are_kept_and_claimed_by_one(self, store: VectorStore) -> None:
        notes = store.notes
        assert notes.get("one") is None and notes.all() == []
        notes.put("one", "first")
        notes.put("two", "ü")
        notes.put("one", "second")
        assert notes.get("one") == "second" and sorted(notes.all()) == ["second", "ü"]
        with notes.claimed("one") as mine, notes.claimed("one") as again:
            assert mine and not again
        with notes.claimed("one") as mine, notes.claimed("two") as other:
            assert mine and other
        for key in ("one", "two", "none"):
            notes.remove(key)
        assert notes.all() == []
        with pytest.raises(Invalid):
            notes.put("../one", "")

    # -- writing ---------------------------------------------------------------------------------

    def test_what_is_read_is_bit_exact_what_was_written(self, store: VectorStore) -> None:
        store.create("docs", 4)
        odd = [
            [1e-14, -0.0, 3.0000002, 1e14],
            [np.float32(0.1), 1 / 3, -1e-38, 7],
            [1.17549435e-38, 1, 2, 3],
        ]
        meta = {"i": 2**62, "f": 0.1, "u": "é🎈\u2028", "l": [1, [None, True]], "o": {"k": {}}}
        wrote = [Item(f"ü/{i} 🎈", v, "naïve\ntext", meta) for i, v in enumerate(odd)]
        store.upsert("docs", wrote)
        read = store.get("docs", [item.id for item in reversed(wrote)])
        assert all(same(r, i) for r, i in zip(read, reversed(wrote), strict=True))
        kinds = read[0].metadata
        assert kinds is not None and type(kinds["i"]) is int and type(kinds["f"]) is float

    def test_a_replaced_item_is_replaced_whole(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", [Item("a", vectors(1)[0], "old", {"x": 1}), items(1)[0]])
        written = store.upsert("docs", [Item("a", vectors(2)[1]), Item("b", vectors(3)[2])])
        assert (written.inserted, written.updated) == (1, 1)
        (record,) = store.get("docs", ["a"])
        assert record.text is None and record.metadata == {}
        assert store.count("docs", {"x": 1}) == 0 and store.count("docs") == 3
        assert [h.id for h in store.search("docs", vectors(2)[1]).hits[0]].count("a") == 1

    def test_insert_and_update_are_all_or_nothing(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(3))
        with pytest.raises(Conflict, match="'id0002' exists already"):
            store.upsert("docs", items(5)[2:], "insert")
        with pytest.raises(NotFound, match="'id0003' does not exist"):
            store.upsert("docs", items(5, seed=9)[1:], "update")
        assert store.count("docs") == 3
        records = store.get("docs", ["id0001", "id0002"])
        assert all(same(r, i) for r, i in zip(records, items(3)[1:], strict=True))
        assert store.upsert("docs", items(3, seed=9), "update").updated == 3
        assert store.upsert("docs", items(6)[3:], "insert").inserted == 3
        with pytest.raises(Invalid, match="mode"):
            store.upsert("docs", items(1), "replace")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("bad", "error", "says"),
        [
            (Item("b", [1.0] * (DIM - 1)), DimensionMismatch, "7 dimensions"),
            (Item("b", []), DimensionMismatch, "0 dimensions"),
            (Item("b", [float("nan")] + [1.0] * (DIM - 1)), Invalid, "NaN"),
            (Item("b", [float("inf")] + [1.0] * (DIM - 1)), Invalid, "infinity"),
            (Item("b", [1e300] + [1.0] * (DIM - 1)), Invalid, "infinity"),
            (Item("b", [0.0] * DIM), Invalid, "no direction"),
            (Item("b", ["1"] * DIM), Invalid, "list of numbers"),
            (Item("b", [[1.0] * DIM]), Invalid, "list of numbers"),
            (Item("b", [True] * DIM), Invalid, "list of numbers"),
            (Item("b", None), Invalid, "list of numbers"),
            (Item("", [1.0] * DIM), Invalid, "not empty"),
            (Item(7, [1.0] * DIM), Invalid, "string"),  # type: ignore[arg-type]
            (Item("x" * 600, [1.0] * DIM), Invalid, "600 characters"),
            (Item("a\0b", [1.0] * DIM), Invalid, "NUL"),
            (Item("\ud800", [1.0] * DIM), Invalid, "surrogate"),
            (Item("id0000", [1.0] * DIM), Invalid, "twice"),
            (Item("b", [1.0] * DIM, "t\0"), Invalid, "NUL"),
            (Item("b", [1.0] * DIM, 5), Invalid, "text"),  # type: ignore[arg-type]
            (Item("b", [1.0] * DIM, "x" * (1 << 21)), TooLarge, "longer"),
            (Item("b", [1.0] * DIM, None, {"k": "x" * 66_000}), TooLarge, "metadata"),
            (Item("b", [1.0] * DIM, None, {"k": float("nan")}), Invalid, "number"),
            (Item("b", [1.0] * DIM, None, {"k": object()}), Invalid, "object"),
            (Item("b", [1.0] * DIM, None, {1: 2}), Invalid, "no string"),  # type: ignore
            (Item("b", [1.0] * DIM, None, {"k": 2**80}), Invalid, "64 bits"),
            (Item("b", [1.0] * DIM, None, {"k": "\ud800"}), Invalid, "surrogate"),
            (Item("b", [1.0] * DIM, None, ["k"]), Invalid, "object"),  # type: ignore[arg-type]
        ],
    )
    def test_one_bad_item_is_named_and_nothing_is_written(
        self, store: VectorStore, bad: Item, error: type[Exception], says: str
    ) -> None:
        store.create("docs", DIM)
        with pytest.raises(error, match=says) as caught:
            store.upsert("docs", [*items(2), bad])
        assert "item 2" in str(caught.value) and len(str(caught.value)) < 300
        assert store.count("docs") == 0

    def test_it_refuses_too_much_at_once(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        for call in (
            lambda: store.upsert("docs", [Item("a", [1.0] * DIM)] * 1_000_000),
            lambda: store.get("docs", ["a"] * 1001),
            lambda: store.delete("docs", ["a"] * 1001),
            lambda: store.search("docs", vectors(101)),
        ):
            with pytest.raises(TooLarge):
                call()
        with pytest.raises(Invalid, match="no items"):
            store.upsert("docs", [])

    def test_delete_counts_what_was_there(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(10))
        assert store.delete("docs", ["id0001", "id0001", "nope", "id0002"]) == 2
        assert store.delete("docs", ["id0001"]) == 0
        assert store.delete("docs", filter={"parity": "even"}) == 4
        assert [r.id for r in store.scroll("docs").records] == [f"id000{i}" for i in (3, 5, 7, 9)]
        for wrong in ({}, {"ids": ["a"], "filter": {}}):
            with pytest.raises(Invalid):
                store.delete("docs", **wrong)  # type: ignore[arg-type]
        assert store.delete("docs", filter={}) == 4 and store.count("docs") == 0
        assert store.upsert("docs", items(2)).inserted == 2

    # -- reading ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("metric", ["cosine", "dot"])
    def test_search_equals_the_oracle(self, store: VectorStore, metric: Any) -> None:
        store.create("docs", DIM, metric)
        model, wrote = Model(metric), items(300)
        store.upsert("docs", wrote)
        model.upsert(wrote, "upsert")
        gone = [f"id{i:04}" for i in range(0, 300, 7)]
        assert store.delete("docs", gone) == model.delete(gone, None)
        queries = vectors(5, seed=1)
        for k, offset in ((1, 0), (10, 0), (10, 25), (1000, 0), (5, 250), (5, 9000)):
            found = store.search("docs", queries, k, offset=offset)
            for hits, query in zip(found.hits, queries, strict=True):
                check_hits(hits, model.search(query, None), k, offset)
        for filter in ({"parity": "odd"}, {"n": {"$lt": 9}}, {"n": 8}, {"n": -1}):
            found = store.search("docs", queries, 10, filter=filter)
            for hits, query in zip(found.hits, queries, strict=True):
                check_hits(hits, model.search(query, filter), 10)

    def test_equal_scores_are_ordered_by_id_on_every_page(self, store: VectorStore) -> None:
        store.create("docs", 384)
        one, rest = vectors(1, 384)[0], vectors(200, 384, seed=3)
        ids = [f"same{i:03}" for i in np.random.default_rng(5).permutation(150)]
        for start in range(0, 150, 10):  # equal vectors spread among others
            same_ones = [Item(id_, one) for id_ in ids[start : start + 10]]
            others = [Item(f"x{start}-{i}", rest[start + i]) for i in range(7)]
            store.upsert("docs", [*others, *same_ones])
        pages = [store.search("docs", one, 30, offset=at).hits[0] for at in range(0, 150, 30)]
        assert [h.id for page in pages for h in page] == sorted(ids)
        batch = store.search("docs", np.stack([rest[0], one, rest[1]]), 30).hits[1]
        assert [(h.id, h.score) for h in batch] == [(h.id, h.score) for h in pages[0]]

    def test_min_score_cuts_off(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(100))
        query = vectors(1, seed=1)
        everything = store.search("docs", query, 100).hits[0]
        cut = everything[20].score
        assert [h.id for h in store.search("docs", query, 100, min_score=cut).hits[0]] == [
            h.id for h in everything if h.score >= cut
        ]
        assert store.search("docs", query, 10, min_score=1.1).hits == [[]]

    def test_include_says_what_is_returned(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(3))
        (hit,) = store.search("docs", items(3)[1].vector, 1, include=["vector"]).hits[0]
        assert hit.text is None and hit.metadata is None
        assert hit.vector is not None and hit.vector.tobytes() == vectors(3)[1].tobytes()
        (bare,) = store.get("docs", ["id0001"], include=[])
        assert (bare.vector, bare.text, bare.metadata) == (None, None, None)
        with pytest.raises(Invalid, match="include"):
            store.get("docs", ["id0001"], include=["payload"])  # type: ignore[list-item]

    @pytest.mark.parametrize(
        "asked",
        [
            {"k": 0},
            {"k": -1},
            {"k": 10**9},
            {"k": True},
            {"k": 1.0},
            {"offset": -1},
            {"offset": 10**9},
            {"min_score": float("nan")},
            {"min_score": "1"},
        ],
    )
    def test_it_refuses_a_bad_window(self, store: VectorStore, asked: Any) -> None:
        store.create("docs", DIM)
        with pytest.raises(Invalid):
            store.search("docs", vectors(1), **asked)

    @pytest.mark.parametrize(
        ("query", "error"),
        [
            ([1.0] * (DIM + 1), DimensionMismatch),
            ([[1.0] * DIM, [1.0]], DimensionMismatch),
            ([0.0] * DIM, Invalid),
            ([float("nan")] * DIM, Invalid),
            ([], Invalid),
            (None, Invalid),
            ("abc", Invalid),
            ([["a"] * DIM], Invalid),
        ],
    )
    def test_it_refuses_a_bad_query(
        self, store: VectorStore, query: Any, error: type[Exception]
    ) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(3))
        with pytest.raises(error):
            store.search("docs", query)

    def test_an_empty_collection_finds_nothing(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        assert store.search("docs", vectors(2), filter={"a": 1}).hits == [[], []]
        assert store.scroll("docs").records == [] and store.count("docs", {"a": 1}) == 0
        assert store.get("docs", ["a"]) == [] and store.delete("docs", ["a"]) == 0

    def test_scroll_gives_each_record_once(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        wrote = {item.id: item for item in items(250)}
        store.upsert("docs", list(wrote.values()))
        store.upsert("docs", [Item("ü", [1.0] * DIM), Item("Z", [1.0] * DIM)])
        cursor, seen = None, []
        while True:
            page = store.scroll("docs", cursor, 60)
            seen += page.records
            if len(seen) == 60:  # a write behind and one before the cursor, one deletion each
                store.upsert("docs", [Item("A", [1.0] * DIM), Item("id9999", [1.0] * DIM)])
                store.delete("docs", [seen[5].id, "id0100", seen[-1].id])
            cursor = page.next_cursor
            if cursor is None:
                break
        ids = [record.id for record in seen]
        wanted = sorted({*wrote, "ü", "Z", "id9999"} - {"id0100"})
        assert ids == wanted
        assert all(same(r, wrote[r.id]) for r in seen if r.id in wrote)
        odd = store.scroll("docs", "id0004", 2, {"parity": "odd"})
        assert [r.id for r in odd.records] == ["id0005", "id0007"]
        for wrong in ({"limit": 0}, {"limit": 10**6}, {"cursor": 5}, {"cursor": ""}):
            with pytest.raises(Invalid):
                store.scroll("docs", **wrong)  # type: ignore[arg-type]

    # -- filters ---------------------------------------------------------------------------------

    def test_every_filter_means_what_it_is_defined_to_mean(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        rows = vectors(len(METADATA))
        wrote = [Item(f"{i:02}", rows[i], None, m) for i, m in enumerate(METADATA)]
        store.upsert("docs", wrote)
        for filter in FILTERS:
            wanted = [i.id for i in wrote if matches(parse(filter), i.metadata)]
            label = json.dumps(filter)
            assert store.count("docs", filter) == len(wanted), label
            got = [r.id for r in store.scroll("docs", filter=filter).records]
            assert got == wanted, label
            hits = store.search("docs", rows[0], 100, filter=filter).hits[0]
            assert sorted(h.id for h in hits) == wanted, label

    @pytest.mark.parametrize("one_in", [3, pytest.param(1, marks=pytest.mark.long)])
    def test_declared_fields_answer_as_undeclared_ones_do(
        self, store: VectorStore, one_in: int
    ) -> None:
        """In the short run each filter is tried after two of the six writes."""
        store.create("plain", DIM)
        store.create("declared", DIM, indexed=["a", "b", "a.b", "a.b.c"])
        rows = vectors(len(METADATA))
        wrote = [Item(f"{i:02}", rows[i], None, m) for i, m in enumerate(METADATA)]
        moved = [Item(f"{i:02}", rows[i], None, METADATA[-i - 1]) for i in range(0, len(rows), 5)]

        def answers(name: str, filters: list[Any]) -> list[Any]:
            return [
                (
                    store.count(name, filter),
                    [r.id for r in store.scroll(name, filter=filter).records],
                    [h.id for h in store.search(name, rows[0], 100, filter=filter).hits[0]],
                )
                for filter in filters
            ]

        writes = (
            lambda name: store.upsert(name, wrote[:9]),
            lambda name: store.upsert(name, wrote[9:]),
            lambda name: store.upsert(name, moved),
            lambda name: store.delete(name, ["01", "05"]),
            lambda name: store.delete(name, filter={"a": {"$gt": 0}}),
            store.compact,
        )
        for turn, write in enumerate(writes):
            for name in ("plain", "declared"):
                write(name)
            tried = FILTERS[turn % one_in :: one_in]
            assert answers("plain", tried) == answers("declared", tried)
        assert 0 < store.count("declared") < len(rows)

    @pytest.mark.parametrize(
        "filter",
        [
            [],
            "a",
            5,
            {"$nor": [{"a": 1}]},
            {"a": {"$regex": "x"}},
            {"a": {"$gt": 1, "b": 2}},
            {"a": {}},
            {"a": [1]},
            {"a": {"$eq": {"b": 1}}},
            {"a": {"$gt": None}},
            {"a": {"$gt": True}},
            {"a": {"$in": 3}},
            {"a": {"$in": [[1]]}},
            {"a": {"$exists": 1}},
            {"a": float("nan")},
            {"a": "\ud800"},
            {"$and": []},
            {"$or": {"a": 1}},
            {"$not": [{"a": 1}]},
            {"": 1},
            {"a..b": 1},
            {"$or": [{str(i): i} for i in range(500)]},
        ],
    )
    def test_it_refuses_a_bad_filter(self, store: VectorStore, filter: Any) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(2))
        for call in (
            lambda: store.search("docs", vectors(1), filter=filter),
            lambda: store.count("docs", filter),
            lambda: store.scroll("docs", filter=filter),
            lambda: store.delete("docs", filter=filter),
        ):
            with pytest.raises(BadRequest, match="filter"):
                call()
        assert store.count("docs") == 2

    def test_a_deep_filter_is_refused_not_followed(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        filter: Any = {"a": 1}
        for _ in range(10_000):
            filter = {"$not": filter}
        with pytest.raises(BadRequest, match="deeper"):
            store.count("docs", filter)

    # -- keeping ---------------------------------------------------------------------------------

    def test_backup_restores_to_a_new_collection(self, store: VectorStore, tmp_path: Path) -> None:
        store.create("docs", DIM, model="m", fingerprint="f")
        store.upsert("docs", items(50))
        store.delete("docs", ["id0007"])
        made = store.backup("docs", tmp_path / "backup")
        assert (made.name, made.rows) == ("docs", 49)
        store.upsert("docs", items(60, seed=2))
        with pytest.raises(Conflict):
            store.restore(tmp_path / "backup")
        info = store.restore(tmp_path / "backup", "again")
        assert (info.name, info.count, info.model, info.fingerprint) == ("again", 49, "m", "f")
        assert info.uuid != store.info("docs").uuid
        for item in items(50):
            records = store.get("again", [item.id])
            assert len(records) == (item.id != "id0007") and all(same(r, item) for r in records)
        store.drop("docs")
        assert store.restore(tmp_path / "backup").name == "docs"
        with pytest.raises(Invalid):
            store.backup("docs", tmp_path / "backup")
        with pytest.raises(NotFound):
            store.restore(tmp_path / "nothing", "x")

    def test_a_declaration_goes_where_its_collection_goes(
        self, store: VectorStore, tmp_path: Path
    ) -> None:
        store.create("docs", DIM, indexed=["n", "author.name"])
        store.create("plain", DIM)
        for name, fields in (("docs", ("n", "author.name")), ("plain", ())):
            store.upsert(name, items(5))
            store.backup(name, tmp_path / name)
            assert store.restore(tmp_path / name, f"{name}-restored").indexed == fields
            file = io.BytesIO()
            export_jsonl(store, name, file)
            file.seek(0)
            assert import_jsonl(store, file, f"{name}-imported").indexed == fields
            for copy in (f"{name}-restored", f"{name}-imported"):
                assert store.count(copy, {"n": {"$gte": 2}}) == 3

    def test_an_import_with_a_bad_declaration_is_refused(self, store: VectorStore) -> None:
        head = {"format": "vector-collection", "version": 1, "dim": DIM, "metric": "cosine"}
        for fields in (None, "n", ["a..b"], ["n", "n"]):
            line = json.dumps(head | {"indexed": fields}).encode()
            with pytest.raises(Invalid, match="indexed"):
                import_jsonl(store, io.BytesIO(line), "new")
        assert store.collections() == []
        assert import_jsonl(store, io.BytesIO(json.dumps(head).encode()), "old").indexed == ()

    def test_jsonl_export_and_import_are_exact(self, store: VectorStore) -> None:
        store.create("docs", DIM, "dot", model="m")
        wrote = {item.id: item for item in items(40)}
        store.upsert("docs", list(wrote.values()))
        out = io.BytesIO()
        assert export_jsonl(store, "docs", out) == 40
        out.seek(0)
        info = import_jsonl(store, out, "copy")
        assert (info.count, info.metric, info.model) == (40, "dot", "m")
        assert all(same(r, wrote[r.id]) for r in store.scroll("copy").records)
        again = io.BytesIO()
        export_jsonl(store, "copy", again)
        assert again.getvalue().split(b"\n")[1:] == out.getvalue().split(b"\n")[1:]

    @pytest.mark.parametrize("line", [b"{", b"[]", b'{"id": "a"}', b'{"id": "a", "vector": [1]}'])
    def test_a_bad_import_leaves_nothing_behind(self, store: VectorStore, line: bytes) -> None:
        head = {"format": "vector-collection", "version": 1, "dim": DIM, "metric": "cosine"}
        with pytest.raises((Invalid, DimensionMismatch), match="line"):
            import_jsonl(store, io.BytesIO(json.dumps(head).encode() + b"\n" + line), "new")
        with pytest.raises(Invalid, match="line 1"):
            import_jsonl(store, io.BytesIO(line), "new")
        assert store.collections() == []

    def test_compact_and_verify_change_nothing_that_can_be_seen(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(50))
        store.upsert("docs", items(40, seed=4))
        store.delete("docs", ["id0000", "id0049"])

        def seen() -> list[Any]:
            rows = [(r.id, r.text, r.metadata) for r in store.scroll("docs").records]
            hits = store.search("docs", vectors(1, seed=8), 50).hits[0]
            return [rows, [(h.id, h.score) for h in hits], store.count("docs", {"n": 5})]

        before = seen()
        assert store.verify("docs").ok and store.compact("docs").rows == 48
        assert seen() == before
        report = store.verify("docs")
        assert report.ok and report.rows == 48 and report.problems == ()
        assert json.dumps(store.stats("docs")) and json.dumps(store.stats())

    @pytest.mark.parametrize("indexed", [(), ("w",)], ids=["undeclared", "declared"])
    def test_concurrent_writers_all_get_what_they_were_told(
        self, store: VectorStore, indexed: tuple[str, ...]
    ) -> None:
        store.create("docs", DIM, indexed=indexed)
        outcomes: list[str] = []
        start = threading.Barrier(6)

        def work(me: int) -> None:
            start.wait()
            for i in range(15):
                store.upsert("docs", [Item(f"w{me}-{i}", vectors(1, seed=i)[0], None, {"w": me})])
                with contextlib.suppress(Conflict):
                    store.upsert("docs", [Item(f"shared{i}", [1.0] * DIM)], "insert")
                    outcomes.append(f"shared{i}")
            store.delete("docs", [f"w{me}-0"])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == sorted(f"shared{i}" for i in range(15))
        assert store.count("docs") == 6 * 14 + 15
        assert all(store.count("docs", {"w": me}) == 14 for me in range(6))

    # -- budgets ---------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("budget", "error"),
        [(Budget(deadline=0.0), DeadlineExceeded), (Budget(gone=lambda: True), ClientGone)],
    )
    def test_a_call_that_nobody_waits_for_ends(
        self, store: VectorStore, budget: Budget, error: type
    ) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(40))
        for call in (
            lambda: store.get("docs", ["id0001"], budget=budget),
            lambda: store.search("docs", vectors(1), budget=budget),
            lambda: store.search("docs", vectors(2), filter={"n": {"$gt": 1}}, budget=budget),
            lambda: store.scroll("docs", budget=budget),
            lambda: store.scroll("docs", filter={"n": {"$gt": 2}}, budget=budget),
            lambda: store.count("docs", {"n": {"$gt": 3}}, budget),
            lambda: store.delete("docs", filter={"n": {"$gt": 4}}, budget=budget),
        ):
            with pytest.raises(error):
                call()
        assert store.count("docs") == 40

    def test_a_reply_over_its_bytes_is_refused(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        rows = [Item(f"{i:02}", v, "é\n" * 1000) for i, v in enumerate(vectors(40))]
        store.upsert("docs", rows)
        ids = [row.id for row in rows]
        for call in (
            lambda budget: store.get("docs", ids, budget=budget),
            lambda budget: store.search("docs", vectors(20), 10, budget=budget),
            lambda budget: store.search("docs", vectors(1), 40, budget=budget),
        ):
            with pytest.raises(TooLarge, match="ask for less"):
                call(Budget(left=100_000))
            call(Budget(left=1_000_000))
        few = Budget(left=100_000)
        assert len(store.get("docs", ids[:10], budget=few)) == 10
        assert len(store.get("docs", ids, ["metadata"], budget=few)) == 40
        assert few.left is not None and 0 < few.left < 60_000

    @pytest.mark.parametrize("left", [1, 5_000, 30_000])
    def test_a_scroll_within_its_bytes_comes_to_the_end(
        self, store: VectorStore, left: int
    ) -> None:
        store.create("docs", DIM)
        store.upsert("docs", [Item(f"{i:02}", v, "x" * 2000) for i, v in enumerate(vectors(50))])
        seen: list[str] = []
        cursor, pages = None, 0
        while True:
            page = store.scroll("docs", cursor, 40, budget=Budget(left=left))
            assert 1 <= len(page.records) <= max(1, left // 2000)
            seen += [record.id for record in page.records]
            cursor, pages = page.next_cursor, pages + 1
            if cursor is None:
                break
        assert seen == [f"{i:02}" for i in range(50)]
        assert pages >= (50 if left < 4_000 else 4)

    def test_a_page_ends_with_a_record_that_alone_is_too_much(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        texts = ["x" * 5000, *"abcde", "x" * 5000]
        store.upsert("docs", [Item(str(i), v, texts[i]) for i, v in enumerate(vectors(7))])
        pages, cursor = [], None
        while not pages or cursor is not None:
            page = store.scroll("docs", cursor, 40, budget=Budget(left=2048))
            pages.append("".join(record.id for record in page.records))
            cursor = page.next_cursor
        assert pages == ["0", "12345", "6"]

    def test_each_query_of_a_search_looks_at_its_budget(
        self, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("store.budget.ASK_EVERY_S", 0)
        store.create("docs", DIM)
        store.upsert("docs", items(10))
        asked: list[int] = []
        budget = Budget(gone=lambda: bool(asked.append(1)))  # type: ignore[func-returns-value]
        found = store.search("docs", vectors(20), 1, min_score=2, budget=budget)
        assert found.hits == [[]] * 20 and len(asked) >= 20

    @pytest.mark.parametrize("metric", ["cosine", "dot"])
    @pytest.mark.parametrize("deleted", [[], ["id0003", "id0017"]])
    def test_an_id_is_left_out_of_a_search(
        self, store: VectorStore, metric: Any, deleted: list[str]
    ) -> None:
        store.create("docs", DIM, metric)
        store.upsert("docs", items(30))
        store.upsert("docs", items(30)[5:6])
        store.delete("docs", deleted)
        queries = vectors(3, seed=1)
        for filter_ in (None, {"parity": "odd"}):
            ranked = store.search("docs", queries, 30, filter=filter_).hits
            for id_ in ("id0005", "id0003", "none"):
                others = [[hit for hit in hits if hit.id != id_][2:6] for hits in ranked]
                found = store.search("docs", queries, 4, offset=2, filter=filter_, without=id_)
                assert found.hits == others

    def test_vectors_count_as_the_numbers_that_are_written(self, store: VectorStore) -> None:
        store.create("docs", 1000)
        store.upsert("docs", [Item(str(i), v) for i, v in enumerate(vectors(50, 1000))])
        with pytest.raises(TooLarge):
            store.search(
                "docs", vectors(1, 1000), 50, include=["vector"], budget=Budget(left=400_000)
            )
        assert store.search("docs", vectors(1, 1000), 50, budget=Budget(left=400_000)).hits

    def test_an_id_that_is_asked_for_twice_comes_once(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(3))
        found = store.get("docs", ["id0002", "id0000"] * 400)
        assert [record.id for record in found] == ["id0002", "id0000"]

    def test_a_search_that_ranks_too_much_is_refused(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(3))
        with pytest.raises(TooLarge, match="100,000"):
            store.search("docs", vectors(100), 1000, offset=1)
        assert len(store.search("docs", vectors(100), 1000).hits) == 100
        assert len(store.search("docs", vectors(10), 1000, offset=9000).hits) == 10

    def test_an_offset_costs_no_bytes(self, store: VectorStore) -> None:
        store.create("docs", DIM)
        store.upsert("docs", [Item(str(i), v, "x" * 5000) for i, v in enumerate(vectors(60))])
        query, budget = vectors(1, seed=1), Budget(left=30_000)
        (hits,) = store.search("docs", query, 5, offset=50, budget=budget).hits
        assert hits == store.search("docs", query, 60).hits[0][50:55]

    @pytest.mark.parametrize("most", [1, 10, 40, 100])
    def test_a_sample_is_random_and_stays(self, store: VectorStore, most: int) -> None:
        store.create("docs", DIM)
        store.upsert("docs", items(50))
        store.delete("docs", [f"id{i:04}" for i in range(0, 50, 5)])
        live = [f"id{i:04}" for i in range(50) if i % 5]
        found = store.sample("docs", most)
        assert found == sorted(found) == store.sample("docs", most)
        assert len(set(found)) == len(found) == min(most, 40)
        assert set(found) <= set(live)
        assert (found == live[: len(found)]) == (most >= 40)
        odd = store.sample("docs", most, filter={"parity": "odd"})
        assert len(odd) == min(most, 20) and set(odd) <= {id_ for id_ in live if int(id_[2:]) % 2}
