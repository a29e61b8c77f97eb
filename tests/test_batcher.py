"""The batcher gives every thread its own rows, whatever the others do."""

import random
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from config.serving import Lane
from embedders.base import Encoded, Item
from embedders.fake import FakeEmbedder
from errors import DeadlineExceeded, Invalid, QueueFull, ServiceError, Unavailable
from serving.batcher import QUEUE_LEAST, QUEUE_S, UNMEASURED, Batcher
from serving.encoder import Limits
from serving.scheduler import PADDING_SLACK


class Recorder(FakeEmbedder):
    """Keeps the passes it ran; may be held shut; fails on poison."""

    def __init__(self) -> None:
        super().__init__(max_tokens=512)
        self.passes: list[list[Item]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        self.passes.append(list(items))
        self.entered.set()
        assert self.open.wait(60)
        if any("poison" in str(item.payload) for item in items):
            raise RuntimeError("poison")
        return super().encode(items, deadline)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def batcher(recorder: Recorder) -> Batcher:
    return Batcher(recorder, max_tokens=256, limits=Limits(32, 5000))


def items(*texts: str, lane: Lane = "interactive") -> list[Item]:
    return [Item(text, max(1, len(text.split())), lane=lane) for text in texts]


def in_threads(*works: Callable[[], object]) -> list[object]:
    """Run each in its own thread; return results or errors in order."""
    results: list[object] = [None] * len(works)

    def run(i: int) -> None:
        try:
            results[i] = works[i]()
        except BaseException as exc:
            results[i] = exc

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a request hangs"
    return results


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def held(batcher: Batcher, recorder: Recorder) -> threading.Thread:
    """Occupy the model with one pass until `recorder.open` is set."""
    recorder.open.clear()
    thread = threading.Thread(target=batcher.encode, args=(items("holder"),))
    thread.start()
    assert recorder.entered.wait(60)
    return thread


def test_it_works(batcher: Batcher, recorder: Recorder) -> None:
    encoded = batcher.encode(items("a", "b c", "a"))
    expected = [recorder.vector(text) for text in ("a", "b c", "a")]
    np.testing.assert_array_equal(encoded.vectors, expected)
    assert encoded.tokens == [1, 2, 1]


def test_no_items_are_no_rows(batcher: Batcher, recorder: Recorder) -> None:
    assert batcher.encode([]).vectors.shape == (0, 8)
    assert recorder.passes == []


def test_waiting_requests_share_a_pass(batcher: Batcher, recorder: Recorder) -> None:
    thread = held(batcher, recorder)
    works = [lambda i=i: batcher.encode(items(f"t{i}")) for i in range(8)]
    opener = threading.Thread(
        target=lambda: (until(lambda: batcher.queued()[0] == 8), recorder.open.set())
    )
    opener.start()
    results = in_threads(*works)
    thread.join()
    opener.join()
    assert [len(p) for p in recorder.passes] == [1, 8]
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result.vectors[0], recorder.vector(f"t{i}"))


def test_a_pass_keeps_its_token_budget_padding_included(
    batcher: Batcher, recorder: Recorder
) -> None:
    rng = random.Random(3)
    texts = [" ".join(["w"] * rng.randint(1, 120)) for _ in range(200)]
    batcher.encode(items(*texts))
    assert sum(map(len, recorder.passes)) == 200
    for batch in recorder.passes:
        longest = max(item.tokens for item in batch)
        assert len(batch) * longest <= 256 or len(batch) == 1
        assert min(item.tokens for item in batch) >= longest - PADDING_SLACK


def test_an_input_over_the_whole_budget_goes_alone(batcher: Batcher, recorder: Recorder) -> None:
    batcher.encode([Item("x " * 299 + "x", 300), *items("y")])
    assert [len(p) for p in recorder.passes] == [1, 1]


@pytest.mark.fault("Overload")
def test_small_requests_do_not_wait_for_a_large_one(batcher: Batcher, recorder: Recorder) -> None:
    """One request holds as many texts as it may -> it is sliced, and small ones run between the
    slices.
    """
    thread = held(batcher, recorder)
    texts = ["w " * 99 + "w"] * 40
    bulk = threading.Thread(target=batcher.encode, args=(items(*texts, lane="bulk"),))
    bulk.start()
    until(lambda: batcher.queued()[0] == 1)
    small = threading.Thread(target=batcher.encode, args=(items("small"),))
    small.start()
    until(lambda: batcher.queued()[0] == 2)
    recorder.open.set()
    for each in (small, bulk, thread):
        each.join()
    position = next(
        i for i, p in enumerate(recorder.passes) if any(item.payload == "small" for item in p)
    )
    assert position <= 2, "the small request waited for slices of the large one"


@pytest.mark.fault("Overload")
def test_a_large_request_is_not_starved_by_small_ones(recorder: Recorder) -> None:
    """One request holds as many texts as it may -> small ones do not starve it."""
    batcher = Batcher(recorder, max_tokens=4, limits=Limits(1))
    thread = held(batcher, recorder)
    done: list[str] = []

    def bulk() -> None:
        batcher.encode([Item(f"bulk{i}", 4, lane="bulk") for i in range(20)])
        done.append("bulk")

    def small(i: int) -> None:
        batcher.encode([Item(f"small{i}", 1)])

    threads = [threading.Thread(target=bulk)]
    threads += [threading.Thread(target=small, args=(i,)) for i in range(100)]
    for each in threads:
        each.start()
    until(lambda: batcher.queued()[0] == 101)
    recorder.open.set()
    for each in [*threads, thread]:
        each.join()
    kinds = [str(p[0].payload)[:4] for p in recorder.passes[1:]]
    assert kinds[:20].count("bulk") >= 9, "bulk slices do not get their turn"


def test_forty_eight_threads_with_poison_get_only_their_own_rows(recorder: Recorder) -> None:
    batcher = Batcher(recorder, max_tokens=64, limits=Limits(16))
    wrong: list[str] = []
    poisoned: list[int] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for n in range(40):
            texts = [
                f"{seed} {n} {i} " + "w " * rng.randint(0, 30) for i in range(rng.randint(1, 5))
            ]
            bad = rng.random() < 0.02
            if bad:
                texts[rng.randrange(len(texts))] += " poison"
            try:
                got = batcher.encode(items(*texts)).vectors
            except Invalid:
                poisoned.append(seed)
                if not bad:
                    wrong.append("an innocent request failed")
                continue
            if bad:
                wrong.append("poison passed")
            for row, text in zip(got, texts, strict=True):
                if not np.array_equal(row, recorder.vector(text)):
                    wrong.append(text)

    results = in_threads(*(lambda s=s: client(s) for s in range(48)))
    assert results == [None] * 48
    assert not wrong
    assert poisoned, "no poison was drawn: the test tests nothing"
    assert batcher.queued()[1] == 0


def test_poison_is_named_by_its_index(batcher: Batcher) -> None:
    with pytest.raises(Invalid, match="input 1: the model cannot encode"):
        batcher.encode(items("fine", "poison", "fine too"))


@pytest.mark.fault("Overload")
def test_a_request_leaves_the_queue_when_its_deadline_passes(
    batcher: Batcher, recorder: Recorder
) -> None:
    """The deadline passes while a request waits -> no pass is spent on it."""
    thread = held(batcher, recorder)
    with pytest.raises(DeadlineExceeded):
        batcher.encode(items("late"), deadline=time.monotonic() + 0.05)
    assert batcher.queued()[0] == 0
    recorder.open.set()
    thread.join()
    assert all(item.payload != "late" for p in recorder.passes for item in p)


def test_a_deadline_that_passes_during_the_pass_harms_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, left = threading.Event(), threading.Event()

    def remaining(deadline: float | None) -> float | None:
        """Whoever has a deadline waits until it is in a pass, and then no longer."""
        assert deadline is None or taken.wait(60)
        return None if deadline is None else 0.0

    monkeypatch.setattr("serving.batcher._remaining", remaining)

    class Slow(Recorder):
        def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
            if any(item.payload == "late" for item in items):
                taken.set()
                assert left.wait(60), "the late request did not leave"
            return super().encode(items, deadline)

    recorder = Slow()
    batcher = Batcher(recorder, max_tokens=256)
    thread = held(batcher, recorder)

    def fine() -> np.ndarray:
        return batcher.encode(items("fine")).vectors

    def late() -> None:
        until(lambda: batcher.queued()[0] == 1)
        with pytest.raises(DeadlineExceeded):
            batcher.encode(items("late"), deadline=time.monotonic() + 60)
        left.set()

    def opener() -> None:
        until(lambda: batcher.queued()[0] == 2)
        recorder.open.set()

    vectors, error, _ = in_threads(fine, late, opener)
    thread.join()
    assert error is None
    np.testing.assert_array_equal(vectors[0], recorder.vector("fine"))
    assert len(recorder.passes) == 2, "both were to be in one pass"


def test_a_leader_whose_own_deadline_passed_is_told_so(recorder: Recorder) -> None:
    batcher = Batcher(recorder, max_tokens=256)
    recorder.open.clear()
    deadline = time.monotonic() + 0.5

    def opener() -> None:
        until(lambda: time.monotonic() > deadline)
        recorder.open.set()

    error, _ = in_threads(lambda: batcher.encode(items("late"), deadline=deadline), opener)
    assert isinstance(error, DeadlineExceeded)


def test_a_caller_that_hung_up_costs_no_pass(batcher: Batcher, recorder: Recorder) -> None:
    thread = held(batcher, recorder)
    caller = threading.Thread(
        target=lambda: pytest.raises(
            ServiceError, batcher.encode, items("gone"), None, lambda: True
        )
    )
    caller.start()
    until(lambda: batcher.queued()[0] == 1)
    recorder.open.set()
    thread.join()
    caller.join()
    assert all(item.payload != "gone" for p in recorder.passes for item in p)


@pytest.mark.fault("Overload")
def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(
    batcher: Batcher, recorder: Recorder
) -> None:
    """More tokens wait than `MAX_QUEUE_TOKENS` -> 429 at once with `Retry-After`."""
    thread = held(batcher, recorder)
    waiting = threading.Thread(target=batcher.encode, args=([Item("w", 100)] * 49,))
    waiting.start()
    until(lambda: batcher.queued()[0] == 1)
    with pytest.raises(QueueFull) as refused:
        batcher.encode([Item("w", 200)])
    assert refused.value.retry_after_s is not None
    assert 1 <= refused.value.retry_after_s <= 30
    recorder.open.set()
    waiting.join()
    thread.join()
    assert batcher.queued()[1] == 0


def test_without_a_limit_a_minute_of_full_passes_may_wait(recorder: Recorder) -> None:
    class Slow(Recorder):
        def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
            time.sleep(0.1)
            return super().encode(items, deadline)

    slow, quick = Batcher(Slow(), max_tokens=256), Batcher(recorder, max_tokens=256)
    slow.encode([Item("w", 1)])
    assert slow.queue_limit == UNMEASURED, "a lone short text says nothing of the rate under load"
    for batcher in (slow, quick):
        batcher.encode([Item("w", 250)])
    assert QUEUE_LEAST <= slow.queue_limit <= 250 / 0.1 * QUEUE_S
    quick.limit(Limits(32, 1024))
    assert quick.queue_limit == 1024
    quick.limit(Limits(32))
    assert quick.queue_limit >= QUEUE_LEAST


def test_a_request_larger_than_the_queue_is_served_when_nothing_waits(batcher: Batcher) -> None:
    assert len(batcher.encode([Item("w", 200)] * 50).vectors) == 50


def test_nobody_hangs_when_the_leaders_thread_is_ended(recorder: Recorder) -> None:
    batcher = Batcher(recorder, max_tokens=64)
    thread = held(batcher, recorder)
    ended = threading.Event()

    class Ending(Recorder):
        def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
            if not ended.is_set():
                ended.set()
                raise SystemExit
            return super().encode(items, deadline)

    batcher._forward._embedder = Ending()
    works = [lambda i=i: batcher.encode(items(f"t{i}")) for i in range(6)]
    opener = threading.Thread(
        target=lambda: (until(lambda: batcher.queued()[0] == 6), recorder.open.set())
    )
    opener.start()
    results = in_threads(*works)
    thread.join()
    opener.join()
    kinds = [type(r) for r in results]
    assert kinds.count(SystemExit) == 1
    assert kinds.count(Unavailable) == 5
    assert len(batcher.encode(items("after")).vectors) == 1
