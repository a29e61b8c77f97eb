"""Runs transformer encoders: sentence-transformers models and bare Hugging Face ones.

Owns how inputs go through the network: tokenized in the caller's thread, padded per pass, pooled.
Vectors equal those of `SentenceTransformer.encode`. Pooling and all that follows it are float32
whatever the network's own precision. Models of other kinds are `whole.py`'s.
"""

import gc
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from config import ModelSettings, ModelSpec
from embedders.base import (
    DeviceBroken,
    Embedder,
    Encoded,
    Input,
    Item,
    OutOfMemory,
    Prompt,
    Truncate,
    Vectors,
)
from embedders.loading import LoadedModel, choose_dtype, load
from embedders.tokens import TextTokenizer
from embedders.whole import WholeEmbedder

log = logging.getLogger("embedders")


def local(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Load any model that sentence-transformers loads. Raises ModelUnavailable."""
    loaded = load(spec, settings)
    first = loaded.modules[0]
    fast = hasattr(getattr(first, "tokenizer", None), "backend_tokenizer")
    if hasattr(first, "auto_model") and fast:
        return LocalEmbedder(loaded)
    return WholeEmbedder(loaded)


class LocalEmbedder(Embedder):
    """One transformer encoder on one device."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._device = loaded.device
        dtype = choose_dtype(loaded.spec.dtype or loaded.settings.dtype, loaded.device)
        self._network, *self._heads = list(loaded.modules)
        self._skips_prompts = loaded.pooling is not None and not loaded.pooling.include_prompt
        tokenizer = self._network.tokenizer
        self._pad_id = tokenizer.pad_token_id or 0
        limit = _limit(self._network, loaded.wanted_tokens)
        if loaded.wanted_tokens and limit < loaded.wanted_tokens:
            log.warning("%s takes at most %d tokens", loaded.spec.id, limit)
        vocabulary = int(self._network.auto_model.get_input_embeddings().weight.shape[0])
        self._tokenizer = TextTokenizer(tokenizer.backend_tokenizer, limit, vocabulary)
        self._network.auto_model.to(dtype)
        self.facts = loaded.facts(str(dtype).removeprefix("torch."), limit, vocabulary)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Tokenize in the caller's thread. See `TextTokenizer.prepare`."""
        items = self._tokenizer.prepare(inputs, prompt, truncate)
        if prompt.text and self._skips_prompts:
            skip = self._tokenizer.prompt_tokens(prompt)
            return [Item(i.payload, i.tokens, i.truncated, skip) for i in items]
        return items

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Run one pass over all `items`, padded to the longest. Returns (n, d) float32."""
        import torch

        try:
            return Encoded(self._forward(items), [item.tokens for item in items])
        except torch.cuda.OutOfMemoryError:
            failure: Exception = OutOfMemory("the GPU's memory is full")
        except torch.AcceleratorError as exc:  # sticky: the context is lost to this process
            failure = DeviceBroken(f"the device failed ({type(exc).__name__})")
        if isinstance(failure, OutOfMemory):  # outside of `except`: that holds the pass's tensors
            torch.cuda.empty_cache()
        raise failure

    def encode_exactly(self, items: Sequence[Item]) -> Encoded:
        """Encode in float32, and put the network's own precision back. One thread at a time."""
        dtype = next(self._network.auto_model.parameters()).dtype
        self._network.auto_model.float()
        try:
            return self.encode(items)
        finally:
            self._network.auto_model.to(dtype)  # exact: a float32 made of a bfloat16 is one

    def _forward(self, items: Sequence[Item]) -> Vectors:
        import torch

        features = {k: v.to(self._device) for k, v in self._features(items).items()}
        with torch.inference_mode():
            features = self._network(features)
            features["token_embeddings"] = features["token_embeddings"].float()
            for row, item in enumerate(items):
                if item.skip:
                    features["attention_mask"][row, : item.skip] = 0
            for module in self._heads:
                features = module(features)
            vectors = features["sentence_embedding"].float().cpu().numpy()
        return np.ascontiguousarray(vectors, np.float32)

    def _features(self, items: Sequence[Item]) -> dict[str, Any]:
        import torch

        width = max(item.tokens for item in items)
        ids = np.full((len(items), width), self._pad_id, np.int64)
        mask = np.zeros((len(items), width), np.int64)
        for row, item in enumerate(items):
            ids[row, : item.tokens] = item.payload
            mask[row, : item.tokens] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def close(self) -> None:
        """Free the model's memory."""
        import torch

        del self._network, self._heads
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _limit(transformer: Any, wanted: int | None) -> int:
    """Return the longest input in tokens: what is wanted, within what the network can take."""
    config = transformer.auto_model.config
    positions = int(getattr(config, "max_position_embeddings", 0) or 1 << 20)
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # these number positions from padding_idx + 1
    return min(wanted or transformer.max_seq_length or positions, positions)
