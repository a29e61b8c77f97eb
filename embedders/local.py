"""Runs sentence-transformers models, and bare Hugging Face encoders, on this machine.

Owns a loaded model: its tokenizer, its modules and where they run. Encodes what the batcher hands
it, already tokenized and of like length. Vectors equal those of `SentenceTransformer.encode`.
Pooling and all that follows it are float32 whatever the network's own precision.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from config import ModelSettings, ModelSpec
from embedders import weights
from embedders.base import Embedder, Encoded, Facts, Input, Item, Prompt, Truncate, Vectors
from embedders.tokens import TextTokenizer
from errors import ModelUnavailable

log = logging.getLogger("embedders")
_loading = threading.Lock()  # the libraries' imports and loaders are not made for two threads


class LocalEmbedder(Embedder):
    """One loaded model on one device. Loading happens in the constructor.

    Raises ModelUnavailable, with a reason a person can act on, if the model cannot be used.
    """

    def __init__(self, spec: ModelSpec, settings: ModelSettings) -> None:
        folder = weights.find(
            spec.model_name,
            spec.revision,
            settings.model_cache_dir,
            settings.hf_token.get_secret_value() if settings.hf_token else None,
        )
        digest = weights.check(folder, spec.model_name)
        self._device = choose_device(spec.device or settings.device)
        self._dtype = choose_dtype(spec.dtype or settings.dtype, self._device)
        with _loading:
            self._model = _load(folder, self._device, spec.model_name)
        self._pooling = next((m for m in self._model if hasattr(m, "include_prompt")), None)
        self._tokenizer = self._make_tokenizer(spec, settings)
        self._network = self._model[0]
        self._network.auto_model.to(self._dtype)
        self.facts = self._describe(spec, settings, digest)

    def _make_tokenizer(self, spec: ModelSpec, settings: ModelSettings) -> TextTokenizer:
        first = self._model[0]
        tokenizer: Any = getattr(first, "tokenizer", None)
        if not hasattr(first, "auto_model") or not hasattr(tokenizer, "backend_tokenizer"):
            raise ModelUnavailable(
                f"{spec.model_name!r} begins with {type(first).__name__}; "
                "a transformer with a fast tokenizer is needed"
            )
        wanted = spec.max_seq_length or settings.max_seq_length
        limit = _limit(first, wanted)
        if wanted and limit < wanted:
            log.warning("%s takes at most %d tokens, not %d", spec.id, limit, wanted)
        self._pad_id = tokenizer.pad_token_id or 0
        vocabulary = first.auto_model.get_input_embeddings().weight.shape[0]
        return TextTokenizer(tokenizer.backend_tokenizer, limit, vocabulary)

    def _describe(self, spec: ModelSpec, settings: ModelSettings, digest: str) -> Facts:
        model = self._model
        prompts = {**model.prompts, **spec.prompts}
        default = spec.default_prompt_name or model.default_prompt_name
        if default is not None and default not in prompts:
            known = ", ".join(sorted(prompts))
            raise ModelUnavailable(f"default_prompt_name {default!r} is none of: {known}")
        pooling = getattr(self._pooling, "pooling_mode", None)
        normalize = settings.normalize if spec.normalize is None else spec.normalize
        exact = str(self._dtype) == "torch.float32"
        identity = [
            digest,
            [type(module).__name__ for module in model],
            pooling,
            self._tokenizer.max_tokens,
            prompts,
            normalize,
            "full" if exact else "half",
        ]
        return Facts(
            dimension=int(model.get_embedding_dimension()),
            max_tokens=self._tokenizer.max_tokens,
            device=str(self._device),
            dtype=str(self._dtype).removeprefix("torch."),
            fingerprint=_fingerprint(identity),
            revision=spec.revision,
            pooling=str(pooling) if pooling else None,
            vocabulary=int(self._network.auto_model.get_input_embeddings().weight.shape[0]),
            prompts=prompts,
            default_prompt_name=default,
        )

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Tokenize in the caller's thread. See `TextTokenizer.prepare`."""
        items = self._tokenizer.prepare(inputs, prompt, truncate)
        if prompt.text and self._pooling is not None and not self._pooling.include_prompt:
            skip = self._tokenizer.prompt_tokens(prompt)
            return [Item(i.payload, i.tokens, i.truncated, skip) for i in items]
        return items

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Run one pass over all `items`, padded to the longest. Returns (n, d) float32."""
        import torch

        try:
            return Encoded(self._forward(items), [item.tokens for item in items])
        except torch.cuda.OutOfMemoryError as exc:
            exc.__traceback__ = None  # it holds the failed pass's tensors
            failure = exc
        torch.cuda.empty_cache()
        raise failure

    def _forward(self, items: Sequence[Item]) -> Vectors:
        import torch

        features = {k: v.to(self._device) for k, v in self._features(items).items()}
        with torch.inference_mode():
            features = self._network(features)
            features["token_embeddings"] = features["token_embeddings"].float()
            for row, item in enumerate(items):
                if item.skip:
                    features["attention_mask"][row, : item.skip] = 0
            for module in list(self._model)[1:]:
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
        import gc

        import torch

        del self._model, self._network, self._pooling
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def choose_device(wanted: str) -> Any:
    """Return the torch device for `cpu`, `cuda`, `cuda:N`, `mps` or `auto`.

    Raises ModelUnavailable for one that this machine does not have.
    """
    import torch

    cuda = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(wanted)
    count = torch.cuda.device_count() if cuda else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ModelUnavailable(
            f"DEVICE={wanted}: this machine has {count} CUDA devices; use cpu or auto"
        )
    if device.type == "mps" and not mps:
        raise ModelUnavailable("DEVICE=mps: this machine has no Apple GPU; use cpu or auto")
    return device


def choose_dtype(wanted: str, device: Any) -> Any:
    """Return the torch dtype; `auto` is bfloat16 where the hardware computes in it natively."""
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def _cpu_has_bfloat16() -> bool:
    """Tell whether the CPU multiplies bfloat16 matrices natively (AVX512-BF16 or AMX)."""
    import torch

    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag, bool)() for flag in flags)


def _load(folder: Path, device: Any, name: str) -> Any:
    """Load the modules in float32, without the network and without the repository's code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from sentence_transformers import SentenceTransformer

    started = time.monotonic()
    try:
        model = SentenceTransformer(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
    except Exception as exc:
        raise ModelUnavailable(f"{name!r} cannot be loaded: {_one_line(exc)}") from exc
    log.info("loaded %s on %s in %.1f s", name, device, time.monotonic() - started)
    return model.eval()


def _one_line(exc: Exception) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text[:300]}"


def _limit(transformer: Any, wanted: int | None) -> int:
    """Return the longest input in tokens: what is wanted, within what the network can take."""
    config = transformer.auto_model.config
    positions = int(getattr(config, "max_position_embeddings", 0) or 1 << 20)
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # these number positions from padding_idx + 1
    return min(wanted or transformer.max_seq_length or positions, positions)


def _fingerprint(identity: object) -> str:
    """Return 16 hex digits that differ whenever vectors of equal texts may differ."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
