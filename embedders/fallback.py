"""Runs a model by the library's own `encode`, where no faster backend is proven equal to it.

Word averages, routers, chat templates, networks that read more than token ids. One pass at a time,
as threads cannot share such a model's tokenizer.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from embedders.base import Encoded, Input, Item, Output, Prompt, Truncate, Value
from embedders.device import DeviceEmbedder
from embedders.loading import LoadedModel
from embedders.proof import Reference
from errors import BadRequest, InputTooLong, Invalid

# Texts in one call of the tokenizer, and in one batch of `encode` (its default).
AT_ONCE = 32


class FallbackEmbedder(DeviceEmbedder):
    """A model that runs as a whole, from texts to vectors."""

    portable = False  # the prompt, its side of a retrieval and the cut decide the vector too

    def __init__(
        self, loaded: LoadedModel, reference: Reference, limit: int | None, *notes: str,
        output: Output = "dense",
    ) -> None:  # fmt: skip
        self._loaded, self._device = loaded, loaded.device
        self._reference, self._output = reference, output
        self._lock = threading.Lock()
        facts = loaded.facts(limit, None, "library", *notes)
        self.facts = replace(facts, outputs=(output,))

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the texts with the number of tokens that the library reads of each.

        Raises BadRequest for token ids, InputTooLong or Invalid, with the input's index.
        """
        for i, given in enumerate(inputs):
            if not isinstance(given, str):
                raise BadRequest("this model takes texts, not token ids", param="input", index=i)
        items: list[Item] = []
        for start in range(0, len(inputs), AT_ONCE):
            texts = [str(given) for given in inputs[start : start + AT_ONCE]]
            with self._lock, self._cutting(truncate):
                read = self._reference.counts(texts, prompt)
                whole = self._reference.counts(texts, prompt, truncation=False)
                for i, (text, count, full) in enumerate(
                    zip(texts, read, whole, strict=True), start
                ):
                    if full > count and truncate == "error":
                        raise InputTooLong(f"it has {full} tokens; the limit is {count}", index=i)
                    if count == 0 and not self._reference.reads_nothing(prompt):
                        what = "it has no token that this model reads"
                        raise Invalid(what, param="input", index=i)
                    items.append(Item(text, count, full > count, prompt=prompt, side=truncate))
        return items

    def _forward(self, items: Sequence[Item]) -> Encoded:
        """Return what the library's `encode` gives."""
        values: dict[int, Value] = {}
        how = [(i.prompt, i.side, i.tokens if self.one_length else 0) for i in items]
        order = sorted(range(len(items)), key=lambda i: repr(how[i]))
        with self._lock:
            for (prompt, side, _), rows in groupby(order, key=lambda i: how[i]):
                chosen = list(rows)
                texts = [str(items[row].payload) for row in chosen]
                with self._cutting(side):
                    found = self._reference.values(texts, prompt, AT_ONCE)
                values.update(zip(chosen, found, strict=True))
        column = [values[i] for i in range(len(items))]
        tokens = [item.tokens for item in items]
        if self._output == "dense":
            return Encoded.dense(np.stack(column), tokens)
        return Encoded({self._output: column}, tokens)

    def _forward_exactly(self, items: Sequence[Item]) -> Encoded:
        """Return the same in float32, of a model loaded again that replaces this one."""
        if self.facts.dtype != "float32":
            self._loaded = self._loaded.exactly()
            self._reference = type(self._reference)(self._loaded.modules)
            self.facts = replace(self.facts, dtype="float32")
        return self._forward(items)

    @contextmanager
    def _cutting(self, side: Truncate) -> Iterator[None]:
        """Make the library's tokenizer cut an input's start or end. Needs the lock."""
        found: list[Any] = [getattr(m, "tokenizer", None) for m in self._loaded.modules.modules()]
        sides = [(each, each.truncation_side) for each in found if hasattr(each, "truncation_side")]
        if side == "left" and not sides:
            raise BadRequest("this model can cut only an input's end: truncate right or error")
        try:
            for tokenizer, usual in sides:
                tokenizer.truncation_side = side if side in ("left", "right") else usual
            yield
        finally:
            for tokenizer, usual in sides:
                tokenizer.truncation_side = usual

    def _release(self) -> None:
        del self._loaded, self._reference
