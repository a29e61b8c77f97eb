"""Runs static models (model2vec, potion): the mean of a table's rows, one row for each token.

Without a network a pass costs little more than reading its tokens, and nothing is padded.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from embedders.base import Input, Item, Prompt, Truncate, Vectors
from embedders.device import DeviceEmbedder
from embedders.loading import LoadedModel
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
        self.facts = loaded.facts(known, self._table.num_embeddings, "static")

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the token ids of each input. See `TextTokenizer.prepare`."""
        return self._tokenizer.prepare(inputs, prompt, truncate)

    def _forward(self, items: Sequence[Item]) -> Vectors:
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
