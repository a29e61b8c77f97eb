"""A tiny deterministic embedder without weights or torch, of `"type": "fake"`.

It serves tests, and trials of the API on a machine without torch. It is no language model: equal
texts have equal results, and that is all. It gives dense vectors; a name that ends in `+score`
makes it a reranker, and `+sparse` or `+dense+sparse+multi_vector` a model that gives these.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from embedders.base import (
    DENSE,
    Embedder,
    Encoded,
    Facts,
    Gone,
    Input,
    Item,
    Output,
    Pair,
    Prompt,
    Sparse,
    Truncate,
    Value,
    Vectors,
)
from errors import BadRequest, InputTooLong

BETWEEN = "\x1f"  # stands between the two texts of a pair


class FakeEmbedder(Embedder):
    """Hashes each text into `dimension` numbers; a token is a word."""

    def __init__(
        self, name: str = "fake", dimension: int = 8, max_tokens: int = 16, vocabulary: int = 1000
    ) -> None:
        fingerprint = hashlib.sha256(f"{name}/{dimension}".encode()).hexdigest()[:16]
        named = name.split("+")[1:]
        outputs = tuple(output for output in get_args(Output) if output in named) or DENSE
        scores = "score" in outputs
        self.facts = Facts(
            dimension=0 if scores or outputs == ("sparse",) else dimension, max_tokens=max_tokens,
            device="cpu", dtype="float32", backend="fake", fingerprint=fingerprint,
            vocabulary=vocabulary, outputs=outputs, labels=("relevance",) if scores else (),
            activation="sigmoid" if scores else "identity",
            prompts={} if scores else {"query": "query: ", "document": ""},
        )  # fmt: skip

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return each text's words; a token id becomes a word of digits."""
        return [self._item(i, given, prompt, truncate) for i, given in enumerate(inputs)]

    def _item(self, index: int, given: Input, prompt: Prompt, truncate: Truncate) -> Item:
        if not isinstance(given, str):
            vocabulary = self.facts.vocabulary or 0
            if any(not 0 <= token < vocabulary for token in given):
                raise BadRequest(f"token ids must be in 0..{vocabulary - 1}", index=index)
            given = " ".join(map(str, given))
        words = (prompt.text + given).split(" ")
        kept = self._cut(index, words, self.facts.max_tokens or len(words), truncate)
        return Item(" ".join(kept), len(kept), len(words) > len(kept))

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return the words of each query and document; a query keeps at most half of the limit."""
        items = []
        queries = {query: query.split(" ") for query in {pair.query for pair in pairs}}
        for index, pair in enumerate(pairs):
            query, document = queries[pair.query], pair.document.split(" ")
            limit = self.facts.max_tokens or len(query) + len(document)
            asked = self._cut(index, query, limit // 2, truncate)
            kept = self._cut(index, document, limit - len(asked), truncate)
            cut = len(asked) + len(kept) < len(query) + len(document)
            payload = " ".join(asked) + BETWEEN + " ".join(kept)
            items.append(Item(payload, len(asked) + len(kept), cut, outputs=("score",)))
        return items

    @staticmethod
    def _cut(index: int, words: list[str], limit: int, truncate: Truncate) -> list[str]:
        if len(words) > limit and truncate == "error":
            raise InputTooLong(f"it has {len(words)} tokens; the limit is {limit}", index=index)
        return words[-limit:] if truncate == "left" else words[:limit]

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return what each item asks for: `dense` are numbers in [-1, 1), one row a text."""
        columns: dict[Output, Any] = {}
        for output in self.facts.outputs:
            values = [
                self._value(str(item.payload), output) if output in item.outputs else None
                for item in items
            ]
            if output in ("dense", "score"):
                width = self.facts.dimension if output == "dense" else 1
                rows = np.zeros((len(items), width), np.float32)
                for row, value in zip(rows, values, strict=True):
                    row[:] = 0 if value is None else value
                columns[output] = rows
            else:
                columns[output] = values
        return Encoded(columns, [item.tokens for item in items])

    def trial(self, text: str = "ok") -> list[Item]:
        """Return a short input, or a pair for a model that reads pairs."""
        if "score" in self.facts.outputs:
            return self.prepare_pairs([Pair("ok", text)], Prompt(), "right")
        return super().trial(text)

    def terms(self, indices: Sequence[int]) -> list[str]:
        """Return the terms of a sparse vector's indices."""
        return [f"w{index}" for index in indices]

    def vector(self, text: str) -> np.ndarray:
        """Return the (dimension,) float32 vector of one text, before normalisation."""
        return _numbers(text).uniform(-1, 1, self.facts.dimension).astype(np.float32)

    def _value(self, text: str, output: Output) -> Value:
        words = text.split(" ")
        if output == "dense":
            return self.vector(text)
        if output == "multi_vector":
            rows = np.stack([self.vector(word) for word in words])
            units: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            return units
        if output == "sparse":
            weights = {self._index(word): _numbers(word).uniform(0.1, 3) for word in words}
            indices = np.array(sorted(weights), np.int32)
            return Sparse(indices, np.array([weights[i] for i in indices], np.float32))
        query, document = (set(part.split(" ")) for part in text.split(BETWEEN))
        shared = len(query & document) / len(query)  # of the query's words
        return np.array([8 * shared - 4 + _numbers(text).uniform(0, 0.5)], np.float32)

    def _index(self, word: str) -> int:
        return int(_numbers(word).integers(self.facts.vocabulary or 1))


def _numbers(text: str) -> np.random.Generator:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed)
