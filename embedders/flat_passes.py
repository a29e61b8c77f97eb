"""The passes of an embedding model without padding: from token ids to vectors, on any device.

On a GPU a pass is copied there from pinned memory, computed by a recorded graph where one holds it,
and copied back, without waiting: what it returns waits, in whichever thread calls it.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from embedders.base import Item, OutOfMemory, Vectors
from embedders.cuda_graphs import LONGEST, SIZES, CudaRecorder, Graphs, Recorder, Size
from embedders.device import bare, meaning
from embedders.flat import BOUNDS, KEPT, PLACES, FlatNetwork, Layout, NotFlat
from embedders.layers import Slot, TorchLayers
from embedders.proof import EQUAL_FULL, EQUAL_HALF, cosines

log = logging.getLogger("embedders")

# The most tokens of a pass on a GPU, and the fewest that memory is halved to. The fixed cost of a
# pass of MiniLM is estimated at 2 ms, in which an H200 could compute 20,000 tokens.
MOST_TOKENS, FEWEST_TOKENS = 32_768, 2048
PASS_ITEMS = 4096  # the most texts of one on a GPU
# Modules that may come after the pooling: each treats one text's vector by itself.
AFTER = ("Dense", "Dropout", "LayerNorm", "Normalize")


def why_not_flat(heads: Sequence[Any]) -> str | None:
    """Return why the modules after a network cannot take flat states, or None."""
    if not heads or not hasattr(heads[0], "include_prompt"):
        return "its pooling is not known"
    after = [type(head).__name__ for head in heads[1:]]
    odd = next((name for name in after if name not in AFTER), None)
    given = (getattr(head, "module_input_name", "sentence_embedding") for head in heads[1:])
    if odd or any(name != "sentence_embedding" for name in given):
        return f"its {odd or 'Dense'} reads the states of tokens"
    return None


class FlatPasses:
    """A network without padding, and the modules after it.

    `begin` is called by one thread at a time; what it returns may be called by any.
    """

    def __init__(self, network: Any, heads: Sequence[Any], dimension: int, limit: int) -> None:
        """Take a Hugging Face model that reads `limit` tokens, and the modules after it.

        Raises NotFlat.
        """
        if why := why_not_flat(heads):
            raise NotFlat(why)
        pooling, self._after = heads[0], list(heads[1:])
        modes = pooling.pooling_mode
        self._modes = (modes,) if isinstance(modes, str) else tuple(modes)
        rows = [PLACES] if "weightedmean" in self._modes else []
        self._skips = not pooling.include_prompt
        self._network = FlatNetwork(network, [*rows, *([KEPT] if self._skips else [])])
        self._device, self._dimension = self._network.device, dimension
        self._limit, self._graphs_longest = limit, min(LONGEST, limit)
        self._graphs: Graphs | None = None
        self.pass_tokens = MOST_TOKENS

    @property
    def network(self) -> FlatNetwork:
        """The network without padding."""
        return self._network

    @property
    def sizes(self) -> list[Size]:
        """The sizes of the recorded passes."""
        return self._graphs.sizes if self._graphs else []

    def begin(self, items: Sequence[Item], *, eager: bool = False) -> Callable[[], Vectors]:
        """Begin one pass; return what waits for its vectors, (n, d) float32.

        `eager` is without a graph.
        """
        tokens = sum(item.tokens for item in items)
        size = None
        if self._graphs and not eager:
            size = self._graphs.fitting(tokens, len(items), max(item.tokens for item in items))
        return self._begun(items, size)

    def _begun(self, items: Sequence[Item], size: Size | None) -> Callable[[], Vectors]:
        import torch

        on_gpu = self._device.type == "cuda"
        columns = size.tokens if size else 0
        if not size and not on_gpu:  # as the kernels for each number of rows are kept
            columns = TorchLayers.rows(sum(item.tokens for item in items))
        with torch.inference_mode(), _current(self._device):
            table = self._network.table(
                [item.payload for item in items],  # type: ignore[misc]
                columns=columns, skips=[item.skip for item in items] if self._skips else (),
            )  # fmt: skip
            slots = () if on_gpu else table.slots()
            if size:
                assert self._graphs is not None
                found = self._graphs.run(size, table.numbers, slots)[: len(items)]
            else:
                numbers = table.numbers.to(self._device, non_blocking=True)
                one = Size(table.tokens, len(items))
                found = self._compute(numbers, one, slots, table.longest)
            host, done = found, None
            if on_gpu:
                host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
                host.copy_(found, non_blocking=True)
                # A thread that waits for it leaves its core to those that answer requests.
                done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                done.record()

        def finish() -> Vectors:
            if done is not None:
                done.synchronize()
            vectors = np.empty((len(items), self._dimension), np.float32)
            vectors[table.order] = host.numpy()
            return vectors

        return finish

    def _compute(self, numbers: Any, size: Size, slots: Sequence[Slot], longest: int = 0) -> Any:
        """Return the vectors (texts, d) float32 of a table on the device. Never waits for it."""
        import torch

        rows = dict(zip(self._network.rows, numbers, strict=True))
        bounds = rows[BOUNDS][: size.texts + 1]
        # Without a length, as in a graph, it is the most that a text of one has.
        longest = longest or min(self._graphs_longest, size.tokens)
        layout = Layout(bounds.to(torch.int32), longest, slots)
        states = self._network.run(numbers, layout).float()
        features = {
            "sentence_embedding": pooled(
                self._modes, states, bounds, rows.get(PLACES), rows.get(KEPT)
            )
        }
        for module in self._after:
            features = module(features)
        return features["sentence_embedding"][:, : self._dimension].float()

    # -- preparing for a device ------------------------------------------------------------------

    def fit(self, free: int, dtype: Any) -> None:
        """Take as many tokens for a pass as a third of so many free bytes hold.

        Recorded passes have memory of their own, as large as that of others; a third is spare.
        """
        config = self._network.model.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        hidden = int(config.hidden_size)
        inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        # Several states and one layer, as for `room_for`; the last states also in float32.
        each = dtype.itemsize * (8 * hidden + 3 * inner) + 8 * hidden
        room = free // 3 // each // 1024 * 1024
        self.pass_tokens = max(FEWEST_TOKENS, min(MOST_TOKENS, room))

    def warm(self) -> None:
        """Run a full pass, and halve its tokens until it fits into memory.

        Raises OutOfMemory if the smallest does not fit, or what torch raises.
        """
        while True:
            failure: Exception
            try:
                self.begin(self._some(self.pass_tokens, self._limit), eager=True)()
                return
            except Exception as exc:
                failure = bare(exc)  # it holds the pass's tensors
            if not isinstance(meaning(failure), OutOfMemory) or self.pass_tokens <= FEWEST_TOKENS:
                raise failure
            self.pass_tokens = max(FEWEST_TOKENS, self.pass_tokens // 2)

    def record(self, record: Recorder | None = None, sizes: Sequence[Size] = SIZES) -> None:
        """Record the sizes that hold no more than a full pass, each proven equal to one without.

        By default they are CUDA graphs. Where recording fails, passes run without. Raises
        DeviceBroken, or what an unrecorded pass raises.
        """
        import torch

        with torch.inference_mode(), _current(self._device):
            chosen = record or CudaRecorder()
            graphs = Graphs(self._compute, len(self._network.rows), self._device, chosen)
            graphs.add([size for size in sizes if size.tokens <= self.pass_tokens])
        self._graphs = graphs
        half = next(self._network.model.parameters()).dtype.itemsize < 4
        for size in graphs.sizes:
            items = self._some(size.tokens, self._graphs_longest)[: size.texts]
            eager, replayed = self.begin(items, eager=True)(), self._begun(items, size)()
            near = cosines(eager, replayed)
            if not near.min() >= (EQUAL_HALF if half else EQUAL_FULL):
                log.warning("a graph of %d tokens has cosine %.5f", size.tokens, near.min())
                graphs.drop(size)

    def _some(self, tokens: int, longest: int) -> list[Item]:
        """Return texts of many lengths up to `longest`, for a pass of about so many tokens."""
        vocabulary = self._network.model.get_input_embeddings().weight.shape[0]
        longest = min(longest, tokens)
        lengths = [longest, *(1 + 37 * i % longest for i in range(tokens))]
        count = max(1, int(np.searchsorted(np.cumsum(lengths), tokens, side="right")))
        ids = np.arange(3, 3 + longest) % vocabulary
        return [
            Item((ids * (i + 1) % vocabulary).tolist()[:n], n)
            for i, n in enumerate(lengths[:count])
        ]


def pooled(
    modes: Sequence[str], states: Any, bounds: Any, places: Any = None, kept: Any = None
) -> Any:
    """Return the vectors (texts, d) that sentence-transformers' Pooling makes of flat states.

    `states` (tokens, d) is float32 and `bounds` (texts + 1,) int64; `places` has the place of each
    token in its text, for a weighted mean, and `kept` is 0 for tokens that are left out, or None.
    A text's sum is taken in order, whatever else is in the pass. Nothing waits for the device.
    """
    import torch

    starts, ends = bounds[:-1], bounds[1:]
    sums: dict[str, Any] = {}

    def summed(values: Any, reduce: str = "sum") -> Any:
        return torch.segment_reduce(values, reduce, offsets=bounds, unsafe=True)

    def mean_parts(name: str, weights: Any) -> tuple[Any, Any]:
        """Return each text's weighted sum of states, and its sum of weights."""
        if name not in sums:
            if weights is None:
                sums[name] = summed(states), (ends - starts).float()[:, None]
            else:
                sums[name] = summed(states * weights), summed(weights)
        total, weight = sums[name]
        return total, weight.clamp(min=1e-9)

    last_row = len(states) - 1
    mask = None if kept is None else kept.float()[:, None]
    found = []
    for mode in modes:
        if mode in ("mean", "mean_sqrt_len_tokens"):
            total, weight = mean_parts("mean", mask)
            found.append(total / (weight if mode == "mean" else weight.sqrt()))
        elif mode == "weightedmean":
            weights = (places + 1).float()[:, None]
            total, weight = mean_parts(mode, weights if mask is None else weights * mask)
            found.append(total / weight)
        elif mode == "max":
            low = states if mask is None else states.masked_fill(mask == 0, float("-inf"))
            found.append(summed(low, "max"))
        elif mode == "cls":
            first = starts
            if mask is not None:  # the first that is kept, or the text's first where none is
                left_out = (ends - starts) - summed(mask)[:, 0].long()
                first = torch.where(left_out < ends - starts, starts + left_out, starts)
            found.append(states[first.clamp(max=last_row)])
        elif mode == "lasttoken":
            last = (ends - 1).clamp(min=0)
            row = states[last]
            found.append(row if mask is None else row * mask[last])
        else:
            raise NotFlat(f"its pooling {mode!r} is not known")
    return torch.cat(found, dim=-1)


@contextlib.contextmanager
def _current(device: Any) -> Iterator[None]:
    """Make a GPU the one that streams, events and graphs belong to."""
    import torch

    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        yield
