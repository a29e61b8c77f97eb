"""An interactive request waits for no vectors of a bulk one, however that came to be bulk."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from cache import MemoryCache
from embedders.base import Input, Item, Prompt, Truncate
from engine import EmbedRequest, Engine
from errors import DeadlineExceeded
from observability import metrics
from serving.lanes import Lanes
from tests.cache.conftest import engine_of, fake_of, until
from tests.cache.test_once import Gate, waiting

LONG = "five tokens are too many"  # for an interactive request, with `engine`


@pytest.fixture
def engine() -> Engine:
    """Its model `remote` encodes each request by itself, in the request's own thread."""
    made = engine_of(MemoryCache(1 << 20, 60))
    made.lanes = Lanes(most_tokens=4)
    return made


def asked(*texts: str, **how: object) -> EmbedRequest:
    return EmbedRequest(texts, model="remote", **how)  # type: ignore[arg-type]


@contextmanager
def shut(engine: Engine) -> Iterator[Gate]:
    """Hold the first pass that begins inside, until the end of the block or `opened`."""
    gate = Gate(fake_of(engine, "remote"))
    try:
        yield gate
    finally:
        gate.opened.set()


@pytest.mark.parametrize("bulk", [[f"t{n}" for n in range(60)], ["t7", LONG]])
def test_a_lone_text_does_not_wait_for_a_request_that_is_bulk_by_its_size(
    engine: Engine, bulk: list[str]
) -> None:
    with ThreadPoolExecutor(1) as pool, shut(engine) as gate:
        slow = pool.submit(engine.embed, asked(*bulk))
        assert gate.entered.wait(60)
        deadline = time.monotonic() + 20
        got = engine.embed(asked("t7", lane="interactive", deadline=deadline))  # the gate is shut
        gate.opened.set()
        vectors = slow.result(60).vectors
    np.testing.assert_array_equal(vectors[bulk.index("t7")], got.vectors[0])
    assert not engine._in_flight


def test_who_waits_already_goes_on_once_the_other_proves_bulk_by_its_tokens(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_of(engine, "remote")
    prepare, entered, weighed = fake.prepare, threading.Event(), threading.Event()

    def held(inputs: list[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        if LONG in inputs:
            entered.set()
            assert weighed.wait(60)
        return prepare(inputs, prompt, truncate)

    monkeypatch.setattr(fake, "prepare", held)
    bulk_is_in = threading.Event()

    def before(items: list[Item]) -> None:
        if len(items) > 1:
            bulk_is_in.set()
            assert opened.wait(60)

    opened, fake.before = threading.Event(), before  # type: ignore[assignment]
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        stack.callback(opened.set)
        stack.callback(weighed.set)
        slow = pool.submit(engine.embed, asked("a", LONG))
        assert entered.wait(60)
        lone = pool.submit(engine.embed, asked("a", deadline=time.monotonic() + 20))
        until(lambda: waiting(engine) == 1)
        weighed.set()
        got = lone.result(60)  # while bulk's pass is held
        assert bulk_is_in.wait(60)
        opened.set()
        np.testing.assert_array_equal(slow.result(60).vectors[0], got.vectors[0])
    assert not engine._in_flight


def test_requests_that_are_bulk_by_their_tokens_encode_the_same_texts_once(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool, shut(engine) as gate:
        first = pool.submit(engine.embed, asked("a", LONG))
        assert gate.entered.wait(60)
        others = [pool.submit(engine.embed, asked("a", LONG, lane=lane))
                  for lane in (None, "interactive", "bulk")]  # fmt: skip
        until(lambda: waiting(engine) == 3)
        gate.opened.set()
        results = [future.result(60) for future in (first, *others)]
    assert sorted(fake_of(engine, "remote").encoded) == sorted(["a", LONG])
    assert [got.hits for got in results] == [0, 2, 2, 2]


def test_who_is_refused_while_it_waits_for_anothers_vectors_missed_its_promise(
    engine: Engine,
) -> None:
    engine.lanes = Lanes(promise_s=1e-6)
    missed = metrics.PROMISE_MISSED.labels("remote")._value
    with ThreadPoolExecutor(1) as pool, shut(engine) as gate:
        first = pool.submit(engine.embed, asked("a"))
        assert gate.entered.wait(60)
        before = missed.get()
        for lane in ("interactive", None):
            with pytest.raises(DeadlineExceeded, match="while it waited"):
                engine.embed(asked("a", lane=lane, deadline=time.monotonic()))
        assert missed.get() == before + 2
        with pytest.raises(DeadlineExceeded):  # nobody waits for it
            engine.embed(asked("a", deadline=time.monotonic(), gone=lambda: True))
        assert missed.get() == before + 2
        gate.opened.set()
        first.result(60)
