"""Which lane a request is in: a person waits for an interactive one, a program for a bulk one.

The lane decides whose turn it is at the model (`turns.py`). Above a limit of tokens a request is
bulk whatever it asked for: it would take the time of many others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from config.serving import Lane
from observability import tracing

# A request that asks for no lane is interactive up to so many inputs: a reranker's usual list.
INTERACTIVE_INPUTS = 16


@dataclass(frozen=True)
class Lanes:
    """The rules of this service: the most tokens of an interactive request, and what it may take.

    `promise_s` is None where nothing was promised.
    """

    most_tokens: int = 2048
    promise_s: float | None = None

    def choice(
        self, asked: Lane | None, inputs: int, admit_bulk: Callable[[], None] | None = None
    ) -> "Choice":
        """Return the choice of a lane for a request of so many inputs that asks for this one."""
        return Choice(self, asked, inputs, admit_bulk)


class TurnedBulk(Exception):
    """A request proved bulk by its tokens, after it claimed keys as an interactive one."""


@dataclass
class Choice:
    """The lane of one request, as far as its tokens are known."""

    rules: Lanes
    asked: Lane | None
    inputs: int
    admit_bulk: Callable[[], None] | None = None  # raises QueueFull where bulk may run no more
    claims: bool = field(default=False, init=False)  # whether it holds what its lane may wait for
    _tokens: int = field(default=0, init=False)

    @property
    def lane(self) -> Lane:
        """Its lane by what was asked for, by its inputs, and by the tokens that are known."""
        bulk = self.asked == "bulk" or (self.asked is None and self.inputs > INTERACTIVE_INPUTS)
        return "bulk" if bulk or self._tokens > self.rules.most_tokens else "interactive"

    def weigh(self, tokens: int) -> Lane:
        """Return the lane of so many tokens, and tell the caller: see `routes/middleware.py`.

        A request that is encoded in parts stays in the lane of the largest.
        """
        self._tokens = max(tokens, self._tokens)
        tracing.describe(lane=self.lane)
        return self.lane

    def enter(self, tokens: int) -> Lane:
        """Return the lane of so many tokens that are encoded next.

        Raises QueueFull where bulk may run no more, TurnedBulk if it claimed as interactive.
        """
        before, lane = self.lane, self.weigh(tokens)
        if lane == "bulk" and self.admit_bulk is not None:
            self.admit_bulk()
        if self.claims and lane != before:
            raise TurnedBulk
        return lane

    def is_late(self, took_s: float) -> bool:
        """Whether a request that took so long broke the promise."""
        promise = self.rules.promise_s
        return self.lane == "interactive" and promise is not None and took_s > promise
