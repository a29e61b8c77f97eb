"""What the engine gives beside vectors: states of tokens, chunks, classes, tokens, lower limits."""

import time
from functools import partial

import numpy as np
import pytest

from cache import Cache, MemoryCache
from config import Config, ModelSpec
from embedders import build
from embedders.base import Pair
from embedders.fake import FakeEmbedder
from engine import EmbedRequest, Engine
from errors import (
    BadRequest,
    ClientGone,
    DeadlineExceeded,
    InputTooLong,
    Invalid,
    TooLarge,
    WrongKind,
)
from serving import encoding
from serving.registry import Registry
from serving.results import cosines
from serving.selection import CLASSES, SCORE, select

MODELS = {"dense": "t/dense", "reranker": "t/r+score", "classifier": "t/c+score+label",
          "sparse": "t/s+sparse", "all": "t/a+dense+sparse+multi_vector"}  # fmt: skip
NONE = EmbedRequest(())


def engine_of(cache: Cache | None = None, default: str = "dense", **kept: str) -> Engine:
    specs = [
        ModelSpec(id=name, type="fake", model_name=long, max_seq_length=12)
        for name, long in (kept or MODELS).items()
    ]
    registry = Registry(specs, default, Config(), build)
    registry.load_now()
    return Engine(registry, "auto", cache)


@pytest.fixture(params=["no cache", "a cache"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_of(MemoryCache(1 << 20, 60) if request.param == "a cache" else None)


@pytest.fixture
def memory() -> MemoryCache:
    return MemoryCache(1 << 20, 60)


def fake(name: str = "dense") -> FakeEmbedder:
    return FakeEmbedder(MODELS[name], 8, 12)


# ---- states of tokens


def test_every_token_has_its_state(engine: Engine) -> None:
    asked = EmbedRequest(["a b c", "d", "a b c"], outputs=("tokens",))
    for _ in range(2):
        found = engine.embed(asked)
        right = [[fake().vector(word) for word in text.split()] for text in ("a b c", "d", "a b c")]
        for ours, rows in zip(found.columns["tokens"], right, strict=True):
            np.testing.assert_array_equal(ours, np.stack(rows))  # type: ignore[arg-type]
        assert (found.tokens, found.count) == (7, 3)
    assert engine.embed(EmbedRequest(["d"])).hits == 0  # its vector is another entry


def test_states_are_kept_as_other_results_are(memory: MemoryCache) -> None:
    engine = engine_of(memory)
    asked = EmbedRequest(["a b c", "d"], outputs=("tokens",))
    cold, warm = engine.embed(asked), engine.embed(asked)
    assert (cold.hits, warm.hits) == (0, 2)
    for one, other in zip(cold.columns["tokens"], warm.columns["tokens"], strict=True):
        np.testing.assert_array_equal(one, other)  # type: ignore[arg-type]
    lower = EmbedRequest(["a b c", "d"], outputs=("tokens",), max_tokens=2)
    assert (engine.embed(lower).hits, engine.embed(lower).hits) == (0, 2)


def test_states_are_counted_before_they_are_made(engine: Engine) -> None:
    asked = EmbedRequest(["a b c", "d"], outputs=("tokens",), most_tokens=4)
    assert engine.embed(asked).tokens == 4
    with pytest.raises(TooLarge, match="4 tokens"):
        engine.embed(EmbedRequest(["e f g", "h"], outputs=("tokens",), most_tokens=3))


@pytest.mark.parametrize("name", ["reranker", "classifier", "sparse"])
def test_a_model_without_states_is_refused_by_what_it_is(engine: Engine, name: str) -> None:
    with pytest.raises(WrongKind, match="gives no states of tokens.*models that do this: dense"):
        engine.embed(EmbedRequest(["a"], model=name, outputs=("tokens",)))


# ---- chunks


def test_each_chunk_has_the_mean_of_its_tokens(engine: Engine) -> None:
    documents = [["a b", "c"], ["d"], ["e f g", "h", "i j"]]
    found = engine.embed_chunks(documents, EmbedRequest((), normalize=False))
    chunks = [chunk for chunks in documents for chunk in chunks]
    right = [np.mean([fake().vector(word) for word in chunk.split()], axis=0) for chunk in chunks]
    np.testing.assert_allclose(found.vectors, np.stack(right), rtol=1e-6)
    assert found.chunk_tokens == [2, 1, 1, 3, 1, 2]
    assert (found.count, found.tokens, found.truncated, found.hits) == (6, 10, 0, 0)


def test_chunks_are_cut_and_normalised_as_vectors_are(engine: Engine) -> None:
    documents = [["a b", "c"]]
    whole = engine.embed_chunks(documents, EmbedRequest((), normalize=False)).vectors
    cut = engine.embed_chunks(documents, EmbedRequest((), normalize=True, dimensions=3)).vectors
    right = whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, right, rtol=1e-6)
    with pytest.raises(BadRequest, match="dimensions 9"):
        engine.embed_chunks(documents, EmbedRequest((), dimensions=9))


def test_a_document_over_the_limit_names_its_chunk(engine: Engine) -> None:
    long = [["a"], ["b " * 5 + "b", "c " * 8 + "c", "d"]]
    for truncate in (None, "error"):
        with pytest.raises(InputTooLong) as refused:
            engine.embed_chunks(long, EmbedRequest((), truncate=truncate))  # type: ignore[arg-type]
        assert refused.value.index == 2
    with pytest.raises(InputTooLong) as refused:
        engine.embed_chunks(long, EmbedRequest((), truncate="right"))
    assert refused.value.index == 3
    cut = engine.embed_chunks([long[1][:2]], EmbedRequest((), truncate="right"))
    assert (cut.chunk_tokens, cut.truncated) == ([6, 6], 1)


@pytest.mark.parametrize("documents", [[], [[]], [["a"], []]])
def test_there_is_no_document_without_a_chunk(engine: Engine, documents: list[list[str]]) -> None:
    with pytest.raises(Invalid, match="at least one chunk"):
        engine.embed_chunks(documents, NONE)


def test_a_model_that_pools_no_chunks_says_so(engine: Engine) -> None:
    taken = select(engine.registry, "all", ("dense",))
    with pytest.raises(WrongKind, match="late chunking"):
        engine.embed_chunks([["a"]], EmbedRequest((), taken=taken))


# ---- classes


def test_a_classifier_scores_texts_and_pairs_in_their_order(engine: Engine) -> None:
    inputs = ["a", Pair("b", "c"), "d", Pair("b", "c")]
    raw = engine.classify(inputs, NONE, raw=True)
    assert raw.model.spec.id == "classifier" and raw.loaded.facts.labels == ("no", "yes")
    assert raw.scores.shape == (4, 2) and (raw.scores[1] == raw.scores[3]).all()
    powers = np.exp(raw.scores)
    shares = engine.classify(inputs, NONE).scores
    np.testing.assert_allclose(shares, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
    alone = engine.classify([inputs[2]], NONE).scores
    np.testing.assert_array_equal(alone[0], shares[2])


def test_the_one_score_of_a_reranker_becomes_its_sigmoid(engine: Engine) -> None:
    asked = EmbedRequest((), model="reranker")
    raw = engine.classify([Pair("a b", "a"), Pair("a", "c")], asked, raw=True).scores
    found = engine.classify([Pair("a b", "a"), Pair("a", "c")], asked).scores
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-raw)), rtol=1e-6)
    with pytest.raises(BadRequest, match="/rerank"):
        engine.classify(["a text alone"], asked)


def test_an_input_at_fault_is_told_among_pairs_and_texts(engine: Engine) -> None:
    asked = EmbedRequest((), model="classifier", truncate="error")
    inputs = ["a", Pair("b", "c"), Pair("b", "c " * 20), "d " * 20]
    with pytest.raises(InputTooLong) as refused:
        engine.classify(inputs[:3], asked)
    assert refused.value.index == 2
    with pytest.raises(InputTooLong) as refused:
        engine.classify([inputs[1], inputs[3]], asked)
    assert refused.value.index == 1


def test_a_classifier_goes_before_a_reranker_and_both_before_nothing() -> None:
    both = engine_of(None, "dense", **{k: MODELS[k] for k in ("dense", "reranker", "classifier")})
    assert select(both.registry, None, CLASSES)[0].spec.id == "classifier"
    one = engine_of(None, "dense", **{k: MODELS[k] for k in ("dense", "reranker")})
    assert select(one.registry, None, CLASSES)[0].spec.id == "reranker"
    none = engine_of(None, "dense", dense=MODELS["dense"])
    with pytest.raises(WrongKind, match="gives no scores of labels"):
        none.classify(["a"], NONE)


def test_the_refusal_of_a_classifier_names_its_route(engine: Engine) -> None:
    for ask in (
        lambda: engine.rerank("a", ["b"], EmbedRequest((), model="classifier")),
        lambda: engine.embed(EmbedRequest(["a"], model="classifier")),
    ):
        with pytest.raises(WrongKind, match="it is for POST /predict"):
            ask()
    assert select(engine.registry, None, SCORE)[0].spec.id == "reranker"


# ---- tokens


@pytest.mark.parametrize("name", MODELS)
def test_any_model_tells_its_tokens(engine: Engine, name: str) -> None:
    asked = EmbedRequest((), model=name, prompt="so: ")
    ((first, *others), pair) = engine.tokenize(["a bc", Pair("d", "e")], asked)
    assert (first.text, first.start, first.stop) == ("so:", 0, 3)
    assert [(token.text, token.start, token.stop) for token in others] == [
        ("a", 4, 5),
        ("bc", 6, 8),
    ]
    assert [token.text for token in pair] == ["so:", "d", "e"]
    ids = [[token.id for token in others]]
    assert engine.detokenize(ids, asked) == [" ".join(str(i) for i in ids[0])]
    with pytest.raises(TooLarge):
        engine.tokenize(["a b c"], EmbedRequest((), model=name, prompt="", most_tokens=2))
    with pytest.raises(BadRequest) as refused:
        engine.detokenize([[1], [10**9]], asked)
    assert refused.value.index == 1


def test_tokens_are_made_a_piece_at_a_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pieces the deadline is looked at, and whether the caller is there."""
    texts, ids = ["4 5", "6", "7 8 9", "", "10"], [[4, 5], [6], [], [7, 8, 9]]
    whole = engine.tokenize(texts, NONE), engine.detokenize(ids, NONE)
    monkeypatch.setattr(encoding, "LONGEST", 5)
    assert (engine.tokenize(texts, NONE), engine.detokenize(ids, NONE)) == whole
    looks = [False, False, True]
    gone = EmbedRequest((), gone=lambda: looks.pop(0))
    with pytest.raises(ClientGone):
        engine.tokenize(texts * 9, gone)
    assert looks == []
    late = EmbedRequest((), deadline=time.monotonic())
    for ask in (lambda: engine.tokenize(texts, late), lambda: engine.detokenize(ids, late)):
        with pytest.raises(DeadlineExceeded):
            ask()
    with pytest.raises(TooLarge, match="it has 6 characters, and 5 is the limit") as refused:
        engine.tokenize(["a", Pair("abc", "def")], NONE)
    assert refused.value.index == 1
    with pytest.raises(TooLarge, match="8 characters"):
        engine.tokenize(["a"], EmbedRequest((), prompt="prompt "))
    monkeypatch.setattr(encoding, "LONGEST", 2)
    with pytest.raises(BadRequest, match="vocabulary") as unknown:
        engine.detokenize([[1, 2], [3, 10**9]], NONE)
    assert unknown.value.index == 1


def test_without_a_name_the_default_tells_its_tokens(engine: Engine) -> None:
    assert select(engine.registry, None, ())[0].spec.id == "dense"
    assert [token.text for token in engine.tokenize(["a b"], NONE)[0]] == ["a", "b"]


# ---- lower limits


def test_an_input_is_cut_at_a_lower_limit(engine: Engine) -> None:
    for _ in range(2):
        cut = engine.embed(EmbedRequest(["a b c", "d"], max_tokens=2, normalize=False))
        assert (cut.tokens, cut.truncated) == (3, 1)
        np.testing.assert_array_equal(cut.vectors[0], fake().vector("a b"))
    whole = engine.embed(EmbedRequest(["a b c", "d"], normalize=False))
    assert (whole.tokens, whole.truncated) == (4, 0)
    with pytest.raises(InputTooLong) as refused:
        engine.embed(EmbedRequest(["d", "a b c"], max_tokens=2, truncate="error"))
    assert refused.value.index == 1


def test_a_limit_over_the_models_own_is_the_same_request() -> None:
    engine = engine_of(MemoryCache(1 << 20, 60))
    engine.embed(EmbedRequest(["a b c"]))
    assert engine.embed(EmbedRequest(["a b c"], max_tokens=12)).hits == 1
    assert engine.embed(EmbedRequest(["a b c"], max_tokens=3)).hits == 0
    with pytest.raises(BadRequest, match="at least 1"):
        engine.embed(EmbedRequest(["a b c"], max_tokens=0))


def test_a_document_has_a_limit_of_its_own(engine: Engine) -> None:
    how = partial(EmbedRequest, (), model="reranker")
    whole = engine.rerank("a b", ["a", "c d e a"], how()).scores
    short = engine.rerank("a b", ["a", "c d e a"], how(max_document_tokens=3))
    assert short.scores[0] == whole[0] and short.scores[1] != whole[1]
    assert (short.tokens, short.truncated) == (3 + 5, 1)
    pair = engine.rerank("a b", ["a", "c d e a"], how(max_tokens=4))
    assert (pair.tokens, pair.truncated) == (3 + 4, 1)


# ---- cosines


def test_cosines_are_those_of_each_vector() -> None:
    source = np.random.default_rng(4)
    many = source.normal(size=(5, 7)).astype(np.float32)
    many[3] = 0
    found = cosines(many[0], many)
    assert found.dtype == np.float32 and found.shape == (5,)
    assert found[0] == pytest.approx(1) and found[3] == 0
    right = many[1] @ many[0] / np.linalg.norm(many[1]) / np.linalg.norm(many[0])
    assert found[1] == pytest.approx(right, rel=1e-5)
