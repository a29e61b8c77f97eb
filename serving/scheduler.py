"""Chooses which of the waiting inputs go into the next pass through the model.

Called by the batcher with its lock held. Changes only `order`, the part of a job not yet taken.
"""

import bisect
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from config.serving import Lane
from embedders.base import Gone, Item, Output, Row

# A pass has a fixed cost worth about this many tokens: an input shorter than the batch's longest
# by more than it is cheaper in a pass of its own than padded.
PADDING_SLACK = 32


@dataclass(eq=False)
class Job:
    """One request's inputs on their way through the model."""

    items: Sequence[Item]
    deadline: float | None
    gone: Gone | None
    order: list[int]  # indices not yet taken, shortest first: the longest is popped
    missing: int  # rows still to come
    tokens: int
    entered: float = 0.0  # in time.monotonic()
    columns: dict[Output, Any] = field(default_factory=dict)  # as in `Encoded`
    error: Exception | None = None
    leads: bool = False
    taken: float = 0.0  # when its first input went into a pass, in time.monotonic()
    left: bool = False  # whether the caller was gone at the last look
    look_at: float = 0.0  # when to look again, in time.monotonic()
    awake: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        """Whether its caller can be answered."""
        return self.error is not None or self.missing == 0

    @property
    def lane(self) -> Lane:
        """The lane of its request."""
        return self.items[0].lane

    def put(self, index: int, row: Row) -> None:
        """Take the row of one input."""
        for output, value in row.items():
            column = self.columns.get(output)
            if column is None:
                count = len(self.items)
                column = [None] * count
                if output in ("dense", "score") and isinstance(value, np.ndarray):
                    column = np.empty((count, len(value)), np.float32)
                self.columns[output] = column
            column[index] = value
        self.missing -= 1

    def pick(self, width: int) -> int | None:
        """Take the longest input for a pass `width` tokens wide; None if all are too unlike."""
        end = bisect.bisect_right(self.order, width, key=lambda i: self.items[i].tokens)
        if end == 0 or self.items[self.order[end - 1]].tokens < width - PADDING_SLACK:
            return None
        return self.order.pop(end - 1)


def take_similar_lengths(givers: Sequence[Job], room: int, most: int) -> list[tuple[Job, int]]:
    """Take inputs of similar length, for an embedder that pads them to the longest.

    `room` is in tokens, padding included; `most` in inputs. The first input is the longest of the
    first request; then every request gives its longest inputs that are not much shorter, one at a
    time, so that no request crowds out another.
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


def take_mixed_lengths(givers: Sequence[Job], room: int, most: int) -> list[tuple[Job, int]]:
    """Take inputs of any length in turn, for an embedder that does not pad.

    Nothing is taken that exceeds `room`, in tokens, but for the first input.
    """
    batch: list[tuple[Job, int]] = []
    while givers and len(batch) < most:
        still: list[Job] = []
        for job in givers[: most - len(batch)]:
            tokens = job.items[job.order[-1]].tokens
            if tokens > room and batch:
                continue  # it gives no shorter one instead, or its longest would wait for ever
            batch.append((job, job.order.pop()))
            room -= tokens
            if job.order:
                still.append(job)
        givers = still
    return batch
