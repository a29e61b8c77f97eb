"""What the cache's tests share: engines on fake models that count what they encode."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from cache import Cache, MemoryCache
from cache.redis import RedisCache, connect
from config import Config, ModelSpec
from embedders.base import Encoded, Gone, Input, Item, Prompt, Truncate
from embedders.fake import FakeEmbedder
from engine import EmbedRequest, Engine
from serving.registry import Registry
from tests.servers.redis import Redis


class Counting(FakeEmbedder):
    """A fake that remembers what it prepared and encoded, and calls `before` each pass."""

    def __init__(self, name: str = "fake", dimension: int = 8, max_tokens: int = 16) -> None:
        super().__init__(name, dimension, max_tokens)
        self.name = name
        self.prepared: list[Input] = []
        self.encoded: list[str] = []
        self.before: Callable[[Sequence[Item]], None] = lambda items: None

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        self.prepared += inputs
        return super().prepare(inputs, prompt, truncate)

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        self.encoded += [str(item.payload) for item in items]
        self.before(items)
        return super().encode(items, deadline)

    def vector(self, text: str) -> np.ndarray:
        return super().vector(f"{self.name}/{text}")  # models differ in what they say of a text


class Remote(Counting):
    """The same, but called once per request like a provider, whose own count of tokens holds."""

    batched = False

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        vectors = super().encode(items, deadline).vectors
        return Encoded.dense(vectors, [item.tokens + 100 for item in items])


KINDS = {"a": Counting, "b": Counting, "remote": Remote}
SHAPES = {"a": (8, 16), "b": (8, 5), "remote": (12, 7)}


def registry_of(kinds: dict[str, type[Counting]] = KINDS) -> Registry:
    """Load one fake model a name; `models[name].loaded.embedder` is it."""

    def build(spec: ModelSpec, settings: object) -> Counting:
        return kinds[spec.id](spec.id, *SHAPES[spec.id])

    specs = [ModelSpec(id=name, model_name=f"tests/{name}", type="fake") for name in kinds]
    registry = Registry(specs, specs[0].id, Config(), build)
    registry.load_now()
    for model in registry.models.values():  # what is checked at a load is nobody's request
        fake = model.loaded.embedder
        assert isinstance(fake, Counting)
        fake.prepared.clear()
        fake.encoded.clear()
    return registry


def engine_of(cache: Cache | None) -> Engine:
    """An engine on three models of its own."""
    return Engine(registry_of(), "right", cache)


def fake_of(engine: Engine, name: str = "a") -> Counting:
    """Return a model's fake."""
    embedder = engine.registry.models[name].loaded.embedder
    assert isinstance(embedder, Counting)
    return embedder


TEXTS = ["one", "two", "three"]


def ask(engine: Engine, hits: int | None = None) -> bool:
    """Embed, and check the vectors against an uncached engine."""
    got = engine.embed(EmbedRequest(TEXTS))
    np.testing.assert_array_equal(got.vectors, engine_of(None).embed(EmbedRequest(TEXTS)).vectors)
    assert hits is None or got.hits == hits
    return True


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Redis more time than in service: on a busy machine what comes late would be a miss."""
    monkeypatch.setattr(connect, "__defaults__", (2.0,))


@pytest.fixture
def memory() -> MemoryCache:
    return MemoryCache(1 << 20, 60)


@pytest.fixture
def engine(memory: MemoryCache) -> Engine:
    return engine_of(memory)


@pytest.fixture
def redis_cache(redis_server: Redis) -> Iterator[RedisCache]:
    redis_server.flush()
    cache = RedisCache(redis_server.url(), 60)
    yield cache
    cache.close()
