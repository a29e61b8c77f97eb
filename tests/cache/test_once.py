"""What is asked once is encoded once: on hits, in one request, and at the same moment."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from cache import MemoryCache
from engine import EmbedRequest, Engine
from errors import DeadlineExceeded, InputTooLong, Invalid, ProviderError
from tests.cache.conftest import Counting, engine_of, fake_of, until

LONG = "word " * 20


class Gate:
    """Holds the first pass of a fake until it is opened."""

    def __init__(self, fake: Counting) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        fake.before = lambda items: self._pass()

    def _pass(self) -> None:
        first = not self.entered.is_set()
        self.entered.set()
        if first:
            assert self.opened.wait(60)


def waiting(engine: Engine) -> int:
    """Count the threads that wait for another request's vectors."""
    flights = set(engine._in_flight.values())
    events = [event for f in flights for event in (f.looked, f.ended)]
    return sum(len(event._cond._waiters) for event in events)


def test_it_works(engine: Engine) -> None:
    cold, warm = (engine.embed(EmbedRequest(["one", "two"])) for _ in range(2))
    np.testing.assert_array_equal(warm.vectors, cold.vectors)
    assert (cold.hits, warm.hits) == (0, 2)


def test_a_full_hit_tokenizes_and_encodes_nothing(engine: Engine) -> None:
    request = EmbedRequest(["one", LONG, [5, 6]])
    cold = engine.embed(request)
    fake = fake_of(engine)
    fake.prepared.clear(), fake.encoded.clear()
    warm = engine.embed(request)
    assert (fake.prepared, fake.encoded) == ([], [])
    assert (warm.tokens, warm.truncated) == (cold.tokens, cold.truncated) == (1 + 16 + 2, 1)


def test_only_what_is_missing_is_encoded_and_the_order_is_kept(engine: Engine) -> None:
    engine.embed(EmbedRequest(["b", "d"]))
    fake_of(engine).encoded.clear()
    got = engine.embed(EmbedRequest(["a", "b", "c", "d"]))
    assert sorted(fake_of(engine).encoded) == ["a", "c"]
    assert got.hits == 2
    for row, text in zip(got.vectors, "abcd", strict=True):
        np.testing.assert_array_equal(row, alone(text))


def alone(text: str) -> np.ndarray:
    return engine_of(None).embed(EmbedRequest([text])).vectors[0]


def test_duplicates_in_a_request_are_encoded_once(engine: Engine) -> None:
    got = engine.embed(EmbedRequest(["a", "b", "a", "a"]))
    assert sorted(fake_of(engine).encoded) == ["a", "b"]
    assert (got.hits, got.tokens) == (0, 4)
    for row, text in zip(got.vectors, "abaa", strict=True):
        np.testing.assert_array_equal(row, alone(text))


def test_dimensions_and_length_are_not_part_of_what_is_kept(engine: Engine) -> None:
    plain = engine_of(None)
    for dimensions in (None, 3, 8):
        for normalize in (True, False):
            asked = EmbedRequest(["a"], dimensions=dimensions, normalize=normalize)
            got = engine.embed(asked)
            np.testing.assert_array_equal(got.vectors, plain.embed(asked).vectors)
    assert fake_of(engine).encoded == ["a"]


def test_what_is_refused_is_refused_though_it_is_kept_for_others(engine: Engine) -> None:
    engine.embed(EmbedRequest(["fine", LONG], truncate="right"))
    engine.embed(EmbedRequest(["fine"], truncate="error"))
    with pytest.raises(InputTooLong) as refused:
        engine.embed(EmbedRequest(["fine", LONG], truncate="error"))
    assert refused.value.index == 1  # not 0: its place in the request


def test_an_error_of_a_pass_names_the_place_in_the_request(engine: Engine) -> None:
    fake = fake_of(engine)

    def poison(items: object) -> None:
        if "bad" in fake.encoded[-len(items) :]:  # type: ignore[arg-type]
            raise ValueError

    fake.before = poison
    engine.embed(EmbedRequest(["a", "b"]))
    for texts in (["a", "b", "bad"], ["a", "c", "bad"]):
        with pytest.raises(Invalid, match="^input 2: the model cannot encode") as refused:
            engine.embed(EmbedRequest(texts))
        assert refused.value.index == 2


class Refusal(InputTooLong):
    """An error with a constructor and facts of its own, as some have."""

    def __init__(self, status: int, index: int | None) -> None:
        super().__init__("too long", param="input", index=index)
        self.refused_with = status


@pytest.mark.parametrize(("index", "told"), [(0, "input 2: too long"), (None, "too long")])
def test_an_error_stays_what_it_is_but_for_its_place(
    engine: Engine, index: int | None, told: str
) -> None:
    fake = fake_of(engine, "remote")
    engine.embed(EmbedRequest(["a", "b"], model="remote"))
    refusal = Refusal(404, index)

    def refuse(items: object) -> None:
        raise refusal

    fake.before = refuse
    with pytest.raises(Refusal) as caught:
        engine.embed(EmbedRequest(["a", "b", "bad"], model="remote"))
    error = caught.value
    assert error is refusal and str(error) == told
    assert (error.message, error.refused_with, error.param) == ("too long", 404, "input")


@pytest.mark.fault("Providers")
def test_what_was_answered_wrongly_is_not_kept(engine: Engine) -> None:
    """A provider replies wrongly -> nothing is cached."""
    fake = fake_of(engine, "remote")

    def fail(items: object) -> None:
        raise ProviderError("it answered nonsense")

    fake.before = fail
    with pytest.raises(ProviderError):
        engine.embed(EmbedRequest(["a"], model="remote"))
    fake.before = lambda items: None
    assert engine.embed(EmbedRequest(["a"], model="remote")).hits == 0
    assert engine.embed(EmbedRequest(["a"], model="remote")).hits == 1


def test_a_provider_s_own_count_of_tokens_is_kept(engine: Engine) -> None:
    request = EmbedRequest(["a b", "c"], model="remote")
    assert [engine.embed(request).tokens for _ in range(2)] == [203, 203]


def test_numbers_that_are_not_finite_are_not_kept(engine: Engine, memory: MemoryCache) -> None:
    fake = fake_of(engine, "remote")
    honest = fake.vector
    fake.vector = lambda text: np.full(12, np.nan, np.float32)  # type: ignore[method-assign]
    engine.embed(EmbedRequest(["a"], model="remote", normalize=False))
    assert memory.status()["entries"] == 0
    fake.vector = honest  # type: ignore[method-assign]
    got = engine.embed(EmbedRequest(["a"], model="remote", normalize=False))
    assert got.hits == 0
    np.testing.assert_array_equal(got.vectors[0], honest("a"))


def test_a_model_whose_dimension_is_not_known_yet_is_asked_first(memory: MemoryCache) -> None:
    engine_of(memory).embed(EmbedRequest(["a"], model="remote"))
    later = engine_of(memory)
    fake = fake_of(later, "remote")
    known, fake.facts = fake.facts, replace(fake.facts, dimension=0)

    def learn(items: object) -> None:  # the first reply tells
        assert memory.status()["entries"] == 1  # what is there was not taken for damaged
        fake.facts = known

    fake.before = learn
    assert [later.embed(EmbedRequest(["a"], model="remote")).hits for _ in range(2)] == [0, 1]


# -- at the same moment ----------------------------------------------------------------------------


def test_concurrent_requests_for_one_text_encode_it_once(engine: Engine) -> None:
    gate, count = Gate(fake_of(engine)), 8
    with ThreadPoolExecutor(count) as pool:
        first = pool.submit(engine.embed, EmbedRequest(["a"]))
        assert gate.entered.wait(60)
        others = [pool.submit(engine.embed, EmbedRequest(["a", "a"])) for _ in range(count - 1)]
        until(lambda: waiting(engine) == count - 1)
        gate.opened.set()
        results = [f.result(60) for f in (first, *others)]
    assert fake_of(engine).encoded == ["a"]
    for got in results:
        np.testing.assert_array_equal(got.vectors[0], alone("a"))
    assert [got.hits for got in results] == [0] + [2] * (count - 1)


@pytest.mark.parametrize("rounds", [20])
def test_nobody_falls_between_the_look_and_the_landing(rounds: int) -> None:
    """However threads fall: each text is encoded once, since a key is held until it is kept."""
    for _ in range(rounds):
        engine = engine_of(MemoryCache(1 << 20, 60))
        start = threading.Barrier(6)

        def work(turn: int, engine: Engine = engine, start: threading.Barrier = start) -> None:
            start.wait()
            for i in range(8):
                engine.embed(EmbedRequest([f"t{i}", f"t{(i + turn) % 8}"]))

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(work, turn) for turn in range(6)]:
                done.result(60)
        assert sorted(fake_of(engine).encoded) == [f"t{i}" for i in range(8)]
        assert not engine._in_flight


def test_requests_that_each_hold_what_the_other_wants_do_not_hang(engine: Engine) -> None:
    gate = Gate(fake_of(engine))
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(engine.embed, EmbedRequest(["a"]))
        assert gate.entered.wait(60)
        two = pool.submit(engine.embed, EmbedRequest(["b", "a"]))
        until(lambda: len(engine._in_flight) == 2)
        gate.opened.set()
        for future, texts in ((one, "a"), (two, "ba")):
            for row, text in zip(future.result(60).vectors, texts, strict=True):
                np.testing.assert_array_equal(row, alone(text))
    assert sorted(fake_of(engine).encoded) == ["a", "b"]


@pytest.mark.parametrize("failure", [DeadlineExceeded("late"), ProviderError("down"), SystemExit()])
def test_who_waits_does_not_fail_because_the_other_one_did(
    engine: Engine, failure: BaseException
) -> None:
    fake = fake_of(engine, "remote")
    entered, opened = threading.Event(), threading.Event()

    def once(items: object) -> None:
        if not entered.is_set():
            entered.set()
            assert opened.wait(60)
            raise failure

    fake.before = once
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(engine.embed, EmbedRequest(["a"], model="remote"))
        assert entered.wait(60)
        waiter = pool.submit(engine.embed, EmbedRequest(["b", "a"], model="remote"))
        until(lambda: waiting(engine) == 1)
        opened.set()
        assert isinstance(leader.exception(60), type(failure))
        vectors = waiter.result(60).vectors
    np.testing.assert_array_equal(
        vectors, engine_of(None).embed(EmbedRequest(["b", "a"], model="remote")).vectors
    )
    assert engine.embed(EmbedRequest(["a"], model="remote")).hits == 1


def test_who_waits_gives_up_at_its_own_deadline_and_disturbs_nobody(engine: Engine) -> None:
    gate = Gate(fake_of(engine))
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(engine.embed, EmbedRequest(["a"]))
        assert gate.entered.wait(60)
        hurried = EmbedRequest(["a"], deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded):
            engine.embed(hurried)
        gate.opened.set()
        assert leader.result(60).hits == 0
    assert fake_of(engine).encoded == ["a"]


def test_a_lone_text_does_not_wait_for_a_bulk_load(engine: Engine) -> None:
    fake = fake_of(engine, "remote")
    gate = Gate(fake)
    bulk = [f"t{i}" for i in range(100)]
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(engine.embed, EmbedRequest(bulk, model="remote"))
        assert gate.entered.wait(60)
        got = engine.embed(EmbedRequest(["t7"], model="remote"))  # while the gate is shut
        gate.opened.set()
        np.testing.assert_array_equal(slow.result(60).vectors[7], got.vectors[0])


def test_an_interactive_text_does_not_wait_for_the_same_text_as_bulk(engine: Engine) -> None:
    gate = Gate(fake_of(engine, "remote"))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(engine.embed, EmbedRequest(["a"], model="remote", lane="bulk"))
        assert gate.entered.wait(60)
        got = engine.embed(EmbedRequest(["a"], model="remote"))  # while the gate is shut
        gate.opened.set()
        np.testing.assert_array_equal(slow.result(60).vectors, got.vectors)


def test_models_do_not_wait_for_each_other(engine: Engine) -> None:
    gate = Gate(fake_of(engine))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(engine.embed, EmbedRequest(["a"], model="a"))
        assert gate.entered.wait(60)
        engine.embed(EmbedRequest(["a"], model="b"))
        gate.opened.set()
        slow.result(60)


def test_without_a_cache_everything_is_encoded_every_time() -> None:
    """The control of the counts above."""
    engine = engine_of(None)
    for _ in range(2):
        assert engine.embed(EmbedRequest(["a", "a"])).hits == 0
    assert fake_of(engine).encoded == ["a"] * 4
