"""Random operations on a store and on `contract.Model`, compared after each."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from errors import Conflict, NotFound
from store import Item, VectorStore
from tests.store.contract import Model, check_hits, same, vectors

IDS = st.sampled_from([f"k{i}" for i in range(12)])
META = st.fixed_dictionaries(
    {},
    optional={
        "n": st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 2.0])),
        "s": st.sampled_from(["", "a", "ab", "b"]),
        "l": st.lists(st.sampled_from([1, "a", None]), max_size=2),
        "o": st.fixed_dictionaries({"p": st.sampled_from([True, None, 1])}),
    },
)
VALUES = st.sampled_from([None, True, 0, 1, 2, 0.5, "", "a", "b"])
COMPARED = st.sampled_from([0, 1, 0.5, "", "a"])
FIELDS = st.sampled_from(["n", "s", "l", "o", "o.p", "gone"])
CONDITION = st.one_of(
    st.builds(lambda f, v: {f: v}, FIELDS, VALUES),
    st.builds(
        lambda f, op, v: {f: {op: v}}, FIELDS, st.sampled_from(["$gt", "$gte", "$lt"]), COMPARED
    ),
    st.builds(lambda f, v: {f: {"$in": v}}, FIELDS, st.lists(VALUES, max_size=3)),
    st.builds(lambda f, v: {f: {"$contains": v}}, FIELDS, VALUES),
    st.builds(lambda f, v: {f: {"$exists": v}}, FIELDS, st.booleans()),
)
FILTER = st.recursive(
    CONDITION,
    lambda inner: st.one_of(
        st.builds(lambda f: {"$not": f}, inner),
        st.builds(lambda f: {"$or": f}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda f: {"$and": f}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=3,
)
VECTOR = st.integers(0, 40).map(lambda seed: vectors(1, 4, seed)[0])  # repeats: equal scores
ITEM = st.builds(Item, IDS, VECTOR, st.one_of(st.none(), st.sampled_from(["t", "é"])), META)


class Operations(RuleBasedStateMachine):
    """What may be done to one collection. `open_fresh` gives a new empty store.

    Where reopening is possible the store has a method `reopened() -> VectorStore`.
    """

    open_fresh: Callable[[], VectorStore]

    @initialize(
        metric=st.sampled_from(["cosine", "dot"]),
        indexed=st.sampled_from([(), ("n", "l", "o.p", "gone")]),
    )
    def start(self, metric: Any, indexed: tuple[str, ...]) -> None:
        self.store = self.open_fresh()
        self.store.create("docs", 4, metric, indexed=indexed)
        self.model = Model(metric)

    @rule(
        new=st.lists(ITEM, min_size=1, max_size=5, unique_by=lambda item: item.id),
        mode=st.sampled_from(["upsert", "upsert", "insert", "update"]),
    )
    def upsert(self, new: list[Item], mode: Any) -> None:
        wanted = self.model.upsert(new, mode)
        try:
            done = self.store.upsert("docs", new, mode)
            assert (done.inserted, done.updated) == wanted
        except (Conflict, NotFound) as exc:
            assert type(exc).__name__ == wanted

    @rule(ids=st.lists(IDS, max_size=4))
    def delete(self, ids: list[str]) -> None:
        assert self.store.delete("docs", ids) == self.model.delete(ids, None)

    @rule(filter=FILTER)
    def delete_by_filter(self, filter: Any) -> None:
        wanted = self.model.delete(None, filter)
        assert self.store.delete("docs", filter=filter) == wanted

    @rule(query=VECTOR, k=st.integers(1, 8), offset=st.integers(0, 3), filter=FILTER)
    def search(self, query: np.ndarray, k: int, offset: int, filter: Any) -> None:
        hits = self.store.search("docs", query, k, filter=filter, offset=offset).hits[0]
        check_hits(hits, self.model.search(query, filter), k, offset)

    @rule(filter=FILTER, limit=st.integers(1, 4))
    def scroll(self, filter: Any, limit: int) -> None:
        cursor, seen = None, []
        while True:
            page = self.store.scroll("docs", cursor, limit, filter)
            seen += page.records
            cursor = page.next_cursor
            if cursor is None:
                break
        wanted = sorted(self.model.matching(filter), key=lambda item: item.id)
        assert len(seen) == len(wanted)
        assert all(same(r, i) for r, i in zip(seen, wanted, strict=True))
        assert self.store.count("docs", filter) == len(wanted)

    @rule()
    def compact(self) -> None:
        assert self.store.compact("docs").rows == len(self.model.items)

    @rule()
    def reopen(self) -> None:
        reopened = getattr(self.store, "reopened", None)
        if reopened is not None:
            self.store = reopened()

    @invariant()
    def count(self) -> None:
        if hasattr(self, "store"):
            assert self.store.count("docs") == len(self.model.items)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            with contextlib.suppress(Exception):
                self.store.drop("docs")
            self.store.close()


def machine(open_fresh: Callable[[], VectorStore]) -> type[RuleBasedStateMachine]:
    """Return the state machine over the stores of one kind."""
    return type("OperationsOnIt", (Operations,), {"open_fresh": staticmethod(open_fresh)})


def run(
    machine: type[RuleBasedStateMachine],
    examples: int,
    steps: int,
    phases: Sequence[Phase] = tuple(Phase),
) -> None:
    """Run a state machine so often, with at most so many steps. Raises what it finds."""
    test = machine.TestCase
    test.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        phases=phases,
    )
    test("runTest").debug()
