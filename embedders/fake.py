"""A tiny deterministic embedder without weights or torch, of `"type": "fake"`.

It serves tests, and trials of the API on a machine without torch. It is no language model: equal
texts have equal vectors, and that is all.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from embedders.base import Embedder, Encoded, Facts, Gone, Input, Item, Prompt, Truncate
from errors import BadRequest, InputTooLong


class FakeEmbedder(Embedder):
    """Hashes each text into `dimension` numbers; a token is a word."""

    def __init__(
        self, name: str = "fake", dimension: int = 8, max_tokens: int = 16, vocabulary: int = 1000
    ) -> None:
        fingerprint = hashlib.sha256(f"{name}/{dimension}".encode()).hexdigest()[:16]
        self.facts = Facts(
            dimension=dimension, max_tokens=max_tokens, device="cpu", dtype="float32",
            backend="fake", fingerprint=fingerprint, vocabulary=vocabulary,
            prompts={"query": "query: ", "document": ""},
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
        limit = self.facts.max_tokens or len(words)
        if len(words) > limit and truncate == "error":
            raise InputTooLong(f"it has {len(words)} tokens; the limit is {limit}", index=index)
        kept = words[-limit:] if truncate == "left" else words[:limit]
        return Item(" ".join(kept), len(kept), len(words) > limit)

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return (n, dimension) float32 numbers in [-1, 1), one row a text."""
        vectors = np.empty((len(items), self.facts.dimension), np.float32)
        for row, item in enumerate(items):
            vectors[row] = self.vector(str(item.payload))
        return Encoded.dense(vectors, [item.tokens for item in items])

    def vector(self, text: str) -> np.ndarray:
        """Return the (dimension,) float32 vector of one text, before normalisation."""
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).uniform(-1, 1, self.facts.dimension).astype(np.float32)
