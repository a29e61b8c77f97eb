"""A real Redis: what is kept, how it is asked for, and that no value is believed unproved."""

import time
from pathlib import Path

import pytest
import trustme

from cache.redis import TIMEOUT_S, RedisCache, connect
from tests.cache.conftest import ask, engine_of, fake_of
from tests.conftest import free_port
from tests.servers.redis import Redis


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


def test_a_write_of_many_megabytes_is_sent_in_parts(redis_cache: RedisCache) -> None:
    sizes: list[int] = []
    whole = redis_cache._set
    redis_cache._set = lambda part: sizes.append(len(part)) or whole(part)  # type: ignore
    values = {b"emb:%d" % i: b"x" * 300_000 for i in range(30)}
    redis_cache.put(values)
    assert sum(sizes) == 30 and max(sizes) == 13
    assert redis_cache.get(list(values)) == list(values.values())
    redis_cache.put({})
    redis_cache.put({b"emb:large": b"x" * 5_000_000})
    assert sizes[-1] == 1


def test_tls_is_spoken_and_a_server_that_cannot_prove_itself_is_not_believed(
    tmp_path: Path,
) -> None:
    authority, port = trustme.CA(), free_port()
    served = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    served.private_key_pem.write_to_path(tmp_path / "key.pem")
    served.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    with Redis(
        *("--tls-port", str(port), "--tls-auth-clients", "no", "--requirepass", "secret"),
        *(
            "--tls-cert-file",
            str(tmp_path / "cert.pem"),
            "--tls-key-file",
            str(tmp_path / "key.pem"),
        ),
        password="secret",
    ):
        address = f"rediss://:secret@127.0.0.1:{port}/0"
        stranger = RedisCache(address, 60)  # knows nothing of this authority
        ask(engine_of(stranger), hits=0)
        ask(engine_of(stranger), hits=0)
        stranger.close()
        known = RedisCache(f"{address}?ssl_ca_certs={tmp_path / 'ca.pem'}", 60)
        ask(engine_of(known), hits=0)
        ask(engine_of(known), hits=3)
        known.close()


def test_values_end_with_their_time(redis_server: Redis) -> None:
    redis_server.flush()
    cache = RedisCache(redis_server.url(), 7)
    cache.put({b"a": b"1"})
    assert 0 < cache._client.pttl("a") <= 7000
    cache.close()


def test_the_client_tries_once_and_is_not_introduced(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py's defaults retry ten times; the control shows what that would cost."""
    monkeypatch.undo()  # as in service
    client = connect(redis_server.url())
    kwargs = client.connection_pool.connection_kwargs
    assert kwargs["retry"]._retries == 0
    assert (kwargs["socket_timeout"], kwargs["socket_connect_timeout"]) == (TIMEOUT_S, TIMEOUT_S)
    client.close()


@pytest.mark.fault("Redis")
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
    """A value in Redis is cut, of another model or hostile -> a miss, and the value is dropped."""
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
