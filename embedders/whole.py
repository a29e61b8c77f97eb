"""Runs models that are no transformer with a fast tokenizer through the library's own `encode`.

Static embeddings, word averages, slow tokenizers: whatever sentence-transformers loads. One pass at
a time, since such a model's tokenizer may not be shared between threads.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from embedders.base import Input, Item, Prompt, Truncate, Vectors
from embedders.device import DeviceEmbedder
from embedders.loading import LoadedModel
from errors import BadRequest, InputTooLong


class WholeEmbedder(DeviceEmbedder):
    """A model that is run as a whole, texts in and vectors out."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model, self._device = loaded.modules, loaded.device
        self._lock = threading.Lock()
        limit = loaded.modules.max_seq_length
        known = limit is not None and limit < 1 << 30  # some say infinity
        if loaded.wanted_tokens and known:
            limit = min(limit, loaded.wanted_tokens)
            loaded.modules.max_seq_length = limit
        self.facts = loaded.facts("float32", int(limit) if known else None, None)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Put the prompt before each text and count tokens. Takes texts only."""
        return [self._item(i, given, prompt, truncate) for i, given in enumerate(inputs)]

    def _item(self, index: int, given: Input, prompt: Prompt, truncate: Truncate) -> Item:
        if not isinstance(given, str):
            raise BadRequest(f"input {index}: this model takes texts, not token ids", param="input")
        text = prompt.text + given
        count = self._count(text)
        limit = self.facts.max_tokens
        if limit is None or count <= limit:
            return Item(text, max(1, count))
        if truncate == "error":
            raise InputTooLong(f"input {index} has {count} tokens; the limit is {limit}")
        if truncate == "left":
            raise BadRequest("this model can keep only an input's start: truncate right or error")
        return Item(text, limit, truncated=True)

    def _count(self, text: str) -> int:
        tokenizer: Any = getattr(self._model, "tokenizer", None)
        with self._lock:
            if hasattr(tokenizer, "encode"):
                encoding = tokenizer.encode(text)
                return len(getattr(encoding, "ids", encoding))
        return len(text.split())

    def _forward(self, items: Sequence[Item]) -> Vectors:
        """Encode as `SentenceTransformer.encode` does without a prompt."""
        texts = [str(item.payload) for item in items]
        with self._lock:
            vectors = self._model.encode(texts, prompt="", show_progress_bar=False)
        return np.ascontiguousarray(vectors, np.float32)

    def _modules(self) -> Sequence[Any]:
        return (self._model,)
