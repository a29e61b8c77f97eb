"""Runs BERT-like encoders on a CPU without padding: every token of a pass is one row of a matrix.

Texts of one length stand together for attention; the other nine tenths of the work see one dense
matrix, multiplied by oneDNN with weights in its own layout. Each call runs on the cores that its
thread is set to use; several may at once and share nothing that changes. Knows no text, no pooling.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

log = logging.getLogger("embedders")

# Modules of these classes have the one layout that is written out here.
LAYOUT = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel")
# oneDNN keeps a kernel for each number of rows it has seen: 400 MB after some thousand passes of
# any size, none with sizes rounded up (2 cores, AMX, torch 2.13, 2026-11). Attention of every width
# from 3 to 256 adds little: 702 MB after 160 passes, 715 after 700 (2 cores, AVX512-BF16, 2026-11).
ROWS_STEP = 32
FEW_ROWS, FEW_ROWS_STEP = 64, 8
PROBE = (5, 21, 40, 21)  # lengths of the inputs on which the copy must equal the original


@dataclass(frozen=True)
class Group:
    """Inputs of one length: their places in the call, states (n, w, d) float32."""

    rows: list[int]
    states: Any


@dataclass(frozen=True)
class _Slot:
    """Where a group's rows lie in the pass."""

    start: int
    shape: tuple[int, int]  # texts, tokens of each


def pack(model: Any, dtype: Any, plain: Callable[[Any, Any], Any]) -> "Packed | None":
    """Return a packed copy of a Hugging Face model, or None if it is not of a known layout.

    `plain(ids, mask)` is the original's own pass, (n, w) to (n, w, d): the copy must equal it.
    """
    if not _known(model):
        return None
    try:
        packed = Packed(model, dtype)
        worst = _compare(packed, plain, model.get_input_embeddings().weight.shape[0])
    except Exception as exc:  # a private operator changed, a layer is built otherwise
        log.warning("%s runs padded: packing failed (%s)", type(model).__name__, exc)
        return None
    if not worst > 0.998:
        log.warning("%s runs padded: packed states differ (%.4f)", type(model).__name__, worst)
        return None
    return packed


def _known(model: Any) -> bool:
    import torch

    config, mkldnn = model.config, torch.backends.mkldnn
    return (
        type(model).__name__ in LAYOUT
        and not config.is_decoder
        and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
        and bool(mkldnn.is_available())  # type: ignore[no-untyped-call]
    )


def _compare(packed: "Packed", plain: Callable[[Any, Any], Any], vocabulary: int) -> float:
    """Return the least cosine between the copy's and the original's states on a probe."""
    import torch

    random = np.random.default_rng(0)
    inputs = [random.integers(3, vocabulary, length).tolist() for length in PROBE]
    ids = np.full((len(inputs), max(PROBE)), packed.pad_id, np.int64)
    mask = np.zeros(ids.shape, np.int64)
    for row, given in enumerate(inputs):
        ids[row, : len(given)], mask[row, : len(given)] = given, 1
    with torch.inference_mode():
        theirs = plain(torch.from_numpy(ids), torch.from_numpy(mask)).float()
        worst = 1.0
        for group in packed(inputs):
            for row, states in zip(group.rows, group.states, strict=True):
                length = len(inputs[row])
                same = torch.cosine_similarity(states[:length], theirs[row, :length], dim=-1)
                worst = min(worst, float(same.min()))
    return worst


class Packed:
    """A packed encoder. Safe to call from several threads at once."""

    def __init__(self, model: Any, dtype: Any) -> None:
        config, embeddings = model.config, model.embeddings
        _keep_memory()
        self._dtype = dtype
        self._heads = config.num_attention_heads
        self.pad_id = config.pad_token_id or 0
        # RoBERTa and its kin number positions from padding_idx + 1.
        self._first = 0 if type(model).__name__ == "BertModel" else self.pad_id + 1
        self._words = embeddings.word_embeddings.weight.detach().to(dtype)
        first_type = embeddings.token_type_embeddings.weight[0]
        self._positions = (embeddings.position_embeddings.weight + first_type).detach().to(dtype)
        self._norm = _Norm(embeddings.LayerNorm, dtype)
        self._layers = [_Layer(layer, self._heads, dtype) for layer in model.encoder.layer]

    def __call__(self, inputs: Sequence[Sequence[int]]) -> list[Group]:
        """Encode token ids, special tokens included. Call within `torch.inference_mode`."""
        import torch
        from torch.nn import functional

        groups = _group(inputs)
        slots = _lay(groups)
        used = sum(len(given) for given in inputs)
        ids = np.full(_round_up(used), self.pad_id, np.int64)
        positions = np.full(len(ids), self._first, np.int64)
        for (rows, width), slot in zip(groups, slots, strict=True):
            block = slice(slot.start, slot.start + len(rows) * width)
            ids[block] = np.concatenate([inputs[row] for row in rows])
            positions[block] = np.tile(np.arange(self._first, self._first + width), len(rows))
        states = functional.embedding(torch.from_numpy(ids), self._words)
        states += functional.embedding(torch.from_numpy(positions), self._positions)
        states = self._norm(states)
        for layer in self._layers:
            states = layer(states, slots, used)
        states = states.float()
        cut = [_cut(states, slot) for slot in slots]
        return [Group(rows, part) for (rows, _), part in zip(groups, cut, strict=True)]


class _Norm:
    """A layer norm's parameters."""

    def __init__(self, norm: Any, dtype: Any) -> None:
        self._weight, self._bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
        self._eps = norm.eps

    def __call__(self, x: Any) -> Any:
        from torch.nn import functional

        return functional.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


class _Linear:
    """One or several linear layers of one input, as one matrix in oneDNN's own layout."""

    def __init__(self, parts: Sequence[Any], dtype: Any) -> None:
        import torch

        self._ops: Any = torch.ops.mkldnn
        weight = torch.cat([part.weight for part in parts]).detach().to(dtype)
        self._weight = self._ops._reorder_linear_weight(weight.contiguous())
        self._bias = torch.cat([part.bias for part in parts]).detach().to(dtype)

    def __call__(self, x: Any) -> Any:
        return self._ops._linear_pointwise(x, self._weight, self._bias, "none", [], "")

    def added(self, x: Any, to: Any) -> Any:
        return self._ops._linear_pointwise.binary(x, to, self._weight, self._bias, "add")


class _Layer:
    """One transformer layer: attention per group, everything else on all rows at once."""

    def __init__(self, layer: Any, heads: int, dtype: Any) -> None:
        import torch

        attention, own = layer.attention, layer.attention.self
        self._heads = heads
        self._qkv = _Linear([own.query, own.key, own.value], dtype)
        self._out = _Linear([attention.output.dense], dtype)
        self._norm = _Norm(attention.output.LayerNorm, dtype)
        self._up = _Linear([layer.intermediate.dense], dtype)
        activation = layer.intermediate.intermediate_act_fn
        gelu = type(activation).__name__ == "GELUActivation"
        in_place: Any = torch._C._nn  # needs no new memory
        self._activate = in_place.gelu_ if gelu else activation
        self._down = _Linear([layer.output.dense], dtype)
        self._last_norm = _Norm(layer.output.LayerNorm, dtype)

    def __call__(self, x: Any, slots: Sequence[_Slot], used: int) -> Any:
        import torch

        qkv = self._qkv(x)
        context = [self._attend(qkv, slot) for slot in slots]
        if used < len(x):
            context.append(x[used:])  # rows of padding: any number will do
        mixed = context[0] if len(context) == 1 else torch.cat(context)
        x = self._norm(self._out.added(mixed, x))
        return self._last_norm(self._down.added(self._activate(self._up(x)), x))

    def _attend(self, qkv: Any, slot: _Slot) -> Any:
        from torch.nn import functional

        n, width = slot.shape
        parts = qkv[slot.start : slot.start + n * width].view(n, width, 3, self._heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        return seen.transpose(1, 2).reshape(n * width, -1)


def _group(inputs: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """Return groups of one length, longest first: indices, and that length."""
    groups: dict[int, list[int]] = {}
    for i in sorted(range(len(inputs)), key=lambda i: -len(inputs[i])):
        groups.setdefault(len(inputs[i]), []).append(i)
    return [(rows, width) for width, rows in groups.items()]


def _lay(groups: Sequence[tuple[list[int], int]]) -> list[_Slot]:
    """Lay groups one behind the other."""
    slots, start = [], 0
    for rows, width in groups:
        slots.append(_Slot(start, (len(rows), width)))
        start += len(rows) * width
    return slots


def _round_up(rows: int) -> int:
    step = FEW_ROWS_STEP if rows <= FEW_ROWS else ROWS_STEP
    return -(-rows // step) * step


def _cut(states: Any, slot: _Slot) -> Any:
    n, width = slot.shape
    return states[slot.start : slot.start + n * width].view(n, width, -1)


def _keep_memory() -> None:
    """Let glibc keep what a pass frees for the next one: 6 to 12% (870 page faults a pass less)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, 1 << 30)
    mallopt(mmap_threshold, 1 << 30)
