"""A real Redis that is ill: never a wrong vector, never an error, at most one short pause."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from cache.redis import REFUSED_S, RedisCache, connect
from engine import EmbedRequest
from tests.cache.conftest import TEXTS, ask, engine_of, until
from tests.servers.redis import Redis


@pytest.fixture
def own(redis_server: Redis) -> Iterator[Redis]:
    """A Redis that this test may ruin."""
    with Redis() as server:
        yield server


@pytest.fixture
def cache(own: Redis) -> Iterator[RedisCache]:
    cache = RedisCache(own.url(), 60)
    cache._breaker.pauses = (0.05,)  # between trials; the rest is as in service
    yield cache
    cache.close()


def count_failures(cache: RedisCache) -> list[str]:
    """Note each attempt that failed, by thread: each costs its thread at most TIMEOUT_S."""
    failures: list[str] = []
    for owner, name in ((cache._breaker, "failed"), (cache._breaker, "_probe")):
        true = getattr(owner, name)

        def noted(*args: object, true: Callable[..., object] = true) -> object:
            failures.append(threading.current_thread().name)
            return true(*args)

        setattr(owner, name, noted)
    return failures


@pytest.mark.fault("Redis")
def test_a_killed_server_costs_three_tries_and_is_used_again_when_it_is_back(
    own: Redis, cache: RedisCache
) -> None:
    """Redis refuses connections -> three tries, then none until it is back."""
    engine = engine_of(cache)
    ask(engine, hits=0)
    failures = count_failures(cache)
    own.kill()
    for _ in range(10):
        ask(engine, hits=0)
    assert failures.count(threading.current_thread().name) == 3
    assert cache.problem == "redis failed (ConnectionError)"
    own.start()
    until(lambda: cache.problem is None)
    ask(engine, hits=0)
    ask(engine, hits=3)


@pytest.mark.fault("Redis")
def test_a_frozen_server_costs_one_short_pause(own: Redis, cache: RedisCache) -> None:
    """Redis hangs -> one short pause.

    And none of the requests waits for the probes, which go on all the time.
    """
    engine = engine_of(cache)
    ask(engine, hits=0)
    failures = count_failures(cache)
    own.pause()
    until(lambda: ask(engine, hits=0) and failures.count("redis-probe") >= 3)
    assert set(failures) == {threading.current_thread().name, "redis-probe"}
    assert failures.count(threading.current_thread().name) == 1
    own.resume()


@pytest.mark.fault("Redis")
def test_a_frozen_server_is_used_again_when_it_goes_on(own: Redis, cache: RedisCache) -> None:
    """Redis hangs -> a background thread tries it until it answers."""
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
        thread.join(60)
        assert not thread.is_alive()
    own.resume()


@pytest.mark.fault("Redis")
def test_a_full_server_is_read_but_not_written(own: Redis, cache: RedisCache) -> None:
    """Redis is full -> it is read and not written."""
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


@pytest.mark.fault("Redis")
def test_a_replica_is_read_but_not_written(own: Redis, cache: RedisCache) -> None:
    """Redis is a read-only replica -> it is read and not written."""
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
        until(
            lambda: reader.embed(EmbedRequest(TEXTS)).hits == 2
        )  # it cannot be thrown away there either
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
    thread.join(60)


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
            stop.wait(0.01)  # or they take the CPU from the server that starts

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
