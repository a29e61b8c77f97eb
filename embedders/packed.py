"""Runs BERT-like encoders on a CPU without padding: every token of a pass is one row of a matrix.

Here a pass is divided between the cores, laid out, and given its first states. `layers.py` (torch)
or `graph.py` (ONNX Runtime) computes the layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedders.layers import (
    Norm,
    Slot,
    TorchLayers,
    cores,
    has_onednn,
    threads,
    use_cores,
)
from embedders.table import Table
from server.memory import keep_freed_blocks

# The classes with the layout that is written out here.
LAYOUT = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel")


# A pass is divided between the cores, but not into smaller shares: each core reads all weights,
# which costs as much as 50 tokens with AMX and 11 with AVX512-BF16 alone (MiniLM-L6 bf16, one of 2
# cores: 2.3 ms + 45 us a token, and 1.4 ms + 125 us).
SHARE_TOKENS = 48
# Attention grows with the square of a text's length. At this length it costs as much as the rest.
ATTENTION_TOKENS = 700
MOST_WASTED_TOKENS = 40


class Layers(Protocol):
    """Computes an encoder's layers on the rows of a pass."""

    name: str  # the backend that `/models` shows
    shared: bool  # whether a pass is divided between the cores; else one call uses all of them
    firsts: bool  # whether only the first token of each text comes out
    table: type[Table]  # what keeps the rows of words

    def rows(self, used: int) -> int:
        """Return how many rows a pass of `used` tokens has, padding at the end included."""

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states, (rows, d), or (texts, d) of the first tokens."""


Make = Callable[[Sequence[Any], int, Any], Layers]


@dataclass(frozen=True)
class Step:
    """What runs passes of up to so many tokens: layers, on how many cores."""

    tokens: int
    layers: Layers
    cores: int


@dataclass(frozen=True)
class Share:
    """Inputs of a pass, by index, that one call computes: by which layers, on how many cores."""

    rows: Sequence[int]
    layers: Layers | None  # None for a network that is not packed
    cores: int


@dataclass(frozen=True)
class Group:
    """Inputs of one length: their indices in the call, and their states (n, w, d) float32.

    The width is 1 where only the first token of each comes out.
    """

    rows: list[int]
    states: Any


def can_pack(model: Any) -> bool:
    """Return whether a Hugging Face model has the layout that is written out here."""
    config = model.config
    return (
        type(model).__name__ in LAYOUT
        and not config.is_decoder
        and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
        and has_onednn()
    )


def strip(network: Any) -> None:
    """Free a network's weights. It cannot run any more."""
    for name, _ in list(network.named_children()):
        delattr(network, name)


class Packed:
    """A packed copy of an encoder. Safe to call from several threads at once."""

    def __init__(self, model: Any, dtype: Any, make: Make = TorchLayers) -> None:
        """Copy a model that `can_pack`; `make(layers, heads, dtype)` makes its `Layers`.

        Raises ModelUnavailable for a package that is not installed, or what `make` raises.
        """
        import torch

        config, embeddings = model.config, model.embeddings
        self.small: Sequence[Step] = ()  # what runs small passes, the smallest first
        self.layers = make(model.encoder.layer, config.num_attention_heads, dtype)
        keep_freed_blocks()
        self.pad_id = config.pad_token_id or 0
        # RoBERTa and its relatives number positions from padding_idx + 1 and skip padding tokens,
        # also those in a text.
        self._counts_ids = type(model).__name__ != "BertModel"
        self._words = self.layers.table(embeddings.word_embeddings.weight, dtype)
        places, kinds = embeddings.position_embeddings.weight, embeddings.token_type_embeddings
        # The positions of a pair's first text, then of its second.
        tables = [places + kinds.weight[each] for each in range(min(2, len(kinds.weight)))]
        self._positions = torch.cat(tables).detach().to(dtype)
        self._of_second = len(places) if len(tables) > 1 else 0
        self._norm = Norm(embeddings.LayerNorm, dtype)

    def shares(self, lengths: Sequence[int]) -> list[Share]:
        """Return what computes a pass of inputs of these lengths."""
        for step in self.small:
            if sum(lengths) <= step.tokens:
                return [Share(list(range(len(lengths))), step.layers, step.cores)]
        if not self.layers.shared:
            return [Share(rows, self.layers, cores()) for rows in padded_parts(lengths)]
        shares = shares_of(lengths, cores())
        return [Share(rows, self.layers, cores() // len(shares)) for rows in shares]

    def __call__(
        self, inputs: Sequence[Sequence[int]], seconds: Sequence[int] = (),
        layers: Layers | None = None,
    ) -> list[Group]:  # fmt: skip
        """Return the states of token ids, special tokens included. Needs `inference_mode`.

        `seconds` has where the second text of each pair begins, if the network is told. `layers`
        are those of a share.
        """
        layers = layers or self.layers
        import torch
        from torch.nn import functional

        groups = by_length([len(given) for given in inputs])
        slots, start = [], 0
        for width, rows in groups.items():
            slots.append(Slot(start, (len(rows), width)))
            start += len(rows) * width
        used = sum(len(given) for given in inputs)
        ids = np.full(layers.rows(used), self.pad_id, np.int64)
        positions = np.zeros(len(ids), np.int64)
        for (width, rows), slot in zip(groups.items(), slots, strict=True):
            block = slice(slot.start, slot.start + len(rows) * width)
            ids[block] = np.concatenate([inputs[row] for row in rows])
            numbered = self._numbered(ids[block].reshape(len(rows), width))
            if len(seconds):
                starts = np.array([seconds[row] for row in rows])[:, None]
                is_second = (starts > 0) & (np.arange(width) >= starts)
                numbered = numbered + self._of_second * is_second
            positions[block] = numbered.ravel()
        states = self._words(torch.from_numpy(ids))
        states += functional.embedding(torch.from_numpy(positions), self._positions)
        states = layers(self._norm(states), slots, used).float()
        found, start = [], 0
        for width, rows in groups.items():
            shape = len(rows), 1 if layers.firsts else width
            end = start + shape[0] * shape[1]
            found.append(Group(rows, states[start:end].view(*shape, -1)))
            start = end
        return found

    def _numbered(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of each token in texts of one length, (n, w)."""
        if not self._counts_ids:
            return np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        counted = ids != self.pad_id
        numbers: NDArray[np.int64] = np.cumsum(counted, axis=1) * counted + self.pad_id
        return numbers


def run(shares: Sequence[Share], work: Callable[[Share], None]) -> None:
    """Call `work` for each share of a pass, within `inference_mode`.

    It is called in threads that encode, in several at once unless a share takes all cores. ONNX
    Runtime has threads of its own, so its shares stay here: two threads of Python that wait for
    each other cost a lone text 0.9 ms of 6 (2 cores, AMD EPYC Zen 4, busy, 2026-11-30).
    """
    import torch

    def one(share: Share, count: int) -> None:
        use_cores(count)
        with torch.inference_mode():
            work(share)

    running = []
    for share in shares:
        if share.layers is not None and not share.layers.shared:
            one(share, 1)
            continue
        running.append(threads().submit(one, share, share.cores))
        if share.cores == cores():
            running.pop().result()
    for each in running:
        each.result()


def by_length(lengths: Sequence[int]) -> dict[int, list[int]]:
    """Return the indices of each length, the longest first."""
    groups: dict[int, list[int]] = {}
    for i in _longest_first(lengths):
        groups.setdefault(lengths[i], []).append(i)
    return groups


def shares_of(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Return indices of at most `most` shares of like cost, with like lengths together."""
    order = _longest_first(lengths)
    tokens = np.array(lengths)[order]
    costs = np.cumsum(tokens * (1 + tokens / ATTENTION_TOKENS))
    parts = max(1, min(most, len(lengths), sum(lengths) // SHARE_TOKENS))
    ends = np.searchsorted(costs, costs[-1] * np.arange(1, parts) / parts) + 1
    shares = [part.tolist() for part in np.split(np.array(order), ends)]
    return [share for share in shares if share]


def padded_parts(lengths: Sequence[int]) -> list[list[int]]:
    """Return indices of parts, each padded to its longest text for less than another part costs.

    A part costs as much as 20 tokens: single texts of 9 and 64 tokens take 5.5 and 14.2 ms. Passes
    of 1,000 tokens of docs take 269, 264 and 256 ms with 10, 20 and 40 here (ONNX Runtime, Zen 3).
    """
    parts: list[list[int]] = []
    wasted = 0.0
    for i in _longest_first(lengths):
        if parts:
            wasted += (lengths[parts[-1][0]] ** 2 - lengths[i] ** 2) / ATTENTION_TOKENS
        if not parts or wasted > MOST_WASTED_TOKENS:
            parts.append([])
            wasted = 0.0
        parts[-1].append(i)
    return parts


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])
