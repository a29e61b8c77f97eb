"""Runs a model by the library's own `encode`: whatever no faster way of ours was proven equal for.

Word averages, routers, chat templates, networks that read more than token ids. One pass at a time,
since such a model's tokenizer may not be shared between threads.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from embedders.base import Input, Item, Prompt, Truncate, Vectors
from embedders.device import DeviceEmbedder
from embedders.loading import LoadedModel
from embedders.reference import Reference
from errors import BadRequest, InputTooLong, Invalid

# Texts that are tokenized at a time, and that `encode` takes in one of its batches (its default).
AT_ONCE = 32


class FallbackEmbedder(DeviceEmbedder):
    """A model that is run as a whole, texts in and vectors out."""

    portable = False  # prompt, side of a retrieval and cut are told beside the text

    def __init__(
        self, loaded: LoadedModel, reference: Reference, limit: int | None, *notes: str
    ) -> None:
        self._loaded, self._device = loaded, loaded.device
        self._reference = reference
        # Texts of one length together, for a network that lets padding change a text's vector.
        self.alike = False
        self._lock = threading.Lock()
        self.facts = loaded.facts(limit, None, "library", *notes)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Count tokens as the library reads them. Takes texts only.

        Raises BadRequest, InputTooLong or Invalid with the input's index.
        """
        for index, given in enumerate(inputs):
            if not isinstance(given, str):
                raise BadRequest(
                    f"input {index}: this model takes texts, not token ids", param="input"
                )
        items: list[Item] = []
        for start in range(0, len(inputs), AT_ONCE):
            texts = [str(given) for given in inputs[start : start + AT_ONCE]]
            with self._lock, self._cutting(truncate):
                read = self._reference.counts(texts, prompt)
                whole = self._reference.counts(texts, prompt, truncation=False)
                for text, count, full in zip(texts, read, whole, strict=True):
                    items.append(self._item(len(items), text, count, full, prompt, truncate))
        return items

    def _item(
        self, index: int, text: str, count: int, full: int, prompt: Prompt, truncate: Truncate
    ) -> Item:
        if full > count and truncate == "error":
            raise InputTooLong(f"input {index} has {full} tokens; the limit is {count}")
        if count == 0 and not self._reference.reads_nothing(prompt):
            raise Invalid(f"input {index} has no token for this model to read", param="input")
        return Item(text, count, full > count, prompt=prompt, side=truncate)

    def _forward(self, items: Sequence[Item]) -> Vectors:
        """Encode as `SentenceTransformer.encode` does."""
        vectors = np.empty((len(items), self.facts.dimension), np.float32)
        length = [item.tokens if self.alike else 0 for item in items]
        how = [(item.prompt, item.side, n) for item, n in zip(items, length, strict=True)]
        order = sorted(range(len(items)), key=lambda i: repr(how[i]))
        with self._lock:
            for (prompt, side, _), rows in groupby(order, key=lambda i: how[i]):
                chosen = list(rows)
                texts = [str(items[row].payload) for row in chosen]
                with self._cutting(side):
                    vectors[chosen] = self._reference.encode(texts, prompt, AT_ONCE)
        return vectors

    def _forward_exactly(self, items: Sequence[Item]) -> Vectors:
        """Encode in float32: by a copy made of the model's files, which takes this one's place."""
        if self.facts.dtype != "float32":
            self._loaded = self._loaded.exactly()
            self._reference = Reference(self._loaded.modules)
            self.facts = replace(self.facts, dtype="float32")
        return self._forward(items)

    @contextmanager
    def _cutting(self, side: Truncate) -> Iterator[None]:
        """Have the library's tokenizer cut an input's start or end. Called with the lock held."""
        found: list[Any] = [getattr(m, "tokenizer", None) for m in self._loaded.modules.modules()]
        sides = [(each, each.truncation_side) for each in found if hasattr(each, "truncation_side")]
        if side == "left" and not sides:
            raise BadRequest("this model can keep only an input's start: truncate right or error")
        try:
            for tokenizer, usual in sides:
                tokenizer.truncation_side = side if side in ("left", "right") else usual
            yield
        finally:
            for tokenizer, usual in sides:
                tokenizer.truncation_side = usual

    def _release(self) -> None:
        del self._loaded, self._reference
