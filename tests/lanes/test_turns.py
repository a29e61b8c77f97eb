"""Two lanes share a model by the time of its passes: with a clock that the tests move."""

import heapq
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.turns import FEW, KEPT, LATELY_S, LEAST, PassTimes, Turns

FULL = 1024
FIXED_S, EACH_S = 0.005, 83e-6  # of a pass and of a token: MiniLM in bfloat16 on two cores
SHORT, TEXT = 14, 60  # tokens of an interactive request, and of one of bulk's texts


@dataclass
class Load:
    """Clients of single texts, each of which asks again when it has its answer, and bulk."""

    clients: int
    bulk: bool = True
    promise_s: float | None = None
    fixed_s: float = FIXED_S
    each_s: float = EACH_S
    noise: float = 0.0  # passes take up to so many times more

    def run(self, seconds: float) -> "Load":
        """Let them go on for so long; find bulk's rate and what single texts waited."""
        turns, rng, now = Turns(promise_s=self.promise_s), random.Random(5), 0.0
        coming = [rng.random() / 100 for _ in range(self.clients)]
        waiting: list[float] = []
        self.waits: list[float] = []
        tokens = 0
        heapq.heapify(coming)
        while now < seconds:
            while coming and coming[0] <= now:
                waiting.append(heapq.heappop(coming))
                turns.came("interactive", waiting[-1])
            lanes = [
                lane for lane, there in (("interactive", waiting), ("bulk", self.bulk)) if there
            ]
            if not lanes:
                now = coming[0]
                continue
            lane = turns.next(lanes)  # type: ignore[arg-type]
            room = turns.room(lane, FULL, now)
            many = max(1, min(room // (TEXT if lane == "bulk" else SHORT), 10**9))
            some: list[float] = []
            if lane == "interactive":
                some, waiting = waiting[:many], waiting[many:]
            size = many * TEXT if lane == "bulk" else len(some) * SHORT
            took = (self.fixed_s + self.each_s * size) * (1 + self.noise * rng.random())
            now += took
            own = size if lane == "bulk" else 0
            tokens += own
            turns.passed(size, own, FULL, took, waits=self.bulk)
            for came in some:
                self.waits.append(now - came)
                heapq.heappush(coming, now + 0.002)
        self.rate = tokens / now
        return self

    @property
    def p99(self) -> float:
        """What 99 of 100 single texts waited at most."""
        return sorted(self.waits)[int(0.99 * len(self.waits))]


def learnt(*passes: tuple[int, float]) -> PassTimes:
    times = PassTimes()
    for tokens, took in passes:
        times.learn(tokens, took)
    return times


def test_the_time_of_a_pass_is_a_line_through_those_that_were_made() -> None:
    sizes = [16, 1024, 60, 512, 14, 700]
    times = learnt(*[(size, FIXED_S + EACH_S * size) for size in sizes])
    assert times.fixed == pytest.approx(FIXED_S) and times.each == pytest.approx(EACH_S)
    assert times.within(times.of(300), FULL) in (299, 300)
    assert times.within(FIXED_S / 2, FULL) == 0
    assert times.within(60, FULL) == FULL


def test_passes_of_one_size_share_their_time_out() -> None:
    times = learnt(*[(1000, 0.1)] * 20)
    assert (times.fixed, times.each) == (0, pytest.approx(1e-4))
    assert PassTimes().within(1, FULL) == FULL, "nothing is known before the first pass"


def test_a_machine_that_swings_gets_smaller_passes_and_one_stall_changes_little() -> None:
    rng = random.Random(1)
    sizes = [rng.randint(10, 1000) for _ in range(200)]
    still = learnt(*[(size, FIXED_S + EACH_S * size) for size in sizes])
    swings = learnt(*[(s, (FIXED_S + EACH_S * s) * rng.uniform(0.7, 1.3)) for s in sizes])
    assert swings.within(0.05, FULL) < 0.8 * still.within(0.05, FULL)
    before = still.of(FULL)
    still.learn(FULL, 100.0)
    assert before < still.of(FULL) < 1.5 * before


def test_later_passes_count_more() -> None:
    times = learnt(*[(size, EACH_S * size) for size in (100, 900) * 200])
    for size in (100, 900) * 100:
        times.learn(size, 2 * EACH_S * size)
    assert times.of(500) == pytest.approx(2 * EACH_S * 500, rel=0.05)


def test_bulk_alone_has_full_passes_and_smaller_ones_while_somebody_asks() -> None:
    turns = Turns()
    assert turns.room("bulk", FULL, 0.0) == FULL
    for size in (SHORT, FULL) * FEW:
        turns.passed(size, 0, FULL, FIXED_S + EACH_S * size, waits=False)
    turns.came("interactive", 10.0)
    assert 0 < turns.room("bulk", FULL, 10.1) < FULL / 2
    assert turns.room("interactive", FULL, 10.1) == FULL
    assert turns.room("bulk", FULL, 10.0 + LATELY_S) == FULL


def test_where_both_wait_they_take_turns() -> None:
    turns = Turns()
    both = ("bulk", "interactive")
    assert [turns.next(both) for _ in range(4)] == ["interactive", "bulk"] * 2
    assert [turns.next(("bulk",)) for _ in range(2)] == ["bulk", "bulk"]
    assert turns.next(both) == "interactive", "it does not wait for a second pass of bulk"


def test_on_a_gpu_passes_are_full_unless_a_time_was_promised() -> None:
    turns = Turns()
    for size in (SHORT, FULL) * FEW:
        turns.passed(size, 0, FULL, FIXED_S + EACH_S * size, waits=False)
    turns.came("interactive", 0.0)
    assert turns.room("interactive", FULL, 0.1, together=True) == FULL
    turns.promise_s = 0.06
    assert turns.room("interactive", FULL, 0.1, together=True) < FULL


@pytest.mark.parametrize("clients", [1, 4, 8])
def test_beside_single_texts_bulk_keeps_its_share_and_they_wait_less_than_for_a_full_pass(
    clients: int,
) -> None:
    alone = Load(0).run(20).rate
    beside = Load(clients).run(20)
    assert 0.95 * KEPT < beside.rate / alone < 1.1 * KEPT
    assert beside.p99 < 0.8 * (FIXED_S + EACH_S * FULL)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("clients", [1, 4, 8])
def test_a_promise_is_kept_while_single_texts_alone_would_keep_it(
    clients: int, noise: float
) -> None:
    load = Load(clients, promise_s=0.1, noise=noise).run(60)
    assert load.p99 <= 0.1
    assert load.rate > LEAST * Load(0, noise=noise).run(20).rate


@pytest.mark.fault("Overload")
@pytest.mark.parametrize("promise_s", [0.02, 0.1])
@pytest.mark.parametrize("clients", [8, 64, 400])
def test_under_a_flood_bulk_has_a_third_of_its_rate_whatever_was_promised(
    clients: int, promise_s: float
) -> None:
    """A flood of interactive requests, with a promise that cannot be kept -> bulk has a third of
    its rate.
    """
    flood = Load(clients, promise_s=promise_s).run(60)
    assert flood.rate >= 0.97 * LEAST * Load(0).run(20).rate


@settings(max_examples=40, deadline=None)
@given(
    clients=st.integers(0, 200),
    promise_s=st.one_of(st.none(), st.floats(0.001, 2)),
    fixed_s=st.floats(0, 0.05),
    each_s=st.floats(1e-6, 1e-3),
    noise=st.floats(0, 1),
)
def test_bulk_always_ends_and_nobody_starves(
    clients: int, promise_s: float | None, fixed_s: float, each_s: float, noise: float
) -> None:
    """However long passes take, bulk has at least a fourth of its rate alone, and everybody's
    single text is answered: it waits for a few passes at most, for everybody's before it.
    """
    how = {"fixed_s": fixed_s, "each_s": each_s, "noise": noise}
    whole = (fixed_s + each_s * FULL) * (1 + noise)
    alone = Load(0, **how).run(100 * whole).rate
    load = Load(clients, promise_s=promise_s, **how).run(400 * whole)
    assert load.rate >= 0.25 * alone
    if clients:
        ahead = 1 + clients * SHORT // (FULL - SHORT)
        assert max(load.waits) <= 2 * (ahead + 1) * whole
