"""Random operations on SqlStore against a dict: after each, both give the same answers."""

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import errors
from store import Item
from store.filters import matches, parse
from store.pgvector import SqlStore
from tests.servers.fixtures import need
from tests.servers.postgres import Postgres
from tests.store.operations import run

DIM = 3
NAMES = st.sampled_from(["a", "b", "c"])
ALIASES = st.sampled_from(["a", "x", "y"])  # one of them may also be a collection
IDS = st.sampled_from(["1", "2", "10", "é", "Z", "z", "'", "%s", ":x"])
VALUES = st.sampled_from([None, True, 0, 1, 1.5, "s", ["s", 1], {"n": 1}])
METADATA = st.dictionaries(st.sampled_from(["k", "n", "tags"]), VALUES, max_size=2)
VECTORS = st.lists(st.integers(-3, 3), min_size=DIM, max_size=DIM).filter(any)
ITEMS = st.lists(
    st.builds(Item, IDS, VECTORS, st.sampled_from([None, "", "text"]), METADATA),
    min_size=1,
    max_size=5,
    unique_by=lambda item: item.id,
)
FILTERS = st.sampled_from(
    [None, {}, {"k": 1}, {"k": {"$ne": 1}}, {"n": {"$gt": 0}}, {"tags": {"$contains": "s"}}]
    + [{"$not": {"k": {"$exists": True}}}, {"$or": [{"k": "s"}, {"n": None}]}, {"k.n": 1}]
)

STEPS = 40  # of each example at most


class Model:
    """What a store is, without the difficulties."""

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, Item]] = {}
        self.aliases: dict[str, str] = {}

    def rows(self, name: str) -> dict[str, Item]:
        name = self.aliases.get(name, name)
        if name not in self.collections:
            raise errors.NotFound(name)
        return self.collections[name]

    def own(self, name: str) -> dict[str, Item]:
        if name in self.aliases:
            raise errors.Conflict(name)
        return self.rows(name)

    def create(self, name: str) -> None:
        if name in self.collections or name in self.aliases:
            raise errors.Conflict(name)
        self.collections[name] = {}

    def drop(self, name: str) -> None:
        self.own(name)
        del self.collections[name]
        self.aliases = {a: to for a, to in self.aliases.items() if to != name}

    def rename(self, name: str, new: str) -> None:
        self.own(name)
        if new in self.collections or new in self.aliases:
            raise errors.Conflict(new)
        self.collections[new] = self.collections.pop(name)
        self.aliases = {a: new if to == name else to for a, to in self.aliases.items()}

    def swap(self, name: str, other: str) -> None:
        one, two = self.own(name), self.own(other)
        self.collections[name], self.collections[other] = two, one

    def alias(self, alias: str, name: str) -> None:
        if alias in self.collections:
            raise errors.Conflict(alias)
        self.rows(name)
        self.aliases[alias] = self.aliases.get(name, name)

    def unalias(self, alias: str) -> None:
        if alias not in self.aliases:
            raise errors.NotFound(alias)
        del self.aliases[alias]

    def upsert(self, name: str, items: list[Item], mode: str) -> tuple[int, int]:
        rows = self.rows(name)
        there = [item.id in rows for item in items]
        if mode == "insert" and any(there):
            raise errors.Conflict(name)
        if mode == "update" and not all(there):
            raise errors.NotFound(name)
        rows.update({item.id: item for item in items})
        return there.count(False), there.count(True)

    def get(self, name: str, ids: list[str]) -> list[Item]:
        rows = self.rows(name)
        return [rows[id_] for id_ in ids if id_ in rows]

    def matching(self, name: str, raw: object) -> list[str]:
        tree = parse(raw)
        return sorted(i for i, item in self.rows(name).items() if matches(tree, item.metadata))

    def delete(self, name: str, ids: list[str]) -> int:
        rows = self.rows(name)
        return sum(rows.pop(id_, None) is not None for id_ in set(ids))


class Machine(RuleBasedStateMachine):
    """Every rule does the same to both and compares what they say."""

    url: str
    kind: type[SqlStore] = SqlStore

    @initialize()
    def open(self) -> None:
        self.store, self.model = self.kind(self.url, pool_size=1), Model()
        for info in self.store.collections():
            self.store.drop(info.name)
        for name in ("a", "b"):
            self.create(name)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    def same(self, mine: Any, theirs: Any) -> tuple[Any, Any]:
        """Run both; if one is refused, so must the other be, for the same reason."""
        answers = []
        for call in (mine, theirs):
            try:
                answers.append(call())
            except errors.ServiceError as error:
                answers.append(type(error))
        if isinstance(answers[0], type) or isinstance(answers[1], type):
            assert answers[0] == answers[1]
        return answers[0], answers[1]

    @rule(name=st.sampled_from(["a", "b", "c", "x"]))
    def create(self, name: str) -> None:
        self.same(lambda: self.model.create(name), lambda: self.store.create(name, DIM) and None)

    @rule(name=NAMES | ALIASES)
    def drop(self, name: str) -> None:
        self.same(lambda: self.model.drop(name), lambda: self.store.drop(name))

    @rule(name=NAMES | ALIASES, new=NAMES | ALIASES)
    def rename(self, name: str, new: str) -> None:
        if name != new:
            self.same(lambda: self.model.rename(name, new), lambda: self.store.rename(name, new))

    @rule(name=NAMES | ALIASES, other=NAMES | ALIASES)
    def swap(self, name: str, other: str) -> None:
        if name != other:
            self.same(lambda: self.model.swap(name, other), lambda: self.store.swap(name, other))

    @rule(alias=ALIASES, name=NAMES | ALIASES)
    def alias(self, alias: str, name: str) -> None:
        if alias != name:
            self.same(lambda: self.model.alias(alias, name), lambda: self.store.alias(alias, name))

    @rule(alias=ALIASES)
    def unalias(self, alias: str) -> None:
        self.same(lambda: self.model.unalias(alias), lambda: self.store.unalias(alias))

    @rule(name=NAMES | ALIASES, items=ITEMS, mode=st.sampled_from(["upsert", "insert", "update"]))
    def upsert(self, name: str, items: list[Item], mode: Any) -> None:
        mine, theirs = self.same(
            lambda: self.model.upsert(name, items, mode),
            lambda: self.store.upsert(name, items, mode),
        )
        if isinstance(mine, tuple):
            assert mine == (theirs.inserted, theirs.updated)

    @rule(name=NAMES | ALIASES, ids=st.lists(IDS, max_size=4))
    def delete(self, name: str, ids: list[str]) -> None:
        mine, theirs = self.same(
            lambda: self.model.delete(name, ids), lambda: self.store.delete(name, ids)
        )
        assert mine == theirs

    @rule(name=NAMES | ALIASES, raw=FILTERS.filter(lambda raw: raw is not None))
    def delete_by_filter(self, name: str, raw: object) -> None:
        mine, theirs = self.same(
            lambda: self.model.delete(name, self.model.matching(name, raw)),
            lambda: self.store.delete(name, filter=raw),
        )
        assert mine == theirs

    @rule(name=NAMES | ALIASES, ids=st.lists(IDS, max_size=4))
    def get(self, name: str, ids: list[str]) -> None:
        mine, theirs = self.same(
            lambda: self.model.get(name, ids),
            lambda: self.store.get(name, ids),
        )
        if isinstance(mine, list):
            assert [item.id for item in mine] == [record.id for record in theirs]
            for item, record in zip(mine, theirs, strict=True):
                assert np.array_equal(record.vector, np.float32(item.vector))
                assert (record.text, record.metadata) == (item.text, item.metadata)

    @rule(name=NAMES | ALIASES, raw=FILTERS, query=VECTORS, k=st.integers(1, 6))
    def search(self, name: str, raw: object, query: list[int], k: int) -> None:
        def mine() -> list[tuple[str, float]]:
            rows, wanted = self.model.rows(name), np.float32(query)
            scored = []
            for id_ in self.model.matching(name, raw):
                vector = np.float32(rows[id_].vector)
                norms = np.linalg.norm(vector) * np.linalg.norm(wanted)
                scored.append((id_, float(vector @ wanted / norms)))
            return sorted(scored, key=lambda each: (-round(each[1], 5), each[0]))[:k]

        mine_, theirs = self.same(mine, lambda: self.store.search(name, query, k, filter=raw))
        if isinstance(mine_, list):
            found = [(hit.id, hit.score) for hit in theirs.hits[0]]
            assert [s for _, s in found] == pytest.approx([s for _, s in mine_], abs=1e-5)
            by_score = sorted(found, key=lambda each: (-round(each[1], 5), each[0]))
            # Vectors in the same direction may differ in the last bit, and so in their order.
            cut = [i for i, s in mine_ if s > mine_[-1][1] + 1e-5]
            assert [i for i, _ in by_score][: len(cut)] == cut

    @rule(name=NAMES | ALIASES, raw=FILTERS, limit=st.integers(1, 4))
    def scroll(self, name: str, raw: object, limit: int) -> None:
        def pages() -> list[str]:
            ids, cursor = [], None
            while True:
                page = self.store.scroll(name, cursor, limit, raw)
                assert len(page.records) <= limit
                ids += [record.id for record in page.records]
                if (cursor := page.next_cursor) is None:
                    return ids

        mine, theirs = self.same(lambda: self.model.matching(name, raw), pages)
        assert mine == theirs

    @rule(name=NAMES | ALIASES, raw=FILTERS)
    def count(self, name: str, raw: object) -> None:
        mine, theirs = self.same(
            lambda: len(self.model.matching(name, raw)), lambda: self.store.count(name, raw)
        )
        assert mine == theirs

    @invariant()
    def the_catalogue_is_the_same(self) -> None:
        if hasattr(self, "store"):
            listed = {info.name: info for info in self.store.collections()}
            assert listed.keys() == self.model.collections.keys()
            for name, info in listed.items():
                assert info.count == len(self.model.collections[name])
                mine = sorted(a for a, to in self.model.aliases.items() if to == name)
                assert list(info.aliases) == mine


@pytest.fixture(scope="module")
def machine(postgres: Postgres) -> type[Machine]:
    need(Postgres)
    return type("MachineOnPostgres", (Machine,), {"url": postgres.database()})


def test_random_operations_agree_with_a_dict(machine: type[Machine]) -> None:
    run(machine, int(os.environ.get("SQL_MODEL_EXAMPLES", "60")), STEPS)


def test_the_comparison_can_fail(machine: type[Machine]) -> None:
    """The control: a store that counts what it was asked to delete, as Chroma does."""

    class Boastful(SqlStore):
        def delete(self, name, ids=None, filter=None):
            done = super().delete(name, ids, filter)
            return done if ids is None else len(ids)

    with pytest.raises(AssertionError):
        run(type("BoastfulMachine", (machine,), {"kind": Boastful}), 60, STEPS, [Phase.generate])
