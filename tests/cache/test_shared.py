"""The memory cache that workers share: what crosses, and what it is while its process is away."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import SharedCache
from cache.shared import operations
from config import Config
from errors import Unavailable
from tests.faults.conftest import until


class ModelProcess:
    """Answers as the model process does, unless it is away."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.operations = operations(Config(cache_max_bytes=max_bytes))
        self.away, self.calls = False, 0

    def call(self, name: str, head: dict[str, Any], *parts: bytes) -> tuple[dict, list[memoryview]]:
        self.calls += 1
        if self.away:
            raise Unavailable("the model process is away")
        answer, blocks = self.operations[name](head, [memoryview(part) for part in parts])
        return answer, [memoryview(block) for block in blocks]


@given(st.dictionaries(st.binary(min_size=1), st.binary()), st.lists(st.binary(min_size=1)))
def test_each_worker_finds_what_another_kept_and_nothing_else(kept, others) -> None:
    process = ModelProcess()
    one, other = SharedCache(process.call), SharedCache(process.call)
    one.put(kept)
    keys = [*kept, *others]
    assert other.get(keys) == [kept.get(key) for key in keys]
    other.drop(list(kept))
    assert one.get(keys) == [None] * len(keys)


def test_it_is_bounded_as_the_memory_of_one_process() -> None:
    process = ModelProcess(max_bytes=10_000)
    cache = SharedCache(process.call)
    for i in range(100):
        cache.put({b"%d" % i: bytes(1000)})
    assert cache.status()["evicted"] == 93 and cache.status()["bytes"] <= 10_000


def test_a_model_process_that_is_away_is_a_miss_and_is_not_asked_again_by_a_request() -> None:
    process = ModelProcess()
    cache = SharedCache(process.call)
    cache.put({b"a": b"1"})
    process.away = True
    assert cache.get([b"a", b"b"]) == [None, None] and cache.problem
    calls = process.calls
    cache.put({b"b": b"2"})
    cache.drop([b"a"])
    assert cache.get([b"a"]) == [None] and cache.status()["problem"] and process.calls == calls
    process.away = False
    until(lambda: cache.problem is None)
    assert cache.get([b"a", b"b"]) == [b"1", None]
    cache.close()


@pytest.mark.parametrize("parts", [(b"\x05\0\0\0", b"abc"), (b"\x01\0\0\0", b"abc"), (b"\x01",)])
def test_a_block_that_is_not_as_long_as_it_says_is_refused(parts) -> None:
    with pytest.raises((ValueError, TypeError)):
        operations(Config())["cache.get"]({}, [memoryview(part) for part in parts])
