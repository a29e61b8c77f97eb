"""Chooses which of the waiting inputs go into the next pass through the model.

Called by the batcher with its lock held; keeps nothing itself. A job's `order` is what is still to
be taken of it, and is the one thing changed here.
"""

import bisect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from embedders.base import Item, Vectors

# A pass has a fixed cost worth about this many tokens: an input shorter than the batch's longest
# by more than it is cheaper in a pass of its own than padded.
PADDING_SLACK = 32
# A request of at most this many inputs is interactive: it goes before slices of larger ones.
INTERACTIVE_ITEMS = 16


@dataclass(eq=False)
class Job:
    """One request's inputs on their way through the model."""

    items: Sequence[Item]
    deadline: float | None
    gone: Callable[[], bool] | None
    order: list[int]  # indices still to be taken, shortest first: the longest is popped
    missing: int  # rows not yet there
    tokens: int
    vectors: Vectors | None = None
    error: Exception | None = None
    leads: bool = False
    taken: float = 0.0  # when its first input went into a pass, in time.monotonic()
    awake: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        """Whether its caller can be answered."""
        return self.error is not None or self.missing == 0

    @property
    def small(self) -> bool:
        """Whether it is interactive."""
        return len(self.items) <= INTERACTIVE_ITEMS

    def pick(self, width: int) -> int | None:
        """Take the longest input that suits a pass `width` tokens wide, if there is one."""
        end = bisect.bisect_right(self.order, width, key=lambda i: self.items[i].tokens)
        if end == 0 or self.items[self.order[end - 1]].tokens < width - PADDING_SLACK:
            return None
        return self.order.pop(end - 1)


def take_alike(givers: Sequence[Job], room: int, most: int) -> list[tuple[Job, int]]:
    """Take inputs of like length, for an embedder that pads them to the longest.

    The first input is the longest one of the request whose turn it is; then every request gives its
    longest inputs that are not much shorter, oldest request first, one at a time so that no request
    crowds out another.
    """
    first = givers[0]
    width = first.items[first.order[-1]].tokens
    most = min(most, max(1, room // max(width, 1)))
    batch: list[tuple[Job, int]] = [(first, first.order.pop())]
    while givers and len(batch) < most:
        picks = [(job, job.pick(width)) for job in givers[: most - len(batch)]]
        batch += [(job, i) for job, i in picks if i is not None]
        givers = [job for job, i in picks if i is not None]
    return batch


def take_any(givers: Sequence[Job], room: int, most: int) -> list[tuple[Job, int]]:
    """Take inputs of any length in turn, for an embedder that does not pad.

    Only of requests of the first one's kind: small ones would wait for a large one's inputs, and a
    large one would have less of its turn for small ones that have theirs next.
    """
    givers = [job for job in givers if job.small == givers[0].small]
    batch: list[tuple[Job, int]] = []
    while givers and room > 0 and len(batch) < most:
        for job in givers[: most - len(batch)]:
            if room > 0:
                batch.append((job, job.order.pop()))
                room -= job.items[batch[-1][1]].tokens
        givers = [job for job in givers if job.order]
    return batch
