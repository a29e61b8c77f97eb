"""Runs Hugging Face networks without padding: the tokens of a pass are one row of all texts.

transformers lets a network take its attention from a function that is registered by name. The one
here keeps each text to itself, on CUDA by kernels for texts of different lengths, on a CPU for the
texts of each length. All else in a network treats tokens one by one, or its results differ from
the library's, which the proof at load finds.
"""

import copy
import functools
import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedders.layers import Slot, TorchLayers
from embedders.rotary import follows_longest

NAME = "flat"  # of the attention function
# What an attention function may be given and what changes its result; here it has no meaning.
UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask", "cache")
# The rows of a pass's table. `bounds` has where each text begins, and the end of the last.
IDS, POSITIONS, BOUNDS = "ids", "positions", "bounds"
TYPES, PLACES, KEPT = "types", "places", "kept"


class NotFlat(Exception):
    """A network that cannot run without padding."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the texts of a pass lie in its row."""

    bounds: Any  # (texts + 1,) int32 on the device: text i has the tokens bounds[i]:bounds[i + 1]
    longest: int  # the most tokens that a text of it has
    slots: Sequence[Slot] = ()  # texts of one length, one after the other; a GPU needs none


@dataclass(frozen=True, eq=False)
class Table:
    """The numbers of a pass on the host: what `FlatNetwork.table` returns."""

    numbers: Any  # torch int64 (rows, columns), pinned for a GPU; unused places hold any tokens
    order: list[int]  # the index of each text in the call, as they lie in the row: longest first
    lengths: NDArray[np.int64]  # tokens of each, in that order

    @property
    def tokens(self) -> int:
        """All tokens."""
        return int(self.lengths.sum())

    @property
    def longest(self) -> int:
        """The tokens of the longest text."""
        return int(self.lengths[0])

    def slots(self) -> list[Slot]:
        """Return the texts of each length."""
        widths, counts = np.unique(-self.lengths, return_counts=True)
        starts = np.cumsum([0, *(-widths * counts)]).tolist()
        pairs = zip(starts, counts.tolist(), (-widths).tolist(), strict=False)
        return [Slot(start, (count, width)) for start, count, width in pairs]


@dataclass(frozen=True, eq=False)
class States:
    """The states of a pass's tokens, in one row."""

    rows: Any  # (tokens, d) in the network's dtype, on its device
    order: list[int]  # the index of each text in the call, as they lie in the row
    lengths: list[int]  # tokens of each, in that order
    bounds: Any  # (texts + 1,) int64 on the device

    def of_each(self) -> list[Any]:
        """Return the states (t, d) of each text, in the order of the call."""
        parts = self.rows[: sum(self.lengths)].split(self.lengths)
        found = dict(zip(self.order, parts, strict=True))
        return [found[i] for i in range(len(parts))]


class FlatNetwork:
    """A network that reads passes without padding; it shares the weights of the one it is made of.

    Safe to call from several threads at once.
    """

    def __init__(self, model: Any, rows: Sequence[str] = ()) -> None:
        """Take a Hugging Face model, and the further rows that tables shall have.

        Raises NotFlat for one that takes no positions or no attention function, or whose positions
        depend on the longest text.
        """
        given = inspect.signature(model.forward).parameters
        if "position_ids" not in given:
            raise NotFlat("its network takes no positions")
        if follows_longest(model):
            raise NotFlat("its rotary positions follow the longest text of a pass")
        self.model = _copy(model)
        self.device = next(model.parameters()).device
        # GPT-2 takes types too, and adds words for them.
        takes_types = any(hasattr(part, "token_type_embeddings") for part in model.modules())
        self._zero_types = takes_types and TYPES not in rows
        self.rows = (IDS, POSITIONS, BOUNDS, *(r for r in rows if r != TYPES or takes_types))
        self._no_cache = {"use_cache": False} if "use_cache" in given else {}
        self._no_mask = {"attention_mask": None} if "attention_mask" in given else {}
        self._pad_id = _counts_from(model)

    def table(
        self, inputs: Sequence[Sequence[int]], *, columns: int = 0, seconds: Sequence[int] = (),
        skips: Sequence[int] = (),
    ) -> Table:  # fmt: skip
        """Return the numbers of a pass over token ids, with `columns` places or as many as it has.

        `seconds` has where the second text of each pair begins, `skips` how many leading tokens of
        each text are left out of its pooling.
        """
        import torch

        lengths = np.fromiter(map(len, inputs), np.int64, len(inputs))
        order = np.argsort(-lengths, kind="stable")
        lengths, tokens = lengths[order], int(lengths.sum())
        columns = max(columns, tokens, len(inputs) + 1)
        pinned = self.device.type == "cuda"
        numbers = torch.zeros(len(self.rows), columns, dtype=torch.int64, pin_memory=pinned)
        rows = dict(zip(self.rows, numbers.numpy(), strict=True))
        ends = np.cumsum(lengths)
        rows[IDS][:tokens] = np.concatenate([np.asarray(inputs[i], np.int64) for i in order])
        rows[BOUNDS][1:] = tokens  # texts that are not there are empty
        rows[BOUNDS][1 : len(lengths) + 1] = ends
        places = np.arange(tokens) - np.repeat(ends - lengths, lengths)
        rows[POSITIONS][:tokens] = self._positions(rows[IDS][:tokens], places, ends - lengths)
        if PLACES in rows:
            rows[PLACES][:tokens] = places
        if TYPES in rows and len(seconds):
            begin = np.repeat(np.asarray(seconds, np.int64)[order], lengths)
            rows[TYPES][:tokens] = (begin > 0) & (places >= begin)
        if KEPT in rows:
            left_out = np.asarray(skips, np.int64)[order] if len(skips) else np.zeros_like(lengths)
            rows[KEPT][:tokens] = places >= np.repeat(left_out, lengths)
        return Table(numbers, order.tolist(), lengths)

    def run(self, numbers: Any, layout: Layout) -> Any:
        """Return the last states of a table on the device, (columns, d). Never waits for a GPU.

        Raises NotFlat for a network that attends in a way that is not known here.
        """
        import torch

        rows = dict(zip(self.rows, numbers[:, None], strict=True))
        given: dict[str, Any] = {**self._no_mask, **self._no_cache}
        if self._zero_types:
            given["token_type_ids"] = torch.zeros_like(rows[IDS])
        elif TYPES in rows:
            given["token_type_ids"] = rows[TYPES]
        _under_way.layout, _under_way.attended = layout, False
        try:
            found = self.model(input_ids=rows[IDS], position_ids=rows[POSITIONS], **given)
        finally:
            _under_way.layout = None
        if not _under_way.attended:
            raise NotFlat("its attention is its own")
        return found[0][0]

    def states(self, inputs: Sequence[Sequence[int]], seconds: Sequence[int] = ()) -> States:
        """Return the last states of the tokens of a pass. Needs `torch.inference_mode`."""
        columns = sum(map(len, inputs))
        if self.device.type == "cpu":
            columns = TorchLayers.rows(columns)
        table = self.table(inputs, columns=columns, seconds=seconds)
        numbers = table.numbers.to(self.device, non_blocking=True)
        bounds = numbers[self.rows.index(BOUNDS), : len(inputs) + 1]
        rows = self.run(numbers, self.layout(table, bounds))
        return States(rows, table.order, table.lengths.tolist(), bounds)

    def layout(self, table: Table, bounds: Any) -> Layout:
        """Return the layout of a table whose `bounds` are on the device."""
        import torch

        slots = table.slots() if self.device.type == "cpu" else ()
        return Layout(bounds.to(torch.int32), table.longest, slots)

    def _positions(
        self, ids: NDArray[np.int64], places: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the position of each token.

        RoBERTa and its relatives number from the padding's row + 1 and skip padding tokens, also
        those in a text.
        """
        if self._pad_id is None:
            return places
        counted = ids != self._pad_id
        if counted.all():
            return places + self._pad_id + 1
        before = np.cumsum(counted)
        at_start = (before - counted)[starts]
        lengths = np.diff([*starts, len(ids)])
        found: NDArray[np.int64] = (before - np.repeat(at_start, lengths)) * counted + self._pad_id
        return found


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, *,
    scaling: float | None = None, sliding_window: int | None = None, is_causal: bool | None = None,
    **given: Any,
) -> tuple[Any, None]:  # fmt: skip
    """Return the attention of each text of the pass to itself, (1, tokens, heads, d).

    The signature is transformers': query (1, heads, tokens, d), key and value with as many heads or
    fewer. Raises NotFlat for what this function does not know.
    """
    layout = _under_way.layout
    odd = [name for name in UNKNOWN if given.get(name) is not None]
    if layout is None or attention_mask is not None or odd:
        raise NotFlat(f"its attention takes {', '.join(odd) or 'a mask'}")
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
        # Decoders that were made to look both ways say so in their configuration alone.
        is_causal = is_causal and getattr(getattr(module, "config", None), "is_causal", True)
    left = None if sliding_window is None else sliding_window - 1
    if left is not None and left >= layout.longest - 1:
        left = None  # no text is that long
    run = _attend_on_gpu if query.is_cuda else _attend_by_length
    _under_way.attended = True
    return run(query, key, value, layout, scaling, bool(is_causal), left), None


def _attend_by_length(
    query: Any, key: Any, value: Any, layout: Layout, scale: float | None, causal: bool,
    left: int | None,
) -> Any:  # fmt: skip
    import torch
    from torch.nn import functional

    key, value = _as_many_heads(query, key), _as_many_heads(query, value)
    seen = query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])
    for slot in layout.slots:
        count, width = slot.shape
        block = slice(slot.start, slot.start + count * width)
        q, k, v = (
            x[0, :, block].unflatten(1, (count, width)).transpose(0, 1) for x in (query, key, value)
        )
        mask = None
        if left is not None and left < width - 1:
            mask = torch.ones(width, width, dtype=torch.bool).triu(-left)
            mask = mask.tril(0 if causal else left)
        found = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scale
        )
        seen[0, block] = found.transpose(1, 2).flatten(0, 1)
    return seen


def _attend_on_gpu(
    query: Any, key: Any, value: Any, layout: Layout, scale: float | None, causal: bool,
    left: int | None,
) -> Any:  # fmt: skip
    import torch

    if not _has_flash(query):
        if left is not None and not causal:
            raise NotFlat("this GPU has no kernel for windows to both sides in this dtype")
        key, value = _as_many_heads(query, key), _as_many_heads(query, value)
        efficient: Any = torch.ops.aten._efficient_attention_forward
        return efficient(
            *(x.transpose(1, 2) for x in (query, key, value)), None, layout.bounds, layout.bounds,
            layout.longest, layout.longest, 0.0, int(causal), scale=scale,
            window_size=None if left is None else left + 1,
        )[0]  # fmt: skip
    from torch.nn.attention import varlen

    attention: Any = varlen.varlen_attn  # its stub is not of all versions
    shared = {}
    if key.shape[1] != query.shape[1]:
        if _knows_shared_heads():
            shared["enable_gqa"] = True
        else:
            key, value = _as_many_heads(query, key), _as_many_heads(query, value)
    window = (-1 if left is None else left, 0 if causal else -1 if left is None else left)
    rows = (x[0].transpose(0, 1) for x in (query, key, value))
    seen = attention(
        *rows, layout.bounds, layout.bounds, layout.longest, layout.longest,
        scale=scale, window_size=window, **shared,
    )  # fmt: skip
    return seen[None]


def _has_flash(query: Any) -> bool:
    """Return whether flash attention takes these: half precision, compute capability 8.0."""
    import torch

    return query.dtype.itemsize == 2 and torch.cuda.get_device_capability(query.device) >= (8, 0)


@functools.cache
def _knows_shared_heads() -> bool:
    """Return whether this version's `varlen_attn` has an argument for fewer key heads (2.12)."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _as_many_heads(query: Any, shared: Any) -> Any:
    """Return keys or values with a head for each of the query's."""
    times = query.shape[1] // shared.shape[1]
    return shared if times == 1 else shared.repeat_interleave(times, dim=1)


class _UnderWay(threading.local):
    """The pass that a thread computes: not every architecture passes arguments to its attention."""

    layout: Layout | None = None
    attended: bool = False


_under_way = _UnderWay()


def _copy(model: Any) -> Any:
    """Return a copy that attends by `attend` and shares all tensors. Raises NotFlat."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}
    flat = copy.deepcopy(model, tensors)
    try:
        flat.set_attn_implementation(NAME)
    except (ValueError, NotImplementedError) as exc:
        raise NotFlat("its network takes no attention function") from exc
    if flat.config._attn_implementation != NAME:
        raise NotFlat("its network takes no attention function")
    return flat


def _counts_from(model: Any) -> int | None:
    """Return the padding's id where positions are counted from it, as in RoBERTa, else None."""
    for module in model.modules():
        if hasattr(module, "padding_idx") and hasattr(module, "position_embeddings"):
            return int(module.padding_idx)
    return None
