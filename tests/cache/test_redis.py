"""A real Redis, well and ill: never a wrong vector, never an error, at most one short pause."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from cache.redis import REFUSED_S, TIMEOUT_S, RedisCache, connect
from engine import EmbedRequest, Engine
from tests.cache.conftest import engine_of, fake_of
from tests.servers.redis import Redis

TEXTS = ["one", "two", "three"]
# One pause is TIMEOUT_S; a second one, or redis-py's own retries, would be over this.
ONE_PAUSE_S = 2 * TIMEOUT_S - 0.02


@pytest.fixture
def own(redis_server: Redis) -> Iterator[Redis]:
    """A Redis that this test may ruin."""
    with Redis() as server:
        yield server


@pytest.fixture
def cache(own: Redis) -> Iterator[RedisCache]:
    cache = RedisCache(own.url(), 60)
    cache._guard._pause_s = 0.05  # how soon it is tried again; the rest is as in service
    yield cache
    cache.close()


def ask(engine: Engine, hits: int | None = None) -> float:
    """Embed, check the vectors against an uncached engine, return the seconds it took."""
    started = time.monotonic()
    got = engine.embed(EmbedRequest(TEXTS))
    took = time.monotonic() - started
    np.testing.assert_array_equal(got.vectors, engine_of(None).embed(EmbedRequest(TEXTS)).vectors)
    assert hits is None or got.hits == hits
    return took


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_works(redis_cache: RedisCache) -> None:
    engine = engine_of(redis_cache)
    ask(engine, hits=0)
    ask(engine, hits=3)
    assert len(fake_of(engine).encoded) == 3


def test_another_worker_finds_what_this_one_kept(redis_cache: RedisCache) -> None:
    ask(engine_of(redis_cache), hits=0)
    ask(engine_of(redis_cache), hits=3)


def test_a_request_costs_one_mget_and_writes_in_one_go(redis_cache: RedisCache) -> None:
    engine, client = engine_of(redis_cache), redis_cache._client
    ask(engine, hits=0)
    client.config_resetstat()
    ask(engine, hits=3)
    calls = {name: row["calls"] for name, row in client.info("commandstats").items()}
    assert calls.pop("cmdstat_mget") == 1
    assert "cmdstat_set" not in calls and "cmdstat_get" not in calls


def test_values_end_with_their_time(redis_server: Redis) -> None:
    redis_server.flush()
    cache = RedisCache(redis_server.url(), 7)
    cache.put({b"a": b"1"})
    assert 0 < cache._client.pttl("a") <= 7000
    cache.close()


def test_the_client_tries_once_and_is_not_introduced(redis_server: Redis) -> None:
    """redis-py's defaults retry ten times; the control shows what that would cost."""
    client = connect(redis_server.url())
    kwargs = client.connection_pool.connection_kwargs
    assert kwargs["retry"]._retries == 0
    assert (kwargs["socket_timeout"], kwargs["socket_connect_timeout"]) == (TIMEOUT_S, TIMEOUT_S)
    client.close()


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"\x00", b"not a vector", b"\x80\x04\x95cposix\nsystem\n(S'true'\ntR."),
        *(bytes(48), b"\xff" * 48, b"\x01" * 48, b"x" * 100_000),
    ],
    ids=lambda value: f"{len(value)}",
)
def test_hostile_values_are_misses_and_are_thrown_away(
    redis_cache: RedisCache, value: bytes
) -> None:
    engine, client = engine_of(redis_cache), redis_cache._client
    ask(engine)
    victim = sorted(client.keys())[0]
    client.set(victim, value)
    redis_cache._write_after = time.monotonic() + 60
    ask(engine, hits=2)
    assert client.get(victim) is None
    redis_cache._write_after = 0
    ask(engine, hits=2)
    ask(engine, hits=3)
    assert redis_cache.problem is None


def test_values_of_another_kind_are_misses(redis_cache: RedisCache) -> None:
    engine, client = engine_of(redis_cache), redis_cache._client
    ask(engine)
    for victim, make in zip(sorted(client.keys()), (client.rpush, client.sadd), strict=False):
        client.delete(victim)
        make(victim, "a")
    ask(engine, hits=1)
    ask(engine, hits=3)


def test_values_that_changed_places_are_misses(redis_cache: RedisCache) -> None:
    engine, client = engine_of(redis_cache), redis_cache._client
    ask(engine)
    keys = sorted(client.keys())
    values = client.mget(keys)
    client.mset(dict(zip(keys, values[1:] + values[:1], strict=True)))
    ask(engine, hits=0)
    ask(engine, hits=3)


def test_a_killed_server_costs_nothing_and_is_used_again_when_it_is_back(
    own: Redis, cache: RedisCache
) -> None:
    engine = engine_of(cache)
    ask(engine, hits=0)
    own.kill()
    for _ in range(10):
        assert ask(engine, hits=0) < TIMEOUT_S
    assert cache.problem == "redis failed (ConnectionError)"
    own.start()
    until(lambda: cache.problem is None)
    ask(engine, hits=0)
    ask(engine, hits=3)


def test_a_frozen_server_costs_one_short_pause(own: Redis, cache: RedisCache) -> None:
    cache._guard._pause_s = 60  # nothing but requests may touch it here
    engine = engine_of(cache)
    ask(engine, hits=0)
    own.pause()
    took = [ask(engine, hits=0) for _ in range(10)]
    assert took[0] < ONE_PAUSE_S
    assert max(took[1:]) < TIMEOUT_S / 2  # no second pause: a request is a millisecond
    own.resume()


def test_a_frozen_server_is_used_again_when_it_goes_on(own: Redis, cache: RedisCache) -> None:
    engine = engine_of(cache)
    ask(engine, hits=0)
    own.pause()
    ask(engine, hits=0)
    assert cache.problem == "redis failed (TimeoutError)"
    own.resume()
    until(lambda: cache.problem is None)
    ask(engine)
    ask(engine, hits=3)


def test_nobody_tries_a_server_on_behalf_of_a_closed_cache(own: Redis, cache: RedisCache) -> None:
    own.pause()
    ask(engine_of(cache))
    probes = [thread for thread in threading.enumerate() if thread.name == "redis-probe"]
    assert probes
    cache.close()
    for thread in probes:
        thread.join(20)
        assert not thread.is_alive()
    own.resume()


def test_no_request_probes_a_frozen_server(own: Redis, cache: RedisCache) -> None:
    """While a thread of its own tries it again and again, requests go on as without a cache."""
    engine = engine_of(cache)
    ask(engine)
    own.pause()
    ask(engine)
    end = time.monotonic() + 1.0  # several probes, each of which hangs for TIMEOUT_S
    while time.monotonic() < end:
        assert ask(engine, hits=0) < TIMEOUT_S
    own.resume()


def test_a_full_server_is_read_but_not_written(own: Redis, cache: RedisCache) -> None:
    engine = engine_of(cache)
    ask(engine, hits=0)
    client = cache._client
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "100kb")
    assert engine.embed(EmbedRequest(["new"])).hits == 0
    assert engine.embed(EmbedRequest(["new"])).hits == 0
    ask(engine, hits=3)
    assert cache.problem is None and cache.status()["refused_writes"] == 1  # not asked each time
    client.config_set("maxmemory", "0")
    cache._write_after -= REFUSED_S
    engine.embed(EmbedRequest(["new"]))
    assert engine.embed(EmbedRequest(["new"])).hits == 1


def test_a_replica_is_read_but_not_written(own: Redis, cache: RedisCache) -> None:
    engine = engine_of(cache)
    ask(engine, hits=0)
    port = own.port
    with Redis("--replicaof", "127.0.0.1", str(port)) as replica:
        client = connect(replica.url())
        until(lambda: client.dbsize() == 3)
        client.close()
        copy = RedisCache(replica.url(), 60)
        reader = engine_of(copy)
        ask(reader, hits=3)
        assert reader.embed(EmbedRequest(["new"])).hits == 0
        assert copy.problem is None and copy.status()["refused_writes"] == 1
        key = cache._client.keys()[0]
        cache._client.set(key, b"nonsense")
        until(lambda: reader.embed(EmbedRequest(TEXTS)).hits == 2)  # it has come there too
        ask(reader, hits=2)  # and cannot be thrown away there either
        assert copy.problem is None
        copy.close()


def test_a_password_that_is_missing_or_wrong_is_a_miss_and_never_logged(
    own: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    admin = connect(own.url())
    admin.config_set("requirepass", "s3cret-password")
    admin.close()
    with caplog.at_level(logging.DEBUG):
        for login in ("", ":wr0ng-password@"):
            cache = RedisCache(own.url().replace("redis://", f"redis://{login}"), 60)
            for _ in range(5):
                ask(engine_of(cache), hits=0)
            assert cache.problem is not None
            cache.close()
    assert "failed (Authentication" in caplog.text
    assert "wr0ng" not in caplog.text
    cache = RedisCache(own.url().replace("redis://", "redis://:s3cret-password@"), 60)
    ask(engine_of(cache), hits=0)
    ask(engine_of(cache), hits=3)
    cache.close()


@contextlib.contextmanager
def speaking(answer: bytes) -> Iterator[str]:
    """A server that answers every command with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(link: socket.socket) -> None:
            with link, contextlib.suppress(OSError):
                while link.recv(65536):
                    link.sendall(answer)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    threading.Thread(target=serve, args=(link,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(20)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x01\x02\xff\r\n", b"+OK\r\n", b":3\r\n"),
        *(b"*1\r\n$1\r\na\r\n", b"*3\r\n$1\r\na\r\n:1\r\n+x\r\n", b"$-1\r\n", b"*-1\r\n"),
        *(b"-LOADING dataset\r\n", b"*99999999999\r\n", b"$99\r\nshort\r\n", b"-\xff\r\n"),
        b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n*3\r\n$1\r\na\r\n",
    ],
)
def test_a_server_that_is_no_redis_is_a_miss(answer: bytes) -> None:
    with speaking(answer) as address:
        cache = RedisCache(address, 60)
        engine = engine_of(cache)
        for _ in range(4):
            ask(engine, hits=0)
        cache.close()


def test_many_threads_lose_nothing_while_the_server_dies_and_comes_back(
    own: Redis, cache: RedisCache
) -> None:
    engine, plain = engine_of(cache), engine_of(None)
    stop = threading.Event()
    wrong: list[object] = []
    done = [0] * 6

    def work(turn: int) -> None:
        while not stop.is_set():
            texts = [f"t{(done[turn] * 5 + turn + i) % 40}" for i in range(5)]
            try:
                got = engine.embed(EmbedRequest(texts)).vectors
                if not np.array_equal(got, plain.embed(EmbedRequest(texts)).vectors):
                    wrong.append(texts)
            except Exception as exc:
                wrong.append(exc)
            done[turn] += 1

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    try:
        for harm, mend in ((own.kill, own.start), (own.pause, own.resume)):
            before = list(done)
            until(lambda b=before: all(d > n + 20 for d, n in zip(done, b, strict=True)))
            harm()
            before = list(done)
            until(lambda b=before: all(d > n + 20 for d, n in zip(done, b, strict=True)))
            mend()
            until(lambda: cache.problem is None)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not wrong
