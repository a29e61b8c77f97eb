"""Every reply through a cache equals the reply without one, whatever was asked before.

CACHE_EXAMPLES makes the long form: `CACHE_EXAMPLES=5000 pytest tests/cache/test_oracle.py`.
"""

import os
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import Cache, MemoryCache
from cache.redis import RedisCache
from engine import EmbedRequest, Engine
from errors import ServiceError
from tests.cache.conftest import engine_of, fake_of
from tests.servers.redis import Redis

EXAMPLES = int(os.environ.get("CACHE_EXAMPLES", "60"))
WORDS = [f"w{i}" for i in range(6)]
texts = st.builds(" ".join, st.lists(st.sampled_from(WORDS), max_size=9))
ids = st.lists(st.integers(0, 1001), min_size=1, max_size=9)  # 1000 and 1001 are not in its words
requests = st.builds(
    EmbedRequest,
    inputs=st.lists(st.one_of(texts, texts, ids), min_size=1, max_size=7),
    model=st.sampled_from(["a", "b", "remote", None]),
    normalize=st.sampled_from([None, True, False]),
    dimensions=st.sampled_from([None, None, 1, 5, 8, 9]),
    truncate=st.sampled_from([None, "right", "left", "error"]),
    prompt_name=st.sampled_from([None, None, "query", "document", "search_query", "nonsense"]),
    prompt=st.sampled_from([None, None, "query: ", "", "w0 "]),
)


@dataclass
class Outcome:
    """All that a caller can see, but for how long it took and what was in the cache."""

    vectors: np.ndarray
    facts: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Outcome)
        return self.facts == other.facts and np.array_equal(self.vectors, other.vectors)


def outcome(engine: Engine, request: EmbedRequest) -> Outcome:
    try:
        got = engine.embed(request)
    except ServiceError as exc:
        return Outcome(np.empty(0), (type(exc), exc.status, exc.code, exc.message, exc.param))
    assert got.vectors.dtype == np.float32
    assert got.vectors.flags.c_contiguous and got.vectors.flags.writeable
    facts = (got.vectors.shape, got.tokens, got.truncated, got.model.spec.id)
    return Outcome(got.vectors, (*facts, got.loaded.facts.fingerprint))


def check(cached: Engine, plain: Engine, asked: list[EmbedRequest]) -> None:
    for request in asked:
        assert outcome(cached, request) == outcome(plain, request)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(requests, min_size=2, max_size=8), st.sampled_from([1 << 20, 3000, 1100, 1]))
def test_no_reply_differs(asked: list[EmbedRequest], room: int) -> None:
    """The small rooms throw values out between any two requests."""
    check(engine_of(MemoryCache(room, 60)), engine_of(None), asked * 2)


@settings(max_examples=max(10, EXAMPLES // 3), deadline=None)
@given(asked=st.lists(requests, min_size=2, max_size=6), damage=st.data())
def test_no_reply_differs_on_redis_where_values_go_bad(
    redis_server: Redis, asked: list[EmbedRequest], damage: st.DataObject
) -> None:
    redis_server.flush()
    cache = RedisCache(redis_server.url(), 60)
    cached, plain = engine_of(cache), engine_of(None)
    check(cached, plain, asked)
    keys = sorted(cache._client.keys())
    for key in damage.draw(st.sets(st.sampled_from(keys), max_size=5)) if keys else ():
        value = damage.draw(
            st.one_of(st.binary(max_size=70), st.sampled_from(keys).map(cache._client.get))
        )
        cache._client.set(key, value)
    check(cached, plain, asked)
    assert cache.problem is None
    cache.close()


class Wrong(MemoryCache):
    """A cache of the kind that this is about: it gives one key's value for another."""

    def get(self, keys: list[bytes]) -> list[bytes | None]:  # type: ignore[override]
        return super().get(keys)[::-1]


def test_the_comparison_sees_a_difference() -> None:
    one, other = engine_of(None), engine_of(None)
    asked = EmbedRequest(["w1", "w2"])
    assert outcome(one, asked) == outcome(other, asked)
    for differs in ({"inputs": ["w2", "w1"]}, {"truncate": "left", "inputs": ["w1 " * 20]}):
        changed = EmbedRequest(**{"inputs": ["w1 " * 20], **differs})  # type: ignore[arg-type]
        assert outcome(one, asked) != outcome(other, changed)


def test_a_cache_that_mixes_up_its_values_is_not_believed() -> None:
    cache: Cache = Wrong(1 << 20, 60)
    cached, plain = engine_of(cache), engine_of(None)
    check(cached, plain, [EmbedRequest(["w1", "w2", "w3"])] * 3)


@pytest.mark.parametrize("fault", ["fingerprint", "prompt", "truncate"])
def test_a_key_that_forgets_something_would_be_seen(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with a key as other caches have them, the oracle finds a wrong reply."""
    import engine
    from embedders.base import Prompt

    true_keys = engine.keys_of

    def forgetful(facts, prompt, truncate, outputs, inputs):  # type: ignore[no-untyped-def]
        facts = fake_of(engine_of(None)).facts if fault == "fingerprint" else facts
        prompt = Prompt() if fault == "prompt" else prompt
        truncate = "right" if fault == "truncate" else truncate
        return true_keys(facts, prompt, truncate, outputs, inputs)

    monkeypatch.setattr(engine, "keys_of", forgetful)
    long = ["w1 w2 w3 " * 9]
    asked = [
        EmbedRequest(long, model=model, prompt=prompt, truncate=truncate)
        for model in ("a", "b")
        for prompt in ("", "w0 ")
        for truncate in ("right", "left", "error")
    ]
    with pytest.raises(AssertionError):
        check(engine_of(MemoryCache(1 << 20, 60)), engine_of(None), asked)
