"""Which lane a request is in: a person waits for an interactive one, a program for a bulk one.

The lane decides whose turn it is at the model (`turns.py`). Above a limit of tokens a request is
bulk whatever it asked for: it would take the time of many others.
"""

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

    def choice(self, asked: Lane | None, inputs: int) -> "Choice":
        """Return the choice of a lane for a request of so many inputs that asks for this one."""
        return Choice(self, asked, inputs)


@dataclass
class Choice:
    """The lane of one request, as far as its tokens are known."""

    rules: Lanes
    asked: Lane | None
    inputs: int
    lane: Lane | None = field(default=None, init=False)  # None: its tokens are not known yet
    _tokens: int = field(default=0, init=False)

    @property
    def is_bulk(self) -> bool:
        """Whether it is bulk however few its tokens are."""
        return self.asked == "bulk" or (self.asked is None and self.inputs > INTERACTIVE_INPUTS)

    def weigh(self, tokens: int) -> Lane:
        """Return the lane of so many tokens, and tell the caller: see `routes/middleware.py`.

        A request that is encoded in parts stays in the lane of the largest.
        """
        self._tokens = max(tokens, self._tokens)
        bulk = self.is_bulk or self._tokens > self.rules.most_tokens
        self.lane = "bulk" if bulk else "interactive"
        tracing.describe(lane=self.lane)
        return self.lane

    def is_late(self, took_s: float) -> bool:
        """Whether a request that took so long broke the promise."""
        promise = self.rules.promise_s
        return self.lane == "interactive" and promise is not None and took_s > promise
