"""What a dense model gives beside its vectors: the states of its tokens, and vectors of chunks.

The states are those before the pooling. A chunk's vector is the mean of its tokens' states, as the
pooling of a model that takes the mean makes it, and what the modules after that make of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embedders.base import Encoded, Item, Output, Value, Vectors
from embedders.device import Result
from embedders.flat_passes import why_not_flat
from embedders.states import Part, TokenStates

BY_TOKEN: tuple[Output, ...] = ("tokens", "chunks")


def is_by_token(item: Item) -> bool:
    """Return whether an item asks for what is made of each token."""
    return any(output in item.outputs for output in BY_TOKEN)


def divided(
    items: Sequence[Item], dense: Callable[[Sequence[Item]], Result],
    by_token: Callable[[Sequence[Item]], dict[Output, list[Value | None]]],
) -> Encoded:  # fmt: skip
    """Return the results of items of which some ask for no vector, each of what makes it."""
    columns: dict[Output, list[Value | None]] = {}

    def put(rows: list[int], output: Output, values: Sequence[Value | None]) -> None:
        column = columns.setdefault(output, [None] * len(items))
        for row, value in zip(rows, values, strict=True):
            column[row] = value

    pooled = [row for row, item in enumerate(items) if "dense" in item.outputs]
    if pooled:
        found = dense([items[row] for row in pooled])
        put(pooled, "dense", list(found.vectors if isinstance(found, Encoded) else found))
    others = [row for row, item in enumerate(items) if is_by_token(item)]
    for output, values in by_token([items[row] for row in others]).items():
        put(others, output, values)
    return Encoded(columns, [item.tokens for item in items])


def pools_chunks(heads: Sequence[Any]) -> bool:
    """Return whether chunks can be pooled as the modules after a network pool texts."""
    return why_not_flat(heads) is None and heads[0].pooling_mode in ("mean", ("mean",), ["mean"])


class ByToken:
    """Gives what is made of the states of each item's tokens."""

    def __init__(self, states: TokenStates, after: Sequence[Any], dimension: int) -> None:
        """Take the modules after the pooling, and how many of a vector's numbers are kept."""
        self._states, self._after, self._dimension = states, after, dimension

    def __call__(
        self, items: Sequence[Item], *, one_length: bool = False
    ) -> dict[Output, list[Value | None]]:
        """Return a column for each output that is asked for. Raises what torch raises."""
        found: dict[Output, list[Value | None]] = {
            output: [None] * len(items)
            for output in BY_TOKEN
            if any(output in item.outputs for item in items)
        }

        def use(part: Part) -> None:
            for row, states in zip(part.rows, part.of_each(part.states.float()), strict=True):
                item = items[row]
                if "tokens" in item.outputs:  # a copy, which does not hold the whole pass
                    found["tokens"][row] = np.array(states.cpu().numpy(), np.float32)
                if "chunks" in item.outputs:
                    found["chunks"][row] = self._chunks(states, item.spans)

        payloads: Any = [item.payload for item in items]
        self._states(payloads, use, one_length=one_length)
        return found

    def _chunks(self, states: Any, spans: Sequence[tuple[int, int]]) -> Vectors:
        import torch

        means = [states[start:end].mean(dim=0) for start, end in spans]
        features = {"sentence_embedding": torch.stack(means)}
        for module in self._after:
            features = module(features)
        found = features["sentence_embedding"].float().cpu().numpy()
        return np.ascontiguousarray(found[:, : self._dimension])
