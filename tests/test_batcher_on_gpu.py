"""The batcher on a GPU: two passes under way, and requests of both lanes in one."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from config.serving import Lane
from embedders.base import DeviceBroken, Encoded, Item, OutOfMemory
from embedders.fake import FakeEmbedder
from errors import DeadlineExceeded, Invalid, ServiceError, Unavailable
from serving.batcher import Batcher
from serving.encoder import Limits
from tests.test_batcher import Recorder, held, in_threads, items, until


class TwoInFlight(Recorder):
    """Launches at once, and computes when `open` is set; `gates` holds single passes by a text."""

    in_flight = 2

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, threading.Event] = {}
        self.under_way: list[int] = []  # passes under way at each launch
        self._now = 0
        self._counting = threading.Lock()

    def launch(self, items: Sequence[Item]) -> Callable[[], Encoded]:
        texts = [str(item.payload) for item in items]
        if "full" in texts and len(texts) > 1:
            raise OutOfMemory("the memory is full")
        with self._counting:
            self._now += 1
            self.under_way.append(self._now)
            self.passes.append(list(items))
        self.entered.set()

        def wait() -> Encoded:
            try:
                assert self.open.wait(60)
                for text in texts:
                    assert self.gates.get(text, self.open).wait(60)
                if "poison" in texts:
                    raise RuntimeError("poison")
                if "lost" in texts:
                    raise DeviceBroken("gone")
                return FakeEmbedder.encode(self, items)
            finally:
                with self._counting:
                    self._now -= 1

        return wait


def started(
    batcher: Batcher, *texts: str, lane: Lane = "interactive", **given: float
) -> tuple[threading.Thread, list]:
    """Send a request from a thread of its own; its vectors or its error come into the list."""
    found: list = []

    def run() -> None:
        try:
            found.append(batcher.encode(items(*texts, lane=lane), **given).vectors)
        except ServiceError as exc:
            found.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def two() -> TwoInFlight:
    return TwoInFlight()


def test_a_second_pass_is_launched_while_the_first_is_computed_and_no_third(
    two: TwoInFlight,
) -> None:
    batcher = Batcher(two, max_tokens=4)
    two.open.clear()
    requests = []
    for i in range(6):
        requests.append(started(batcher, f"a{i}"))
        until(lambda i=i: len(two.passes) == min(i + 1, 2))
    until(lambda: batcher.queued()[0] == 4)
    two.open.set()
    for i, (thread, found) in enumerate(requests):
        thread.join(60)
        np.testing.assert_array_equal(found[0][0], two.vector(f"a{i}"))
    assert max(two.under_way) == 2
    assert [len(p) for p in two.passes][:2] == [1, 1]


def test_the_second_pass_may_end_before_the_first(two: TwoInFlight) -> None:
    batcher = Batcher(two, max_tokens=4)
    two.gates["slow"] = threading.Event()
    slow = started(batcher, "slow")
    until(lambda: len(two.passes) == 1)
    for text in ("b", "c"):
        thread, found = started(batcher, text)
        thread.join(60)
        np.testing.assert_array_equal(found[0][0], two.vector(text))
    assert not slow[1]
    two.gates["slow"].set()
    slow[0].join(60)
    np.testing.assert_array_equal(slow[1][0][0], two.vector("slow"))


def test_of_two_passes_one_fails_and_the_other_does_not_know(two: TwoInFlight) -> None:
    batcher = Batcher(two, max_tokens=8)
    two.open.clear()
    bad = started(batcher, "poison")
    until(lambda: len(two.passes) == 1)
    good = started(batcher, "good")
    until(lambda: len(two.passes) == 2)
    two.open.set()
    for thread, _ in (bad, good):
        thread.join(60)
    assert isinstance(bad[1][0], Invalid)
    np.testing.assert_array_equal(good[1][0][0], two.vector("good"))
    assert batcher.queued() == (0, 0) and not batcher.health().fatal


def test_a_pass_that_is_too_large_is_halved_while_another_is_under_way(two: TwoInFlight) -> None:
    batcher = Batcher(two, max_tokens=64)
    two.gates["other"] = threading.Event()
    other = started(batcher, "other")
    until(lambda: len(two.passes) == 1)
    texts = ["full", "a", "b", "c"]
    got = batcher.encode(items(*texts)).vectors
    np.testing.assert_array_equal(got, [two.vector(text) for text in texts])
    two.gates["other"].set()
    other[0].join(60)
    np.testing.assert_array_equal(other[1][0][0], two.vector("other"))


def test_a_lost_device_fails_both_passes_and_all_that_come(two: TwoInFlight) -> None:
    batcher = Batcher(two, max_tokens=4)
    two.open.clear()
    requests = [started(batcher, "lost")]
    until(lambda: len(two.passes) == 1)
    requests.append(started(batcher, "lost"))
    until(lambda: len(two.passes) == 2)
    requests += [started(batcher, f"w{i}") for i in range(3)]
    until(lambda: batcher.queued()[0] == 3)
    two.open.set()
    for thread, found in requests:
        thread.join(60)
        assert isinstance(found[0], Unavailable)
    assert batcher.health().fatal and len(two.passes) == 2


def test_a_deadline_passes_while_two_passes_are_under_way(two: TwoInFlight) -> None:
    batcher = Batcher(two, max_tokens=4)
    two.open.clear()
    held_up = [started(batcher, "a")]
    until(lambda: len(two.passes) == 1)
    held_up.append(started(batcher, "b"))
    until(lambda: len(two.passes) == 2)
    thread, late = started(batcher, "late", deadline=time.monotonic() + 0.05)
    thread.join(60)
    assert isinstance(late[0], DeadlineExceeded)
    two.open.set()
    for thread, found in held_up:
        thread.join(60)
        assert isinstance(found[0], np.ndarray)
    assert len(batcher.encode(items("after")).vectors) == 1


def test_at_a_stop_both_passes_under_way_are_delivered(two: TwoInFlight) -> None:
    batcher = Batcher(two, max_tokens=4)
    two.open.clear()
    under_way = [started(batcher, "a")]
    until(lambda: len(two.passes) == 1)
    under_way.append(started(batcher, "b"))
    until(lambda: len(two.passes) == 2)
    thread, waiting = started(batcher, "c")
    until(lambda: batcher.queued()[0] == 1)
    batcher.stop()
    thread.join(60)
    assert isinstance(waiting[0], Unavailable)
    two.open.set()
    for thread, found in under_way:
        thread.join(60)
        assert isinstance(found[0], np.ndarray)


def test_thirty_two_threads_and_two_passes_mix_no_rows(two: TwoInFlight) -> None:
    """Some requests fail in another's pass just as they are chosen to lead one."""
    batcher = Batcher(two, max_tokens=64, limits=Limits(16))
    wrong: list[str] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for n in range(30):
            texts = [f"{seed} {n} {i}" + " w" * rng.randint(0, 9) for i in range(rng.randint(1, 6))]
            bad = rng.random() < 0.05
            if bad:
                texts.append(rng.choice(["poison", "full"]))
            try:
                got = batcher.encode(items(*texts)).vectors
            except Invalid:
                if "poison" not in texts:
                    wrong.append("an innocent request failed")
                continue
            wrong.extend(
                text for row, text in zip(got, texts, strict=True)
                if not np.array_equal(row, two.vector(text))
            )  # fmt: skip

    assert in_threads(*(lambda s=s: client(s) for s in range(32))) == [None] * 32
    assert not wrong
    assert max(two.under_way) == 2
    assert batcher.queued() == (0, 0) and batcher._under_way == 0


# -- passes on a GPU -------------------------------------------------------------------------------


def on(device: str, recorder: Recorder) -> Recorder:
    recorder.facts, recorder.pads = replace(recorder.facts, device=device), False
    return recorder


@pytest.mark.parametrize(("device", "together"), [("cuda:0", True), ("cpu", False)])
def test_both_lanes_share_a_pass_on_a_gpu_alone(
    recorder: Recorder, device: str, together: bool
) -> None:
    batcher = Batcher(on(device, recorder), max_tokens=256)
    thread = held(batcher, recorder)
    bulk = started(batcher, *["bulk"] * 40, lane="bulk")
    single = started(batcher, "single")
    until(lambda: batcher.queued()[0] == 2)
    recorder.open.set()
    for each in (thread, bulk[0], single[0]):
        each.join(60)
    assert ([len(p) for p in recorder.passes] == [1, 41]) is together


def test_a_pass_without_padding_keeps_its_budget_to_the_token(recorder: Recorder) -> None:
    """A recorded graph holds so many tokens and not one more."""
    batcher = Batcher(on("cuda:0", recorder), max_tokens=100)
    rng = random.Random(5)
    batcher.encode([Item("w", rng.randint(1, 60)) for _ in range(300)])
    sums = [sum(item.tokens for item in p) for p in recorder.passes]
    assert sum(map(len, recorder.passes)) == 300
    assert max(sums) <= 100
    assert sum(sums) / len(sums) > 70


def test_without_a_setting_a_pass_holds_as_many_inputs_as_suit_the_embedder(
    recorder: Recorder,
) -> None:
    recorder.pass_items = 3
    batcher = Batcher(recorder, max_tokens=256)
    batcher.encode(items(*"abcdef"))
    batcher.limit(Limits(6))
    batcher.encode(items(*"abcdef"))
    assert [len(p) for p in recorder.passes] == [3, 3, 6]
