"""Runs static models (model2vec, potion): the mean of a table's rows, one row for each token.

Without a network a pass costs little more than reading its tokens, and nothing is padded.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from embedders.base import DENSE, Input, Item, Output, Prompt, Truncate, Value, Vectors
from embedders.by_token import ByToken, divided
from embedders.device import DeviceEmbedder, Result
from embedders.flat_passes import AFTER
from embedders.loading import LoadedModel
from embedders.states import Part, Use
from embedders.tokens import MOST_TOKENS, Limits, TextTokenizer


class StaticEmbedder(DeviceEmbedder):
    """A sentence-transformers `StaticEmbedding` and the modules after it."""

    pads = False
    pass_tokens = 1 << 17

    def __init__(self, loaded: LoadedModel) -> None:
        self._device = loaded.device
        self._table, *self._heads = [next(iter(loaded.modules)), *loaded.heads()]
        tokenizer = self._table.tokenizer
        cut = tokenizer.truncation or {}
        limit, side = cut.get("max_length", MOST_TOKENS), cut.get("direction", "right")
        self.preparer = self._tokenizer = TextTokenizer(
            tokenizer, Limits(limit), self._table.num_embeddings,
            side=side, special=False, empty=True,
        )  # fmt: skip
        known = limit if limit < MOST_TOKENS else None
        # A text's vector is the mean of its tokens' rows, and so is a chunk's.
        kinds = {type(head).__name__ for head in self._heads}
        self.facts = replace(
            loaded.facts(known, self._table.num_embeddings, "static"),
            token_dimension=self._table.embedding_dim, pools_chunks=kinds <= {*AFTER},
        )  # fmt: skip

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the token ids of each input. See `TextTokenizer.prepare`."""
        return self._tokenizer.prepare(inputs, prompt, truncate)

    def _forward(self, items: Sequence[Item]) -> Result:
        if any(item.outputs != DENSE for item in items):
            return divided(items, self._pooled, self._by_token)
        return self._pooled(items)

    def _by_token(self, items: Sequence[Item]) -> dict[Output, list[Value | None]]:
        """Return what is made of the rows of each item's tokens."""
        states = _Rows(self._table, self._device)
        return ByToken(states, self._heads, self.facts.dimension)(items)

    def _pooled(self, items: Sequence[Item]) -> Vectors:
        import torch

        lengths = [len(item.payload) for item in items]
        ids = np.fromiter(chain.from_iterable(i.payload for i in items), np.int64, sum(lengths))
        starts = np.cumsum([0, *lengths[:-1]])
        with torch.inference_mode():
            features: dict[str, Any] = {
                "input_ids": torch.from_numpy(ids).to(self._device),
                "offsets": torch.from_numpy(starts).to(self._device),
            }
            features = self._table(features)
            features["sentence_embedding"] = features["sentence_embedding"].float()
            for module in self._heads:
                features = module(features)
            vectors = features["sentence_embedding"].cpu().numpy()
        return np.ascontiguousarray(vectors[:, : self.facts.dimension], np.float32)

    def _release(self) -> None:
        del self._table, self._heads


class _Rows:
    """The rows of a table as the states of tokens. See `TokenStates`."""

    name = "static"
    pads = False
    pass_tokens: int | None = None

    def __init__(self, table: Any, device: Any) -> None:
        self._table, self._device = table, device

    def __call__(
        self, inputs: Sequence[Sequence[int]], use: Use, *, one_length: bool = False,
        seconds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        import torch

        ids = torch.tensor([*chain.from_iterable(inputs)], dtype=torch.int64, device=self._device)
        with torch.inference_mode():
            rows = self._table.embedding.weight[ids]
            use(Part(range(len(inputs)), [len(given) for given in inputs], rows))
