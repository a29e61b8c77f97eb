"""Whose pass is next, and how large it may be, by the measured time of passes.

Called by the batcher with its lock held. It reads no clock: times are given to it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from config.serving import Lane

# How much of its rate alone bulk keeps beside interactive requests, and what it keeps whatever was
# promised: so it ends within three times its time alone. Beside 8 clients of single texts bulk kept
# 0.75, and their p99 was 3.6 times what it is alone; with the promise out of reach 0.41 and 2.0
# (`python -m bench.lanes`, 2 shared cores at a load of 15, bfloat16, 2026-11-30). With full passes
# by turns it kept 0.82, and their p99 was 4.3 times (2 cores of an AMD EPYC Zen 4, 2026-11-30).
KEPT, LEAST = 0.7, 1 / 3
# So long after an interactive request the next one is expected, in seconds.
LATELY_S = 1.0
# Weight of the newest pass in a moving mean, and of each pass's successor in the line below: 50
# passes are remembered, about two seconds of full ones on two cores.
NEWEST, FORGETS = 0.1, 0.98
# How many mean deviations above its mean time a pass is planned to take; 99 % take less, if they
# spread as an exponential does. At most so many times the mean: a machine that stalls now and then
# would leave bulk nothing.
DEVIATIONS, MOST_SLACK = 4.0, 3.0
# A pass that takes so many times what was expected counts as so much: it was the machine.
STALL = 4.0
FEW = 8  # passes, before which no deviation is known


class PassTimes:
    """The seconds of a pass by its tokens, padding included: a line through the passes so far."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)  # of 1, x, y, x * x and x * y: x are tokens, y seconds
        self._passes = 0
        self._deviation = 0.0  # mean, as a share of what was expected
        self.fixed = self.each = 0.0  # seconds of a pass, and of each of its tokens

    def learn(self, tokens: int, took_s: float) -> None:
        """Take the time of one more pass."""
        expected = self.of(tokens)
        if self._passes >= FEW:
            took_s = min(took_s, STALL * expected)
            self._deviation += (abs(took_s / expected - 1) - self._deviation) * NEWEST
        self._passes += 1
        x, y = float(max(tokens, 1)), took_s
        # By 1 / x, else the large passes alone would decide.
        self._sums = self._sums * FORGETS + np.array([1, x, y, x * x, x * y]) / x
        self._fit()

    def _fit(self) -> None:
        """Put the line through the weighted passes; neither part of it is negative."""
        count, x, y, xx, xy = map(float, self._sums)
        spread = count * xx - x * x
        if spread <= 1e-3 * count * xx:  # passes of one size: their time is shared out
            self.fixed, self.each = 0.0, y / x
            return
        self.each = (count * xy - x * y) / spread
        self.fixed = (y - self.each * x) / count
        if self.fixed < 0:
            self.fixed, self.each = 0.0, xy / xx
        elif self.each <= 0:
            self.fixed, self.each = y / count, 0.0

    def of(self, tokens: float) -> float:
        """Return the seconds that a pass of so many tokens takes; 0 before the first pass."""
        return self.fixed + self.each * tokens

    def within(self, seconds: float, most: int) -> int:
        """Return how many tokens are done within so long, nearly always: at most `most`."""
        slack = min(1 + DEVIATIONS * self._deviation, MOST_SLACK)
        left = seconds / slack - self.fixed
        if left >= self.each * most:
            return most
        return max(0, int(left / self.each)) if left > 0 else 0


@dataclass
class Turns:
    """Shares the time of one model between the two lanes.

    Where both wait they take turns. Bulk is owed its share of the passes' time, and its passes are
    as small as they can be for that; how much a pass does is counted as the time it would have
    taken in full ones, as small ones waste some. Where interactive requests were promised a time,
    bulk passes may be as large as leaves them that. `full` is the largest pass, in tokens.
    """

    promise_s: float | None = None
    _last: Lane = "bulk"
    _seen: float | None = None  # when the last interactive request came
    _owed_s: float = 0.0  # to bulk
    _own_s: float = 0.0  # mean time of an interactive pass

    def __post_init__(self) -> None:
        self.times = PassTimes()

    def came(self, lane: Lane, now: float) -> None:
        """Note that a request came."""
        if lane == "interactive":
            self._seen = now

    def next(self, waiting: Collection[Lane]) -> Lane:
        """Return whose pass is next, of those that wait."""
        both = len(set(waiting)) > 1
        other: Lane = "bulk" if self._last == "interactive" else "interactive"
        self._last = other if both else next(iter(waiting))
        return self._last

    def room(self, lane: Lane, full: int, now: float, *, together: bool = False) -> int:
        """Return how many tokens this lane's pass may have; its first input goes in any case.

        `together` is for a pass in which the other lane goes along.
        """
        if (lane == "interactive" and not together) or (together and self.promise_s is None):
            return full
        if self.promise_s is not None:
            # Whoever comes during an interactive pass waits for it, for this one, and for its own.
            left_s = self.promise_s - 2 * self._own_s
            return max(self._least(LEAST, full), self.times.within(left_s, full))
        lately = self._seen is not None and now - self._seen < LATELY_S
        return self._least(KEPT, full) if lately else full

    def _least(self, share: float, full: int) -> int:
        """Return the smallest pass by which bulk has its share of the time, itself included."""
        owed, fixed = self._owed_s, self.times.fixed
        gained = self.times.of(full) / full - share * self.times.each  # of each token
        return full if gained <= 0 else min(full, int((owed + share * fixed) / gained))

    def passed(self, tokens: int, bulk: int, full: int, took_s: float, *, waits: bool) -> None:
        """Count a pass of so many tokens, of which `bulk` are bulk's; `waits`: more of it does."""
        self.times.learn(tokens, took_s)
        if not bulk:
            self._own_s += (took_s - self._own_s) * (NEWEST if self._own_s else 1)
        whole = self.times.of(full)
        if bulk or waits:
            share = KEPT if self.promise_s is None else LEAST
            self._owed_s += share * took_s - bulk * whole / full
        self._owed_s = min(max(self._owed_s, 0.0), whole) if waits else 0.0
