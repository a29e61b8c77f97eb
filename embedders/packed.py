"""Runs BERT-like encoders on a CPU without padding: every token of a pass is one row of a matrix.

Owns how a pass is laid out, its first states, and the proof that all equals the original. What
computes the layers is `layers.py`'s (torch) or `graph.py`'s. Knows no text, no pooling.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from embedders.layers import Norm, Slot, TorchLayers
from errors import ModelUnavailable

log = logging.getLogger("embedders")

# Modules of these classes have the one layout that is written out here.
LAYOUT = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel")
PROBE = (5, 21, 40, 21)  # lengths of the inputs on which the copy must equal the original
Plain = Callable[[Any, Any], Any]


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


def pack(model: Any, dtype: Any, plain: Plain, make: Make = TorchLayers) -> "Packed | None":
    """Return a packed copy of a Hugging Face model, or None if it is not of a known layout.

    `plain(ids, mask)` is the original's own pass, (n, w) to (n, w, d): the copy must equal it.
    `make(layers, heads, dtype)` makes what computes the layers. Raises ModelUnavailable if that
    needs a package that is not there.
    """
    if not _known(model):
        return None
    kind = type(model).__name__
    try:
        packed = Packed(model, dtype, make)
        worst = _compare(packed, plain, model.get_input_embeddings().weight.shape[0])
    except ModelUnavailable:
        raise
    except Exception as exc:  # a private operator changed, a layer is built otherwise
        log.warning("%s cannot be packed by %s (%s)", kind, make.__name__, exc)
        return None
    if not worst > 0.998:
        log.warning("%s packed by %s differs (%.4f)", kind, make.__name__, worst)
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


def _compare(packed: "Packed", plain: Plain, vocabulary: int) -> float:
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

    def __init__(self, model: Any, dtype: Any, make: Make) -> None:
        config, embeddings = model.config, model.embeddings
        self.layers = make(model.encoder.layer, config.num_attention_heads, dtype)
        _keep_memory()
        self.pad_id = config.pad_token_id or 0
        # RoBERTa and its kin number positions from padding_idx + 1.
        self._first = 0 if type(model).__name__ == "BertModel" else self.pad_id + 1
        self._words = embeddings.word_embeddings.weight.detach().to(dtype)
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
        positions = np.full(len(ids), self._first, np.int64)
        for (rows, width), slot in zip(groups, slots, strict=True):
            block = slice(slot.start, slot.start + len(rows) * width)
            ids[block] = np.concatenate([inputs[row] for row in rows])
            positions[block] = np.tile(np.arange(self._first, self._first + width), len(rows))
        states = functional.embedding(torch.from_numpy(ids), self._words)
        states += functional.embedding(torch.from_numpy(positions), self._positions)
        states = self.layers(self._norm(states), slots, used).float()
        cut = [_cut(states, slot) for slot in slots]
        return [Group(rows, part) for (rows, _), part in zip(groups, cut, strict=True)]


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
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, 1 << 30)
    mallopt(mmap_threshold, 1 << 30)
