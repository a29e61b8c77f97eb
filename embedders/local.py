"""Runs transformer encoders: sentence-transformers models and bare Hugging Face ones.

Owns how inputs go through the network: tokenized in the caller's thread, padded or packed per pass,
pooled. Vectors equal those of `SentenceTransformer.encode`. Pooling and all that follows it are
float32 whatever the network's own precision. Models of other kinds are `whole.py`'s.
"""

import functools
import gc
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from config import ModelSettings, ModelSpec
from embedders.base import (
    Embedder,
    Encoded,
    Input,
    Item,
    Prompt,
    Truncate,
    Vectors,
)
from embedders.device import DeviceEmbedder
from embedders.graph import WIDEST, OnnxLayers, OpenVinoLayers
from embedders.layers import TorchLayers, cores
from embedders.loading import LoadedModel, apart, choose_dtype, load
from embedders.packed import Group, Make, Packed, pack
from embedders.parts import alike, shares_of
from embedders.tokens import TextTokenizer
from embedders.whole import WholeEmbedder
from errors import ModelUnavailable

log = logging.getLogger("embedders")

# More for each core gains nothing and makes others wait (51 us a token at 512, 53 at 1024).
CORE_TOKENS = 512


def local(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Load any model that sentence-transformers loads. Raises ModelUnavailable."""
    loaded = load(spec, settings)
    first = loaded.modules[0]
    fast = hasattr(getattr(first, "tokenizer", None), "backend_tokenizer")
    if hasattr(first, "auto_model") and fast:
        return apart(lambda: LocalEmbedder(loaded))
    return WholeEmbedder(loaded)


class LocalEmbedder(DeviceEmbedder):
    """One transformer encoder on one device."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._device = loaded.device
        dtype = choose_dtype(loaded.spec.dtype or loaded.settings.dtype, loaded.device)
        self._network, *self._heads = list(loaded.modules)
        self.skips_prompts = loaded.pooling is not None and not loaded.pooling.include_prompt
        tokenizer = self._network.tokenizer
        self._pad_id = tokenizer.pad_token_id or 0
        limit = _limit(self._network, loaded.wanted_tokens)
        if loaded.wanted_tokens and limit < loaded.wanted_tokens:
            log.warning("%s takes at most %d tokens", loaded.spec.id, limit)
        vocabulary = int(self._network.auto_model.get_input_embeddings().weight.shape[0])
        self._tokenizer = TextTokenizer(tokenizer.backend_tokenizer, limit, vocabulary)
        self._network.auto_model.to(dtype)
        backend = loaded.spec.backend or loaded.settings.backend
        self._packed = self._pack(dtype, backend, limit)
        self.pads = self._packed is None
        self.pass_tokens = CORE_TOKENS * cores() if self._packed else None
        name = self._packed.layers.name if self._packed else "torch"
        if backend not in ("auto", name):
            log.warning("%s runs by %s, %s is not for it", loaded.spec.id, name, backend)
        self.facts = loaded.facts(str(dtype).removeprefix("torch."), limit, vocabulary, name)

    def _pack(self, dtype: Any, backend: str, limit: int) -> Packed | None:
        """Pack the network's layers if they can be, and free the originals."""
        pools = bool(self._heads) and hasattr(self._heads[0], "include_prompt")
        if backend == "torch" or self._device.type != "cpu" or not pools:
            return None
        model = self._network.auto_model

        def plain(ids: Any, mask: Any) -> Any:
            return model(input_ids=ids, attention_mask=mask).last_hidden_state

        for make in _ways(backend, dtype, limit):
            try:
                packed = pack(model, dtype, plain, make)
            except ModelUnavailable as exc:
                if backend != "auto":
                    raise
                log.warning("%s", exc.message)
                continue
            if packed:
                del model.encoder
                return packed
        return None

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Tokenize in the caller's thread. See `TextTokenizer.prepare`."""
        items = self._tokenizer.prepare(inputs, prompt, truncate)
        if prompt.text and self.skips_prompts:
            skip = self._tokenizer.prompt_tokens(prompt)
            return [Item(i.payload, i.tokens, i.truncated, skip) for i in items]
        return items

    def encode_exactly(self, items: Sequence[Item]) -> Encoded:
        """Encode in float32, and put the network's own precision back. One thread at a time.

        Packed layers have one precision only, so there the pass is just made again.
        """
        if self._packed is not None:
            return self.encode(items)
        dtype = next(self._network.auto_model.parameters()).dtype
        self._network.auto_model.float()
        try:
            return Encoded(self._forward_padded(items), [item.tokens for item in items])
        finally:
            self._network.auto_model.to(dtype)  # exact: a float32 made of a bfloat16 is one

    def _modules(self) -> Sequence[Any]:
        return (self._network, *self._heads)

    def _forward(self, items: Sequence[Item]) -> Vectors:
        if self._packed is None:
            return self._forward_padded(items)
        lengths = [item.tokens for item in items]
        vectors = np.empty((len(items), self.facts.dimension), np.float32)
        if not self._packed.layers.shared:
            for rows in alike(lengths):
                work = _helpers().submit(self._forward_share, items, rows, cores())
                vectors[rows] = work.result()
            return vectors
        shares = shares_of(lengths, cores())
        each = cores() // len(shares)  # one short text: 8.5 ms, 18.5 on one of two cores
        running = [_helpers().submit(self._forward_share, items, rows, each) for rows in shares]
        for rows, share in zip(shares, running, strict=True):
            vectors[rows] = share.result()
        return vectors

    def _forward_share(self, items: Sequence[Item], rows: list[int], count: int) -> Vectors:
        """Encode some of the items on `count` cores. Returns (len(rows), d)."""
        import torch

        assert self._packed is not None
        _use_cores(count)
        share = [items[row] for row in rows]
        vectors = np.empty((len(share), self.facts.dimension), np.float32)
        with torch.inference_mode():
            for group in self._packed([item.payload for item in share]):  # type: ignore[misc]
                vectors[group.rows] = self._pool(group, [share[row].skip for row in group.rows])
        return vectors

    def _pool(self, group: Group, skips: Sequence[int]) -> Vectors:
        import torch

        mask = torch.ones(group.states.shape[:2], dtype=torch.int64)
        for row, skip in enumerate(skips):
            mask[row, :skip] = 0
        features = {"token_embeddings": group.states, "attention_mask": mask}
        for module in self._heads:
            features = module(features)
        vectors: Vectors = features["sentence_embedding"].float().numpy()
        return vectors

    def _forward_padded(self, items: Sequence[Item]) -> Vectors:
        import torch

        if self._device.type == "cpu":
            _use_cores(cores())
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

        del self._network, self._heads, self._packed
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    """Return the threads that compute packed passes, those of every model there is or will be.

    Always the same few: torch and oneDNN keep kernels and memory for each thread that ever computed
    (1.2 GB after 800 requests from 64 threads), and a model that is exchanged brings no new ones.
    """
    return ThreadPoolExecutor(cores(), "encode")


def _ways(backend: str, dtype: Any, limit: int) -> list[Make]:
    """Return what may compute a packed model's layers, the best for it first.

    In float32 ONNX Runtime is faster than torch's oneDNN, in bfloat16 it cannot compute; the
    figures are in docs/benchmarks.md, "Ways through the network on a CPU".
    """
    import torch

    if limit <= WIDEST:
        if backend in ("auto", "onnx") and dtype == torch.float32:
            return [OnnxLayers, TorchLayers]
        if backend == "openvino" and dtype != torch.float16:
            return [OpenVinoLayers, TorchLayers]
    return [TorchLayers]


def _use_cores(count: int) -> None:
    """Make the calling thread's operations use `count` cores: the setting is per thread."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _limit(transformer: Any, wanted: int | None) -> int:
    """Return the longest input in tokens: what is wanted, within what the network can take."""
    config = transformer.auto_model.config
    positions = int(getattr(config, "max_position_embeddings", 0) or 1 << 20)
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # these number positions from padding_idx + 1
    return min(wanted or transformer.max_seq_length or positions, positions)
