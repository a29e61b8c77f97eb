"""The batcher keeps the two lanes apart: their passes, their room, their numbers."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from config.serving import Lane
from embedders.base import Encoded, Item
from errors import QueueFull, ServiceError
from observability import metrics
from serving.batcher import Batcher, Waiting
from serving.encoder import Limits
from tests.test_batcher import Recorder, held, in_threads, items, until

OTHER: dict[Lane, Lane] = {"interactive": "bulk", "bulk": "interactive"}


def number(metric: object, model: str, lane: Lane) -> float:
    return metric.labels(model, lane)._value.get()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def asking(batcher: Batcher, *texts: str, lane: Lane) -> threading.Thread:
    """Send a request from a thread of its own, and return once it waits."""
    before = batcher.queued()[0]
    thread = threading.Thread(target=lambda: batcher.encode(items(*texts, lane=lane)))
    thread.start()
    until(lambda: batcher.queued()[0] == before + 1)
    return thread


@pytest.mark.fault("Overload")
@pytest.mark.parametrize("lane", ["interactive", "bulk"])
def test_a_full_lane_refuses_its_own_requests_and_not_the_others(
    recorder: Recorder, lane: Lane
) -> None:
    """So many bulk requests wait that no more may -> an interactive one is served, and the other
    way round.
    """
    batcher = Batcher(recorder, max_tokens=256, limits=Limits(32, 1024))
    threads = [held(batcher, recorder), asking(batcher, *["w"] * 1024, lane=lane)]
    with pytest.raises(QueueFull, match=f"1024 tokens of {lane} requests") as refused:
        batcher.encode(items("late", lane=lane))
    assert refused.value.retry_after_s is not None
    threads.append(asking(batcher, "served", lane=OTHER[lane]))
    recorder.open.set()
    for thread in threads:
        thread.join(60)
    assert any(item.payload == "served" for one in recorder.passes for item in one)
    assert batcher.queued() == (0, 0)


def test_a_lane_that_is_served_less_asks_to_come_back_later() -> None:
    """Of each second interactive passes have 0.2 and bulk 0.8, of as many tokens."""
    quick, slow = Waiting(tokens=1000), Waiting(tokens=1000)
    for _ in range(100):
        quick.passed(1000, 0.2, tells=True)
        slow.passed(0, 0.2, tells=False)
        quick.passed(0, 0.8, tells=False)
        slow.passed(1000, 0.8, tells=True)
    assert [quick.left_s, slow.left_s] == pytest.approx([1.0, 1.0], rel=0.01)
    for _ in range(100):
        slow.passed(100, 1.0, tells=True)
    assert slow.left_s == pytest.approx(10.0, rel=0.01)
    slow.tokens = 0
    slow.passed(0, 1000.0, tells=False)  # nothing waited: that says nothing of its rate
    assert slow.tokens_per_s == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("lane", ["interactive", "bulk"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_lone_short_texts_say_nothing_of_the_rate_of_a_lane_under_load(
    recorder: Recorder, lane: Lane, device: str
) -> None:
    recorder.facts = replace(recorder.facts, device=device)
    batcher = Batcher(recorder, max_tokens=256)
    waiting = batcher._waiting[lane]
    batcher.encode(items("a lone text", lane=lane))
    assert waiting.tokens_per_s == 0
    batcher.encode(items(*["w"] * 256, lane=lane))
    measured = waiting.tokens_per_s
    assert measured > 0
    for n in range(20):
        batcher.encode(items(f"lone {n}", lane=lane))
    assert waiting.tokens_per_s == measured
    # Beside full passes of the other lane too, which on a GPU are the same ones.
    threads = [held(batcher, recorder), asking(batcher, *["w"] * 512, lane=OTHER[lane])]
    threads.append(asking(batcher, "lone", lane=lane))
    recorder.open.set()
    for thread in threads:
        thread.join(60)
    assert waiting.tokens_per_s == measured
    assert batcher._waiting[OTHER[lane]].tokens_per_s > 0


@pytest.mark.parametrize("pads", [True, False])
def test_a_pass_on_a_cpu_is_of_one_lane(recorder: Recorder, pads: bool) -> None:
    recorder.pads = pads
    batcher = Batcher(recorder, max_tokens=16)
    threads = [held(batcher, recorder)]
    threads.append(asking(batcher, *["bulk"] * 50, lane="bulk"))
    threads += [asking(batcher, "single", lane="interactive") for _ in range(20)]
    recorder.open.set()
    for thread in threads:
        thread.join(60)
    lanes = [{item.lane for item in one} for one in recorder.passes[1:]]
    assert all(len(each) == 1 for each in lanes)
    assert lanes[:4] == [{"bulk"}, {"interactive"}] * 2  # the pass before was interactive


def test_bulk_passes_are_smaller_once_somebody_asks_and_a_promise_bounds_them() -> None:
    class Timed(Recorder):
        """Takes 2 ms a pass and 50 us a token."""

        def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
            time.sleep(0.002 + 5e-5 * sum(item.tokens for item in items))
            return super().encode(items, deadline)

    recorder = Timed()
    recorder.pads = False
    batcher = Batcher(recorder, max_tokens=1000)
    for size in (1, 1000) * 5:
        batcher.encode([Item("w", 10, lane="bulk")] * max(1, size // 10))

    def largest() -> int:
        """The tokens of the largest pass of bulk now."""
        recorder.passes.clear()
        batcher.encode([Item("w", 10, lane="bulk")] * 200)
        return sum(item.tokens for item in recorder.passes[0])

    assert largest() == 1000
    batcher.encode(items("single"))
    assert largest() < 700
    batcher.limit(Limits(promise_ms=30_000.0))
    assert largest() == 1000
    batcher.limit(Limits(promise_ms=1.0))
    assert largest() < 500


def test_whatever_becomes_of_requests_no_number_is_left(recorder: Recorder) -> None:
    """Requests of both lanes are served, fail, are late or are left by their callers."""
    batcher = Batcher(
        recorder, max_tokens=64, limits=Limits(16, 1024), numbers=metrics.ModelMetrics("leftover")
    )
    refused: list[str] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for n in range(40):
            lane: Lane = rng.choice(("interactive", "bulk"))
            texts = [f"{n} {i} w w" for i in range(rng.randint(1, 40))]
            if rng.random() < 0.05:
                texts[0] += " poison"
            late = time.monotonic() + rng.choice((0.0, 0.001, 60.0))
            gone: Callable[[], bool] | None = (lambda: True) if rng.random() < 0.1 else None
            try:
                batcher.encode(items(*texts, lane=lane), late, gone)
            except ServiceError as exc:
                refused.append(exc.code)

    assert in_threads(*(lambda s=s: client(s) for s in range(16))) == [None] * 16
    assert {"deadline_exceeded", "client_closed_request"} <= set(refused)
    assert batcher.queued() == (0, 0)
    for lane in OTHER:
        for metric in (metrics.QUEUED, metrics.QUEUED_TEXTS, metrics.QUEUED_TOKENS):
            assert number(metric, "leftover", lane) == 0
        assert metrics.QUEUE_SECONDS.labels("leftover", lane)._sum.get() > 0
