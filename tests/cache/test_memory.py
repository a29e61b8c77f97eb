"""The memory cache: bounded in bytes, oldest use first, nothing after its time."""

import threading
import tracemalloc

import pytest

from cache.memory import OVERHEAD, MemoryCache


def key(i: int) -> bytes:
    return b"emb:v1:%040x" % i


def test_it_works() -> None:
    cache = MemoryCache(10_000, 60)
    cache.put({b"a": b"1", b"b": b"2"})
    assert cache.get([b"b", b"x", b"a"]) == [b"2", None, b"1"]
    cache.drop([b"a", b"x"])
    assert cache.get([b"a", b"b"]) == [None, b"2"]


def test_what_was_used_longest_ago_goes_first() -> None:
    room = 3 * (len(key(0)) + 100 + OVERHEAD)
    cache = MemoryCache(room, 60)
    for i in range(3):
        cache.put({key(i): bytes(100)})
    cache.get([key(0)])
    cache.put({key(3): bytes(100)})
    assert [value is not None for value in cache.get([key(i) for i in range(4)])] == [
        *(True, False, True, True)
    ]
    assert cache.status()["evicted"] == 1


def test_a_value_larger_than_the_cache_is_not_kept_and_costs_nobody_their_place() -> None:
    cache = MemoryCache(1024, 60)
    cache.put({b"small": b"1"})
    cache.put({b"large": bytes(1024)})
    assert cache.get([b"small", b"large"]) == [b"1", None]
    cache.put({b"small": bytes(1024)})  # nor does the older value stand for it
    assert cache.get([b"small"]) == [None]
    assert cache.status()["bytes"] == 0


def test_nothing_is_found_after_its_time() -> None:
    now = [0.0]
    cache = MemoryCache(10_000, 10, lambda: now[0])
    cache.put({b"a": b"1"})
    now[0] = 9.9
    assert cache.get([b"a"]) == [b"1"]
    now[0] = 10.0
    assert cache.get([b"a"]) == [None]
    assert cache.status()["bytes"] == 0


@pytest.mark.fault("Process and machine")
@pytest.mark.parametrize("size", [16 + 4 * 8, 16 + 4 * 384])
def test_it_takes_no_more_memory_than_it_may(size: int) -> None:
    """The memory cache fills up -> it takes no more than `CACHE_MAX_BYTES`."""
    limit = 4 << 20
    cache = MemoryCache(limit, 60)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(20_000):
        cache.put({key(i): bytes(size)})
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.4 * limit < taken <= limit  # it is bounded, and the room is used


def test_many_threads_leave_its_count_of_bytes_right() -> None:
    cache = MemoryCache(50_000, 60)
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        for i in range(500):
            cache.put({key((seed * 7 + i) % 90): bytes(i % 300)})
            cache.get([key(i % 90)])
            cache.drop([key((i * 3) % 90)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = cache.status()
    cache.drop([key(i) for i in range(90)])
    assert cache.status()["bytes"] == 0
    assert held["bytes"] <= 50_000
