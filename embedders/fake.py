"""A tiny deterministic embedder without weights or torch, of `"type": "fake"`.

It serves tests, and trials of the API on a machine without torch. It is no language model: equal
texts have equal results, and that is all. It gives dense vectors; a name that ends in `+score`
makes it a reranker, `+score+label` a classifier of two labels, and `+sparse` or
`+dense+sparse+multi_vector` a model that gives these. A dense one gives the states of its tokens
too, which are its words, and vectors of chunks, which are the mean of their words' states.
"""

import hashlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
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
    Token,
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
        labels = ("no", "yes") if "label" in named else ("relevance",)
        self.facts = Facts(
            dimension=0 if scores or outputs == ("sparse",) else dimension, max_tokens=max_tokens,
            device="cpu", dtype="float32", backend="fake", fingerprint=fingerprint,
            vocabulary=vocabulary, outputs=outputs, labels=labels if scores else (),
            activation=("softmax" if len(labels) > 1 else "sigmoid") if scores else "identity",
            token_dimension=dimension if outputs[0] == "dense" else 0,
            pools_chunks=outputs == DENSE,
            prompts={} if scores else {"query": "query: ", "document": ""},
        )  # fmt: skip

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return each text's words; a token id becomes a word of digits."""
        if self.facts.kind == "reranker":
            raise BadRequest("this model scores pairs: send them to /rerank", param="model")
        return [self._item(i, given, prompt, truncate) for i, given in enumerate(inputs)]

    def _item(self, index: int, given: Input, prompt: Prompt, truncate: Truncate) -> Item:
        if not isinstance(given, str):
            vocabulary = self.facts.vocabulary or 0
            if any(not 0 <= token < vocabulary for token in given):
                raise BadRequest(f"token ids must be in 0..{vocabulary - 1}", index=index)
            given = " ".join(map(str, given))
        words = (prompt.text + given).split(" ")
        most = min(self.facts.max_tokens or len(words), prompt.limit or len(words))
        kept = self._cut(index, words, most, truncate)
        return Item(" ".join(kept), len(kept), len(words) > len(kept))

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return the words of each query and document; a query keeps at most half of the limit."""
        items = []
        queries = {query: query.split(" ") for query in {pair.query for pair in pairs}}
        for index, pair in enumerate(pairs):
            query, document = queries[pair.query], pair.document.split(" ")
            both = len(query) + len(document)
            limit = self.facts.max_tokens or both
            limit = min(limit, prompt.limit or limit)
            asked = self._cut(index, query, limit // 2, truncate)
            most = min(limit - len(asked), prompt.document_limit or limit)
            kept = self._cut(index, document, most, truncate)
            cut = len(asked) + len(kept) < len(query) + len(document)
            payload = " ".join(asked) + BETWEEN + " ".join(kept)
            items.append(Item(payload, len(asked) + len(kept), cut, outputs=("score",)))
        return items

    def prepare_chunks(
        self, documents: Sequence[Sequence[str]], prompt: Prompt, truncate: Truncate | None
    ) -> list[Item]:
        """Return the words of each document. The prompt's are of its first chunk."""
        items, first = [], 0
        for chunks in documents:
            counts = [len(chunk.split(" ")) for chunk in chunks]
            words = (prompt.text + " ".join(chunks)).split(" ")
            counts[0] += len(words) - sum(counts)
            ends = list(accumulate(counts))
            most = min(self.facts.max_tokens or len(words), prompt.limit or len(words))
            whole = truncate in (None, "error")
            for number, (start, end) in enumerate(pairwise([0, *ends])):
                if start >= most or (whole and end > most):
                    what = "nothing" if start >= most else "not all"
                    told = f"{what} of this chunk is read"
                    raise InputTooLong(told, param="input", index=first + number)
            spans = tuple((a, min(b, most)) for a, b in pairwise([0, *ends]))
            kept, cut = words[:most], len(words) > most
            items.append(Item(" ".join(kept), len(kept), cut, outputs=("chunks",), spans=spans))
            first += len(chunks)
        return items

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """Return the words of each text; there are no special ones."""
        found = []
        for given in inputs:
            texts = given if isinstance(given, Pair) else (given,)
            tokens: list[Token] = []
            for place, text in enumerate(texts):
                text, start = text if place else prompt.text + text, 0
                for word in text.split(" "):
                    tokens.append(Token(self._id(word), word, False, start, start + len(word)))
                    start += len(word) + 1
            found.append(tokens)
        return found

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the words of token ids, which are their digits."""
        for index, each in enumerate(ids):
            if any(not 0 <= token < (self.facts.vocabulary or 0) for token in each):
                raise BadRequest("a token id is not in this model's vocabulary", index=index)
        return [" ".join(map(str, each)) for each in ids]

    def _id(self, word: str) -> int:
        known = self.facts.vocabulary or 1
        is_id = word.isdecimal() and word.isascii() and len(word) < 9 and int(word) < known
        return int(word) if is_id else self._index(word)

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
        for output in get_args(Output):
            if output not in self.facts.outputs and not any(output in i.outputs for i in items):
                continue
            values = [
                self._value(item, output) if output in item.outputs else None for item in items
            ]
            if output in ("dense", "score"):
                width = self.facts.dimension if output == "dense" else len(self.facts.labels)
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

    def _value(self, item: Item, output: Output) -> Value:
        text = str(item.payload)
        words = text.split(" ")
        if output == "dense":
            return self.vector(text)
        if output == "multi_vector":
            rows = np.stack([self.vector(word) for word in words])
            units: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            return units
        if output in ("tokens", "chunks"):
            states = np.stack([self.vector(word) for word in words])
            if output == "tokens":
                return states
            return np.stack([states[start:end].mean(axis=0) for start, end in item.spans])
        if output == "sparse":
            weights = {self._index(word): _numbers(word).uniform(0.1, 3) for word in words}
            indices = np.array(sorted(weights), np.int32)
            return Sparse(indices, np.array([weights[i] for i in indices], np.float32))
        if len(self.facts.labels) > 1:  # of a text alone or of a pair
            return _numbers(text).uniform(-3, 3, len(self.facts.labels)).astype(np.float32)
        query, document = (set(part.split(" ")) for part in text.split(BETWEEN))
        shared = len(query & document) / len(query)  # of the query's words
        return np.array([8 * shared - 4 + _numbers(text).uniform(0, 0.5)], np.float32)

    def _index(self, word: str) -> int:
        return int(_numbers(word).integers(self.facts.vocabulary or 1))


def _numbers(text: str) -> np.random.Generator:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed)
