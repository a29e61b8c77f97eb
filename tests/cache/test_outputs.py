"""Pairs, sparse vectors and vectors of tokens are cached and shared as dense vectors are."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import Cache, MemoryCache
from cache.memory import OVERHEAD
from config import Config, ModelSpec
from embedders.base import Item, Output, Sparse
from engine import Embedded, EmbedRequest, Engine
from errors import WrongKind
from serving.registry import Registry
from tests.cache.conftest import Counting, until
from tests.cache.test_once import Gate, waiting

WORDS = [f"w{i}" for i in range(5)]
OUTPUTS: tuple[Output, ...] = ("dense", "sparse", "multi_vector")
texts = st.builds(" ".join, st.lists(st.sampled_from(WORDS), min_size=1, max_size=9))
requests = st.builds(
    EmbedRequest,
    inputs=st.lists(texts, min_size=1, max_size=5),
    model=st.just("all"),
    outputs=st.sets(st.sampled_from(OUTPUTS), min_size=1).map(
        lambda chosen: tuple(each for each in OUTPUTS if each in chosen)
    ),
    normalize=st.sampled_from([None, True, False]),
    top_n=st.sampled_from([None, 1, 3]),
    min_weight=st.sampled_from([None, 0.5, 2.0]),
    truncate=st.sampled_from([None, "right", "left"]),
)
reranks = st.tuples(texts, st.lists(texts, min_size=1, max_size=5), st.booleans())


def engine_of(cache: Cache | None) -> Engine:
    """An engine on a reranker and a model of three outputs."""

    def build(spec: ModelSpec, settings: object) -> Counting:
        return Counting(spec.model_name, 8, 12)

    names = {"r": "tests/r+score", "all": "tests/all+dense+sparse+multi_vector"}
    specs = [ModelSpec(id=name, model_name=long, type="fake") for name, long in names.items()]
    registry = Registry(specs, "all", Config(), build)
    registry.load_now()
    return Engine(registry, "right", cache)


def fake_of(engine: Engine, name: str) -> Counting:
    embedder = engine.registry.models[name].loaded.embedder
    assert isinstance(embedder, Counting)
    embedder.encoded.clear()
    return embedder


def parts(result: Embedded) -> dict[Output, list[np.ndarray]]:
    return {
        output: [np.concatenate([np.ravel(p) for p in row]) if isinstance(row, Sparse)
                 else np.asarray(row) for row in column]
        for output, column in result.columns.items()
    }  # fmt: skip


def assert_same(one: Embedded, other: Embedded) -> None:
    assert (one.tokens, one.truncated, one.count) == (other.tokens, other.truncated, other.count)
    ours, theirs = parts(one), parts(other)
    assert ours.keys() == theirs.keys()
    for output, rows in ours.items():
        for row, right in zip(rows, theirs[output], strict=True):
            np.testing.assert_array_equal(row, right)


@settings(max_examples=25, deadline=None)
@given(st.lists(requests | reranks, min_size=2, max_size=6), st.sampled_from([1 << 20, 2500, 1]))
def test_no_reply_differs_from_one_without_a_cache(asked: list, room: int) -> None:
    cached, plain = engine_of(MemoryCache(room, 60)), engine_of(None)
    for each in asked * 2:
        if isinstance(each, EmbedRequest):
            assert_same(cached.embed(each), plain.embed(each))
        else:
            query, documents, raw = each
            how = EmbedRequest((), model="r")
            ours = cached.rerank(query, documents, how, raw=raw)
            assert_same(ours, plain.rerank(query, documents, how, raw=raw))
            assert ours.scores.shape == (len(documents), 1)


def test_a_pair_is_scored_once_raw_or_not(memory: MemoryCache) -> None:
    engine = engine_of(memory)
    fake, how = fake_of(engine, "r"), EmbedRequest((), model="r")
    cold = engine.rerank("a b", ["a", "c", "a"], how)
    warm = engine.rerank("a b", ["c", "a"], how, raw=True)
    assert (len(fake.encoded), cold.hits, warm.hits) == (2, 0, 2)
    np.testing.assert_allclose(1 / (1 + np.exp(-warm.scores[::-1])), cold.scores[:2], rtol=1e-6)


def test_other_outputs_of_a_text_are_other_entries(memory: MemoryCache) -> None:
    engine = engine_of(memory)
    for outputs in (("dense",), ("sparse",), ("dense", "sparse")):
        asked = EmbedRequest(["a"], outputs=outputs)  # type: ignore[arg-type]
        assert [engine.embed(asked).hits for _ in range(2)] == [0, 1]
        assert set(engine.embed(asked).columns) == set(outputs)


def test_terms_are_chosen_of_what_is_cached(memory: MemoryCache) -> None:
    engine = engine_of(memory)
    whole = engine.embed(EmbedRequest(["a b c d"], outputs=("sparse",))).columns["sparse"][0]
    cut = engine.embed(EmbedRequest(["a b c d"], outputs=("sparse",), top_n=2))
    assert cut.hits == 1 and isinstance(whole, Sparse)
    (row,) = cut.columns["sparse"]
    assert isinstance(row, Sparse)
    assert sorted(row.values, reverse=True) == sorted(whole.values, reverse=True)[:2]


def test_the_bytes_of_sparse_and_token_vectors_are_counted(memory: MemoryCache) -> None:
    engine = engine_of(memory)
    before = memory.status()["bytes"]
    engine.embed(EmbedRequest(["a b c"], outputs=("sparse", "multi_vector")))
    held = memory.status()["bytes"]
    assert isinstance(held, int) and isinstance(before, int)
    numbers = 2 * 3 + 3 * 8  # indices and weights, and a vector a token
    assert held - before == 47 + 8 + 2 * 8 + 4 * numbers + 4 + OVERHEAD


def test_a_value_that_takes_the_room_of_thousands_is_not_kept(
    memory: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.LARGEST_KEPT", 200)
    engine = engine_of(memory)
    for text, hits in (("a", 1), ("a b c d e f g h", 0)):
        asked = EmbedRequest([text], outputs=("multi_vector",))
        assert [engine.embed(asked).hits for _ in range(2)] == [0, hits]


def test_a_large_sparse_row_is_cut_for_its_own_request_alone(
    memory: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.LARGEST_KEPT", 16)
    engine, plain = engine_of(memory), engine_of(None)
    fake = fake_of(engine, "all")
    gate = Gate(fake)
    whole = EmbedRequest(["a b c d e"], outputs=("sparse",))
    cut = EmbedRequest(["a b c d e"], outputs=("sparse",), top_n=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine.embed, cut)
        assert gate.entered.wait(60)
        other = pool.submit(engine.embed, whole)
        until(lambda: waiting(engine) == 1)
        gate.opened.set()
        assert_same(first.result(60), plain.embed(cut))
        assert_same(other.result(60), plain.embed(whole))
    assert len(parts(other.result())["sparse"][0]) == 10
    assert engine.embed(whole).hits == 0  # nor is it kept


def test_requests_at_the_same_moment_share_a_pair(memory: MemoryCache) -> None:
    engine = engine_of(memory)
    fake = fake_of(engine, "r")
    gate = Gate(fake)
    with ThreadPoolExecutor(4) as pool:
        how = EmbedRequest((), model="r")
        first = pool.submit(engine.rerank, "q", ["a"], how)
        assert gate.entered.wait(60)
        others = [pool.submit(engine.rerank, "q", ["a", "a"], how) for _ in range(3)]
        until(lambda: waiting(engine) == 3)
        gate.opened.set()
        right = first.result(60).scores[0]
        for other in others:
            np.testing.assert_array_equal(other.result(60).scores, [right, right])
    assert len(fake.encoded) == 1


def test_a_batch_holds_requests_for_different_outputs() -> None:
    engine = engine_of(None)
    fake = fake_of(engine, "all")
    sizes: list[int] = []
    fake.before = lambda items: sizes.append(len({item.outputs for item in items}))
    gate = threading.Event()
    entered = threading.Event()

    def first(items: Sequence[Item]) -> None:
        sizes.append(len({item.outputs for item in items}))
        if not entered.is_set():
            entered.set()
            assert gate.wait(60)

    fake.before = first
    wants: list[tuple[Output, ...]] = [("dense",), ("sparse",), ("dense", "multi_vector")]
    model = engine.registry.models["all"].loaded.encoder
    with ThreadPoolExecutor(4) as pool:
        held = pool.submit(engine.embed, EmbedRequest(["first"]))
        assert entered.wait(60)
        asked = [EmbedRequest(["a b"], outputs=outputs) for outputs in wants]
        waits = [pool.submit(engine.embed, each) for each in asked]
        until(lambda: model.queued()[0] == 3)  # type: ignore[attr-defined]
        gate.set()
        held.result(60)
        for each, future in zip(asked, waits, strict=True):
            assert_same(future.result(60), engine_of(None).embed(each))
            assert set(future.result(60).columns) >= set(each.outputs)
    assert max(sizes) == 3


def test_the_engine_refuses_what_a_model_does_not_give() -> None:
    engine = engine_of(None)
    with pytest.raises(WrongKind, match="is a reranker and gives no dense vectors"):
        engine.embed(EmbedRequest(["a"], model="r"))
    with pytest.raises(WrongKind, match="gives no scores of documents"):
        engine.rerank("a", ["b"], EmbedRequest((), model="all"))
