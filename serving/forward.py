"""Runs one batch through a model, and gives every input that can have a row its row.

Rows that are not finite are encoded once more, exactly. A failing batch is halved until the input
at fault is alone. A lost device, or one without room for a single token, fails all at once. Called
by the batcher, with as many batches at a time as the embedder takes.
"""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from embedders.base import (
    DeviceBroken,
    Embedder,
    Encoded,
    Item,
    OutOfMemory,
    Row,
    Sparse,
    Value,
)
from embedders.device import bare, meaning
from errors import Full, Invalid, NotFinite, ServiceError, Unavailable
from observability import metrics
from serving.encoder import BatchHealth

log = logging.getLogger("forward")

# So many passes after an out-of-memory error have half the budget.
EASED_PASSES = 100
NOT_FINITE = "the model's result for this input is not a number, in float32 too"
Outcome = Row | ServiceError


class Forward:
    """Encodes one batch after the other on `embedder`, and knows how that goes."""

    def __init__(
        self, embedder: Embedder, hung_after_s: float, numbers: metrics.ModelMetrics
    ) -> None:
        self._embedder = embedder
        self._hung_after_s = hung_after_s
        self._numbers = numbers
        self._began: list[float] = []  # when each pass under way began, the oldest first
        self._ended = 0.0  # when the last one ended
        self._failing = False  # whether the last pass gave no row
        self._eased = 0  # passes still to come at half the budget
        self.broken: str | None = None  # why no pass can succeed any more

    @property
    def budget(self) -> float:
        """The share of the token budget that a pass may take now."""
        return 0.5 if self._eased else 1.0

    def health(self) -> BatchHealth:
        """Return whether passes succeed, and how long the one under way has taken."""
        began = next(iter(self._began), None)
        busy_s = 0.0 if began is None else time.monotonic() - began
        return BatchHealth(self._failing, self.broken, busy_s, busy_s > self._hung_after_s)

    def rows(
        self, items: list[Item], on_launch: Callable[[], None] = lambda: None
    ) -> tuple[list[Outcome], float]:
        """Encode; return each item's row or error, and the seconds it took.

        `on_launch` is called when the device has the pass, if it takes another meanwhile. Two
        passes under way share the device, so the seconds begin when the pass before ended.
        """
        started = time.monotonic()
        self._began.append(started)
        try:
            rows = self._rows(items, on_launch)
        finally:
            self._began.remove(started)
        ended = time.monotonic()
        took = ended - max(started, self._ended)
        self._ended = ended
        self._eased = max(0, self._eased - 1)
        self._failing = all(isinstance(row, ServiceError) for row in rows)
        self._numbers.passed([item.tokens for item in items], took, padded=self._embedder.pads)
        return rows, took

    def _rows(
        self, items: Sequence[Item], on_launch: Callable[[], None] = lambda: None
    ) -> list[Outcome]:
        """Encode, halving on failure until the input at fault stands alone: others get rows."""
        if self.broken:
            return [Unavailable(self.broken) for _ in items]
        failure: Exception
        try:
            return self._finite(items, self._encoded(items, on_launch))
        except Exception as exc:
            failure = bare(meaning(exc))
        if isinstance(failure, OutOfMemory):
            self._eased = EASED_PASSES
            metrics.FAULTS.labels("out_of_memory").inc()
            if len(items) == 1 and not self._has_room_for_a_token():
                failure = DeviceBroken("no memory is left on it for even one token")
        if isinstance(failure, DeviceBroken):
            self.broken = f"the model's device is lost: {failure}"
            metrics.FAULTS.labels("device_broken").inc()
            return self._rows(items)
        if len(items) == 1:
            return [_blamed(failure, self._embedder.facts.device)]
        half = len(items) // 2
        return self._rows(items[:half], on_launch) + self._rows(items[half:], on_launch)

    def _encoded(self, items: Sequence[Item], on_launch: Callable[[], None]) -> Encoded:
        if self._embedder.in_flight == 1:
            return self._embedder.encode(items)
        wait = self._embedder.launch(items)
        on_launch()
        return wait()

    def _has_room_for_a_token(self) -> bool:
        """Whether the input is too large, and not the memory full."""
        try:
            self._embedder.encode(self._embedder.trial("a"))
        except Exception as exc:
            return not isinstance(meaning(exc), OutOfMemory | DeviceBroken)
        return True

    def _finite(self, items: Sequence[Item], encoded: Encoded) -> list[Outcome]:
        """Return the rows; those that are not finite are encoded again, exactly."""
        rows: list[Outcome] = [encoded.row(i) for i in range(len(items))]
        bad = _not_finite(encoded)
        if bad:
            metrics.FAULTS.labels("not_finite").inc(len(bad))
            again = self._embedder.encode_exactly([items[i] for i in bad])
            still = set(_not_finite(again))
            for place, i in enumerate(bad):
                rows[i] = NotFinite(NOT_FINITE) if place in still else again.row(place)
        return rows


def _not_finite(encoded: Encoded) -> list[int]:
    """Return which inputs have a number that is not finite."""
    bad: set[int] = set()
    for column in encoded.columns.values():
        if isinstance(column, np.ndarray):
            bad.update(np.flatnonzero(~np.isfinite(column).all(axis=1)).tolist())
        else:
            bad.update(i for i, value in enumerate(column) if not _is_finite(value))
    return sorted(bad)


def _is_finite(value: Value | None) -> bool:
    numbers = value.values if isinstance(value, Sparse) else value
    return numbers is None or bool(np.isfinite(numbers).all())


def _blamed(failure: Exception, device: str) -> ServiceError:
    """Return the error for an input that fails even alone. The log gets nothing of its text."""
    if isinstance(failure, ServiceError):
        return failure
    if isinstance(failure, OutOfMemory):
        return Full("this input alone needs more memory than the model's device has left")
    metrics.FAULTS.labels("encode_failed").inc()
    log.error("an input fails even alone on %s: %s", device, type(failure).__name__)
    if device != "cpu":  # perhaps a driver's or a library's fault, which no caller can mend
        return ServiceError(f"the pass failed on {device}; the log says how")
    return Invalid("the model cannot encode this input", param="input")
