"""Runs BERT-like encoders on a CPU without padding: every token of a pass is one row of a matrix.

Owns how a pass is laid out and its first states. What computes the layers is `layers.py`'s (torch)
or `graph.py`'s. Knows no text, no pooling; that the result is right is `proof.py`'s to see.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedders.layers import Norm, Slot, TorchLayers

# Modules of these classes have the one layout that is written out here.
LAYOUT = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel")


_loading = False
_kept_most = 1 << 25  # bytes of a block that stays in the heap; glibc itself goes up to this


class Layers(Protocol):
    """What computes an encoder's layers on the rows of a pass."""

    name: str  # as `/models` tells it
    shared: bool  # whether a pass is cut into shares, one a core; else one call has all cores

    def rows(self, used: int) -> int:
        """Return how many rows a pass of `used` tokens has, padding at the end included."""

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states, (rows, d). `slots` say where texts lie."""


Make = Callable[[Sequence[Any], int, Any], Layers]


@dataclass(frozen=True)
class Group:
    """Inputs of one length: their places in the call, states (n, w, d) float32."""

    rows: list[int]
    states: Any


def can_pack(model: Any) -> bool:
    """Tell whether a Hugging Face model has a layout that is written out here."""
    import torch

    config, mkldnn = model.config, torch.backends.mkldnn
    return (
        type(model).__name__ in LAYOUT
        and not config.is_decoder
        and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
        and bool(mkldnn.is_available())  # type: ignore[no-untyped-call]
    )


class Packed:
    """A packed copy of an encoder. Safe to call from several threads at once."""

    def __init__(self, model: Any, dtype: Any, make: Make = TorchLayers) -> None:
        """Copy a model that `can_pack`. `make(layers, heads, dtype)` makes what computes layers.

        Raises ModelUnavailable for a package that is not there, else whatever stands in the way.
        """
        config, embeddings = model.config, model.embeddings
        self.layers = make(model.encoder.layer, config.num_attention_heads, dtype)
        _keep_memory()
        self.pad_id = config.pad_token_id or 0
        # RoBERTa and its kin number positions from padding_idx + 1, and pass over padding tokens,
        # those that stand in a text included.
        self._counts_ids = type(model).__name__ != "BertModel"
        # A copy of its own: a tensor of the file keeps all of the file mapped into memory.
        self._words = embeddings.word_embeddings.weight.detach().to(dtype, copy=True)
        first_type = embeddings.token_type_embeddings.weight[0]
        self._positions = (embeddings.position_embeddings.weight + first_type).detach().to(dtype)
        self._norm = Norm(embeddings.LayerNorm, dtype)

    def __call__(self, inputs: Sequence[Sequence[int]]) -> list[Group]:
        """Encode token ids, special tokens included. Call within `torch.inference_mode`."""
        import torch
        from torch.nn import functional

        groups = _group(inputs)
        slots = _lay(groups)
        used = sum(len(given) for given in inputs)
        ids = np.full(self.layers.rows(used), self.pad_id, np.int64)
        positions = np.zeros(len(ids), np.int64)
        for (rows, width), slot in zip(groups, slots, strict=True):
            block = slice(slot.start, slot.start + len(rows) * width)
            ids[block] = np.concatenate([inputs[row] for row in rows])
            positions[block] = self._numbered(ids[block].reshape(len(rows), width)).ravel()
        states = functional.embedding(torch.from_numpy(ids), self._words)
        states += functional.embedding(torch.from_numpy(positions), self._positions)
        states = self.layers(self._norm(states), slots, used).float()
        cut = [_cut(states, slot) for slot in slots]
        return [Group(rows, part) for (rows, _), part in zip(groups, cut, strict=True)]

    def _numbered(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of each token of texts of one length, (n, w)."""
        if not self._counts_ids:
            return np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        told = ids != self.pad_id
        numbers: NDArray[np.int64] = np.cumsum(told, axis=1) * told + self.pad_id
        return numbers


def _group(inputs: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """Return groups of one length, longest first: indices, and that length."""
    groups: dict[int, list[int]] = {}
    for i in sorted(range(len(inputs)), key=lambda i: -len(inputs[i])):
        groups.setdefault(len(inputs[i]), []).append(i)
    return [(rows, width) for width, rows in groups.items()]


def _lay(groups: Sequence[tuple[list[int], int]]) -> list[Slot]:
    """Lay groups one behind the other."""
    slots, start = [], 0
    for rows, width in groups:
        slots.append(Slot(start, (len(rows), width)))
        start += len(rows) * width
    return slots


def _cut(states: Any, slot: Slot) -> Any:
    n, width = slot.shape
    return states[slot.start : slot.start + n * width].view(n, width, -1)


def _keep_memory() -> None:
    """Let glibc keep what a pass frees for the next one: 6 to 12% (870 page faults a pass less)."""
    global _kept_most
    _kept_most = 1 << 30
    if not _loading:
        _mallopt(_kept_most)


@contextmanager
def sparing_memory() -> Iterator[None]:
    """Have what a load frees go back to the system, not into the heap that passes take from.

    With the weights in that heap a BERT of 340 MB took 2.1 times that after its load, and 3.1 with
    ONNX Runtime; on pages of their own 1.1 (glibc 2.36, float32, 2026-11). Of two loads at once
    the first that is done ends this for both.
    """
    global _loading
    _loading = True
    _mallopt(1 << 17)  # what glibc starts with: a larger block has pages of its own
    try:
        yield
    finally:
        _loading = False
        _mallopt(_kept_most)
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def _mallopt(most: int) -> None:
    """Set how large a block may be to stay in the heap, and how much may be free at its end."""
    trim_threshold, mmap_threshold = -1, -3
    with suppress(OSError, AttributeError):
        for option in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(option, most)
