"""What callers see of the cache, in every dialect, in one process and in several."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from cache import MemoryCache, RedisCache, open_cache
from config import Config, ConfigError, load_config
from context import KEY
from embedders.base import Prompt
from factory import create_app
from tests.cache.conftest import until
from tests.servers.redis import Redis

BODIES = {
    "/embed": {"texts": ["one", "two", "one"]},
    "/batch-embed": {"texts": ["one", "two", "one"]},
    "/v1/embeddings": {"input": ["one", "two", "one"], "model": "fake"},
}


@pytest.mark.parametrize("path", BODIES)
def test_every_dialect_tells_hits_and_misses(fake_client: FlaskClient, path: str) -> None:
    cold, warm = (fake_client.post(path, json=BODIES[path]) for _ in range(2))
    assert cold.headers["X-Cache"] == "hits=0, misses=3"
    assert warm.headers["X-Cache"] == "hits=3, misses=0"
    volatile = "processing_time_ms"
    assert {k: v for k, v in cold.json.items() if k != volatile} == {
        k: v for k, v in warm.json.items() if k != volatile
    }
    for name in ("X-Truncated-Inputs", "X-Embedding-Fingerprint"):
        assert cold.headers[name] == warm.headers[name]


def test_dialects_share_what_is_kept(fake_client: FlaskClient) -> None:
    fake_client.post("/embed", json={"texts": ["one"], "normalize": False})
    reply = fake_client.post("/v1/embeddings", json={"input": "one", "model": "fake"})
    assert reply.headers["X-Cache"] == "hits=1, misses=0"
    single = fake_client.post("/embed/single?text=one")
    assert single.headers["X-Cache"] == "hits=1, misses=0"


def test_truncation_is_told_on_a_hit_as_on_a_miss(fake_client: FlaskClient) -> None:
    body = {"texts": ["word " * 50, "short"]}
    told = [fake_client.post("/embed", json=body).headers["X-Truncated-Inputs"] for _ in range(2)]
    assert told == ["1", "1"]
    refused = fake_client.post("/embed", json={**body, "truncate": "error"})
    assert refused.status_code == 400


@pytest.mark.fault("Models and devices")
def test_an_exchanged_model_finds_nothing_of_the_other(
    config_of: Callable[..., Config],
) -> None:
    """The model is swapped -> the cache returns no vector of the old one."""
    models = {name: {"type": "fake", "model_name": f"tests/{name}"} for name in ("one", "two")}
    client = create_app(config_of(models), wait=True).test_client()
    before = client.post("/embed", json={"texts": ["a"]})
    changed = client.post("/settings", json={"key": "model_name", "value": "two"})
    assert changed.status_code == 200
    after = client.post("/embed", json={"texts": ["a"]})
    assert after.headers["X-Cache"] == "hits=0, misses=1"
    name = "X-Embedding-Fingerprint"
    assert before.headers[name] != after.headers[name]
    client.post("/settings", json={"key": "model_name", "value": "one"})
    assert client.post("/embed", json={"texts": ["a"]}).headers["X-Cache"] == "hits=1, misses=0"


def test_no_cache_is_no_cache(config_of: Callable[..., Config]) -> None:
    client = create_app(config_of(cache="none"), wait=True).test_client()
    for _ in range(2):
        reply = client.post("/embed", json={"texts": ["one", "one"]})
        assert reply.headers["X-Cache"] == "hits=0, misses=2"


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, MemoryCache),
        ({"CACHE": "memory"}, MemoryCache),
        ({"REDIS_ENABLED": "true"}, RedisCache),
        ({"CACHE": "redis"}, RedisCache),
        ({"CACHE": "memory", "REDIS_ENABLED": "true"}, MemoryCache),
        ({"CACHE": "none", "REDIS_ENABLED": "true"}, type(None)),
    ],
)
def test_the_settings_choose_the_cache(environment: dict[str, str], kind: type) -> None:
    cache = open_cache(load_config(environment))
    assert isinstance(cache, kind)
    if cache is not None:
        cache.close()


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"REDIS_HOST": "redis", "REDIS_PORT": "7000"}, "redis://redis:7000/0"),
        ({"REDIS_PASSWORD": "p@s:/s"}, "redis://:p%40s%3A%2Fs@localhost:6379/0"),
        ({"REDIS_TLS": "true", "REDIS_HOST": "::1"}, "rediss://[::1]:6379/0"),
        ({"REDIS_URL": "unix:///run/redis.sock", "REDIS_HOST": "no"}, "unix:///run/redis.sock"),
    ],
)
def test_the_address_is_made_of_the_settings(environment: dict[str, str], address: str) -> None:
    config = load_config(environment)
    assert config.redis_address == address
    assert "p@s" not in repr(config)


def test_an_address_that_is_none_stops_the_start_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL") as caught:
        load_config({"REDIS_URL": "http://:secret@x"})
    assert "secret" not in str(caught.value)


def test_workers_of_two_services_share_redis(
    serve: Callable[..., str], config_of: Callable[..., Config], redis_server: Redis
) -> None:
    redis_server.flush()
    config = config_of()
    env = {"MODEL_CONFIG": str(config.model_config_file), "REDIS_ENABLED": "true"}
    env |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_server.port)}
    env |= {"SUPPORTED_MODELS_FILE": "none"}
    one, other = serve(**env), serve(**env)
    cold = requests.post(f"{one}/embed", json={"texts": ["a", "b"]}, timeout=60)
    warm = requests.post(f"{other}/embed", json={"texts": ["a", "b"]}, timeout=60)
    assert (cold.headers["X-Cache"], warm.headers["X-Cache"]) == (
        *("hits=0, misses=2", "hits=2, misses=0"),
    )
    assert cold.json()["embeddings"] == warm.json()["embeddings"]


@pytest.mark.fault("Redis")
def test_killing_redis_under_load_changes_no_status(
    config_of: Callable[..., Config], redis_server: Redis
) -> None:
    """Redis is killed under load -> no request's status changes."""
    with Redis() as server:
        app = create_app(config_of(cache="redis", redis_port=server.port), wait=True)
        codes: list[tuple[str, int]] = []
        stop = threading.Event()

        def work(turn: int) -> None:
            client = app.test_client()
            while not stop.is_set():
                body = {"texts": [f"t{(len(codes) + turn) % 9}", "same"]}
                reply = client.post("/embed", json=body)
                codes.append((reply.headers["X-Cache"], reply.status_code))
                stop.wait(0.01)

        threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: ("hits=2, misses=0", 200) in codes)
            server.kill()
            before = len(codes)
            until(lambda: ("hits=0, misses=2", 200) in codes[before:])
            until(lambda: len(codes) > before + 100)
            health = app.test_client().get("/health")
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        app.extensions[KEY].cache.close()
    assert {code for _, code in codes} == {200}
    assert health.status_code == 200
    assert health.json["status"] == "healthy"
    assert health.json["degraded"] == "redis failed (ConnectionError)"


def test_a_real_model_s_vectors_are_kept_to_the_bit(real_app: Flask) -> None:
    client = real_app.test_client()
    texts = ["The cache cannot be wrong.", "Der Cache irrt nie.", "word " * 600, ""]
    cold = client.post("/v1/embeddings", json={"input": texts, "model": "minilm"})
    warm = client.post("/v1/embeddings", json={"input": texts[::-1], "model": "minilm"})
    assert warm.headers["X-Cache"] == "hits=4, misses=0"
    assert cold.json["usage"] == warm.json["usage"]
    rows = [[row["embedding"] for row in reply.json["data"]] for reply in (cold, warm)]
    assert rows[0] == rows[1][::-1]


def test_a_real_model_s_partial_hits_agree_with_no_cache(real_app: Flask) -> None:
    """In another batch the same text differs in its last bits, and in no more."""
    engine = real_app.extensions[KEY].engine
    client = real_app.test_client()
    texts = [f"sentence number {i} about " + "things " * (i % 7) for i in range(12)]
    client.post("/embed", json={"texts": texts[::2]})
    got = client.post("/embed", json={"texts": texts})
    assert got.headers["X-Cache"] == "hits=6, misses=6"
    loaded = engine.registry.default.loaded
    items = loaded.embedder.prepare(texts, Prompt(), "right")
    plain = loaded.encoder.encode(items).vectors
    plain = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(got.json["embeddings"]), plain, atol=1e-5)
