"""Runs a model by the library's own `encode`, where no faster backend is proven equal to it.

Word averages, routers, chat templates, networks that read more than token ids. One pass at a time,
as threads cannot share such a model's tokenizer.
"""

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from embedders import proven
from embedders.base import (
    Column,
    Embedder,
    Encoded,
    Facts,
    Input,
    Item,
    Output,
    Pair,
    Prompt,
    Token,
    Truncate,
    Value,
    no_tokens,
)
from embedders.device import DeviceEmbedder, meaning
from embedders.loading import LoadedModel
from embedders.proof import Proof, Reference, StatesReference
from embedders.tokens import MOST_TOKENS
from embedders.vocabulary import bare, texts_of, tokens_of
from errors import BadRequest, InputTooLong, Invalid

STATES: tuple[Output, ...] = ("tokens",)
# Texts in one call of the tokenizer, and in one batch of `encode` (its default).
AT_ONCE = 32


class LibraryEmbedder(DeviceEmbedder):
    """A model that the library runs as a whole, from texts to results, one pass at a time."""

    portable = False  # the prompt, its side of a retrieval and the cut decide the result too

    def __init__(self, loaded: LoadedModel, library: Any, facts: Facts) -> None:
        """Take what calls the library's model; its class makes another one for a copy."""
        self._loaded, self._device = loaded, loaded.device
        self._library, self.facts = library, facts
        self._lock = threading.Lock()

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """Return the tokens of each whole input. Raises BadRequest for a tokenizer of its own."""
        return tokens_of(self._words, inputs, prompt.text, special=special)

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the text of each list of token ids. Raises BadRequest as `tokenize`."""
        return texts_of(self._words, ids, skip_special=skip_special)

    @functools.cached_property
    def _words(self) -> Tokenizer:
        """A copy of the one tokenizer that the model has."""
        modules = self._loaded.modules.modules()
        found = {id(each): each for m in modules if (each := getattr(m, "tokenizer", None))}
        own = next(iter(found.values()), None)
        if len(found) != 1 or not hasattr(own, "backend_tokenizer"):
            raise no_tokens()
        with self._lock:
            return bare(own.backend_tokenizer)  # type: ignore[union-attr]

    def _values(self, items: Sequence[Item]) -> Sequence[Value]:
        """Return the results of items of one prompt and one side that is cut. Needs the lock."""
        raise NotImplementedError

    def _forward(self, items: Sequence[Item]) -> Encoded:
        """Return what the library gives."""
        values: dict[int, Value] = {}
        how = [
            (i.prompt, i.side, i.outputs == STATES, i.tokens if self.one_length else 0)
            for i in items
        ]
        order = sorted(range(len(items)), key=lambda row: repr(how[row]))
        with self._lock:
            for _, group in groupby(order, key=lambda row: how[row]):
                rows = list(group)
                found = self._values([items[row] for row in rows])
                values.update(zip(rows, found, strict=True))
        columns: dict[Output, Column] = {}
        for output, states in (self.facts.outputs[0], False), (STATES[0], True):
            wanted = [(item.outputs == STATES) is states for item in items]
            column = [values[row] if wants else None for row, wants in enumerate(wanted)]
            if all(wanted) and output in ("dense", "score"):
                columns[output] = np.stack(column)  # type: ignore[arg-type]
            elif any(wanted):
                columns[output] = column
        return Encoded(columns, [item.tokens for item in items])

    def _forward_exactly(self, items: Sequence[Item]) -> Encoded:
        """Return the same in float32, of a model loaded again that replaces this one."""
        if self.facts.dtype != "float32":
            exact = self._loaded.exactly()
            with self._lock:  # texts are prepared meanwhile
                self._loaded, self._library = exact, type(self._library)(exact.modules)
            self.facts = replace(self.facts, dtype="float32")
        return self._forward(items)

    def _release(self) -> None:
        del self._loaded, self._library


class FallbackEmbedder(LibraryEmbedder):
    """A model of texts: dense, sparse or multi-vector."""

    _library: Reference

    def __init__(
        self, loaded: LoadedModel, reference: Reference, limit: int | None, *notes: str,
        output: Output = "dense",
    ) -> None:  # fmt: skip
        facts = loaded.facts(limit, None, "library", *notes)
        width = token_dimension(reference) if output == "dense" else 0
        facts = replace(facts, outputs=(output,), token_dimension=width)
        super().__init__(loaded, reference, facts)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the texts with the number of tokens that the library reads of each.

        Raises BadRequest for token ids, InputTooLong or Invalid, with the input's index.
        """
        refuse_lower_limit(prompt, self.facts.max_tokens)
        for i, given in enumerate(inputs):
            if not isinstance(given, str):
                raise BadRequest("this model takes texts, not token ids", param="input", index=i)
        items: list[Item] = []
        for start in range(0, len(inputs), AT_ONCE):
            texts = [str(given) for given in inputs[start : start + AT_ONCE]]
            with self._lock, self._cutting(truncate):
                read = self._library.counts(texts, prompt)
                whole = self._library.counts(texts, prompt, truncation=False)
                for i, (text, count, full) in enumerate(
                    zip(texts, read, whole, strict=True), start
                ):
                    if full > count and truncate == "error":
                        raise InputTooLong(f"it has {full} tokens; the limit is {count}", index=i)
                    if count == 0 and not self._library.reads_nothing(prompt):
                        what = "it has no token that this model reads"
                        raise Invalid(what, param="input", index=i)
                    items.append(Item(text, count, full > count, prompt=prompt, side=truncate))
        return items

    def _values(self, items: Sequence[Item]) -> Sequence[Value]:
        texts = [str(item.payload) for item in items]
        with self._cutting(items[0].side):
            if items[0].outputs == STATES:
                return StatesReference(self._library.model).values(texts, items[0].prompt, 1)
            return self._library.values(texts, items[0].prompt, AT_ONCE)

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


def token_dimension(reference: Reference) -> int:
    """Return how many numbers the state of a token has, 0 for a model that has no such states."""
    try:
        (states,) = StatesReference(reference.model).values(["ok"], Prompt(), 1)
    except Exception as exc:
        if meaning(exc) is not exc:
            raise
        return 0
    assert isinstance(states, np.ndarray)
    return int(states.shape[-1]) if states.ndim == 2 else 0


def refuse_lower_limit(prompt: Prompt, most: int | None) -> None:
    """Raise BadRequest for a request's limit below the model's, which the library cannot take."""
    lowest = min(prompt.limit or MOST_TOKENS, prompt.document_limit or MOST_TOKENS)
    if lowest < (most or MOST_TOKENS):
        raise BadRequest(f"this model cuts inputs at its own limit of {most} tokens only")


def proven_or_library(
    loaded: LoadedModel, limit: int, backends: Sequence[proven.Backend], reference: Reference,
    output: Output = "dense",
) -> Embedder:  # fmt: skip
    """Return the first backend whose results equal the reference's, or the library's own.

    `limit` is how many tokens the model reads.
    """
    shown = limit if limit < MOST_TOKENS else None
    return proven.choose(
        loaded, limit, backends,
        Proof(reference, limit, half=loaded.dtype.itemsize < 4, quantized=loaded.quantized),
        lambda note: FallbackEmbedder(loaded, reference, shown, note, output=output),
    )  # fmt: skip
