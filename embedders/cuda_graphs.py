"""Replays passes as CUDA graphs: one call for all the kernels of a pass.

A pass of a small model has over a hundred kernels, each launched from Python, and another busy
thread makes that several times as slow. A graph is recorded for a few sizes; a pass takes the
smallest that holds it, and what is left over holds tokens of no text.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from embedders.base import DeviceBroken, OutOfMemory
from embedders.device import bare, described, meaning
from embedders.layers import Slot

log = logging.getLogger("embedders")


class Size(NamedTuple):
    """The most tokens and texts of a pass."""

    tokens: int
    texts: int


SIZES = tuple(Size(tokens, max(64, tokens // 8)) for tokens in (256, 1024, 4096, 16_384, 32_768))
# A graph's attention has a block of threads for each 128 tokens of the longest text that it may
# hold, times texts and heads: with 4,096 texts of 8,192 tokens and 12 heads those are 3 million,
# nearly all of them empty. The kernels of longer texts should take long enough to hide their
# launches. (Computed, not measured.)
LONGEST = 512
# Computes the pass that lies in a table on the device; `slots` are for a CPU alone.
Compute = Callable[[Any, Size, Sequence[Slot]], Any]
Work = Callable[[], Any]


class Recorder(Protocol):
    """Records what `work` does, and returns what does it again and returns the same tensor."""

    def __call__(self, work: Work) -> Work:
        """Record `work`."""


class CudaRecorder:
    """Records CUDA graphs, which share one pool of memory. Use it in the device's thread."""

    def __init__(self) -> None:
        import torch

        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """Record `work`, which neither waits for the device nor depends on its numbers."""
        import torch

        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries allocate and choose kernels at first
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # By default memory that any other thread allocates breaks the capture, as a model that
        # loads meanwhile does.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            found = work()

        def replay() -> Any:
            graph.replay()
            return found

        return replay


@dataclass(eq=False)
class _Recorded:
    """A recorded pass: the table that it reads, and what computes it again."""

    table: Any  # (rows, tokens) on the device
    slots: Sequence[Slot] = ()
    replay: Work | None = None


class Graphs:
    """The recorded passes of a model. Used by one thread at a time."""

    def __init__(self, compute: Compute, rows: int, device: Any, record: Recorder) -> None:
        """Take what computes a table of so many rows on the device."""
        self._compute, self._rows, self._device = compute, rows, device
        self._record = record
        self._recorded: dict[Size, _Recorded] = {}

    def add(self, sizes: Sequence[Size]) -> None:
        """Record passes of these sizes, the largest first, whose memory the others share.

        A size that does not fit into memory is left out, and all of them where recording fails:
        then passes run without. Raises DeviceBroken.
        """
        import torch

        for size in sorted(sizes, reverse=True):
            failure: Exception
            try:
                table = torch.zeros(self._rows, size.tokens, dtype=torch.int64, device=self._device)
                self._recorded[size] = self._recording(size, _Recorded(table))
                continue
            except Exception as exc:
                failure = bare(exc)  # it holds the tensors of what was not recorded
            log.warning("no graph of %d tokens (%s)", size.tokens, described(failure))
            if isinstance(meaning(failure), OutOfMemory):
                continue
            if isinstance(meaning(failure), DeviceBroken):
                # A capture that is refused has the class of a lost device, and harms nothing.
                torch.ones(8, device=self._device).sum().item()
            self._recorded.clear()
            return

    def _recording(self, size: Size, recorded: _Recorded) -> _Recorded:
        recorded.replay = self._record(lambda: self._compute(recorded.table, size, recorded.slots))
        return recorded

    def drop(self, size: Size) -> None:
        """Forget the passes of one size."""
        self._recorded.pop(size, None)

    @property
    def sizes(self) -> list[Size]:
        """The recorded sizes, the smallest first."""
        return sorted(self._recorded)

    def fitting(self, tokens: int, texts: int, longest: int) -> Size | None:
        """Return the smallest size that holds a pass, or None."""
        if longest > LONGEST:
            return None
        return next((s for s in self.sizes if s.tokens >= tokens and s.texts >= texts), None)

    def run(self, size: Size, table: Any, slots: Sequence[Slot] = ()) -> Any:
        """Return the result of a pass whose table on the host has as many columns as `size`.

        The next run overwrites it, in the order of the device's stream.
        """
        recorded = self._recorded[size]
        recorded.slots = slots
        recorded.table.copy_(table, non_blocking=True)
        assert recorded.replay is not None
        return recorded.replay()
