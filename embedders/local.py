"""Runs transformer encoders: sentence-transformers models and bare Hugging Face ones.

Owns how inputs go through the network: tokenized in the caller's thread, padded or packed per pass,
pooled. Pooling and all that follows it are float32 whatever the network's own dtype. That vectors
equal those of `SentenceTransformer.encode` is proven at each load by `ways.py`, which chooses.
"""

import functools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from embedders.base import Input, Item, OutOfMemory, Prompt, Truncate, Vectors
from embedders.device import DeviceEmbedder
from embedders.layers import cores
from embedders.limits import Limits
from embedders.loading import LoadedModel
from embedders.packed import Make, Packed
from embedders.parts import alike, shares_of
from embedders.reference import by_length
from embedders.tokens import TextTokenizer

log = logging.getLogger("embedders")

# More for each core gains nothing and makes others wait (51 us a token at 512, 53 at 1024).
CORE_TOKENS = 512


class LocalEmbedder(DeviceEmbedder):
    """One transformer encoder on one device."""

    def __init__(self, loaded: LoadedModel, limits: Limits, make: Make | None = None) -> None:
        """Run the network as it is, padded, or with `make` a packed copy of its layers."""
        self._loaded, self._device = loaded, loaded.device
        self._network, self._heads = next(iter(loaded.modules)), loaded.heads()
        self._skips = loaded.pooling is not None and not loaded.pooling.include_prompt
        self.portable = not self._skips
        tokenizer = self._network.tokenizer
        self._pad_id = tokenizer.pad_token_id or 0
        self._special = frozenset(tokenizer.all_special_ids)
        # Passes of texts of one length, for a network that lets padding change a text's vector.
        self.alike = False
        vocabulary = int(self._network.auto_model.get_input_embeddings().weight.shape[0])
        self._tokenizer = TextTokenizer(
            tokenizer.backend_tokenizer, limits, vocabulary, side=tokenizer.truncation_side
        )
        self._packed: Packed | None = None
        if make is not None:
            self._packed = Packed(self._network.auto_model, loaded.dtype, make)
            self.pads, self.pass_tokens = False, CORE_TOKENS * cores()
        self._exact: LocalEmbedder | None = None  # in float32, since a pass was not finite
        self._no_exact = False
        self._passes = self._failed_at = 0
        name = self._packed.layers.name if self._packed else "torch"
        self.facts = loaded.facts(limits.most, vocabulary, name)

    def settle(self) -> None:
        """Free the network that a packed copy replaces: nothing else will run it."""
        if self._packed is not None:
            for name, _ in list(self._network.auto_model.named_children()):
                delattr(self._network.auto_model, name)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Tokenize in the caller's thread. See `TextTokenizer.prepare`."""
        items = self._tokenizer.prepare(inputs, prompt, truncate)
        if prompt.text and self._skips:
            skip = self._tokenizer.prompt_tokens(prompt, self._special)
            return [Item(i.payload, i.tokens, i.truncated, skip) for i in items]
        return items

    def _forward(self, items: Sequence[Item]) -> Vectors:
        self._passes += 1
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

    def _forward_exactly(self, items: Sequence[Item]) -> Vectors:
        """Encode in float32, by a copy of the model made of its files.

        When two passes in a row were not finite the copy takes this network's place: the dtype is
        not for this model, and no pass shall be made twice for ever.
        """
        if self.facts.dtype == "float32":
            return self._forward(items)
        if self._exact is None:
            if self._no_exact:
                raise OutOfMemory("the model's copy in float32 could not be loaded")
            self._no_exact = True  # if this fails, not for each pass again
            self._exact = LocalEmbedder(self._loaded.exactly(), self._tokenizer.limits)
            self._exact.alike = self.alike
        vectors = self._exact._forward_padded(items)
        if self._failed_at and self._passes == self._failed_at + 1:
            self._become(self._exact)
        self._failed_at = self._passes
        return vectors

    def _become(self, exact: "LocalEmbedder") -> None:
        """Run `exact`'s network from now on. The fingerprint stays: vectors only got better."""
        log.error(
            "%s is not finite in %s: it runs in float32 from now on; set its dtype to float32",
            self._loaded.spec.id, self.facts.dtype,
        )  # fmt: skip
        self._loaded, self._network, self._heads = exact._loaded, exact._network, exact._heads
        self._packed, self.pads, self.pass_tokens = None, True, None
        self.facts = replace(self.facts, dtype="float32", backend="torch")
        self._exact = None

    def _forward_share(self, items: Sequence[Item], rows: list[int], count: int) -> Vectors:
        """Encode some of the items on `count` cores. Returns (len(rows), d)."""
        import torch

        assert self._packed is not None
        _use_cores(count)
        share = [items[row] for row in rows]
        vectors = np.empty((len(share), self.facts.dimension), np.float32)
        with torch.inference_mode():
            for group in self._packed([item.payload for item in share]):  # type: ignore[misc]
                mask = torch.ones(group.states.shape[:2], dtype=torch.int64)
                features = {"token_embeddings": group.states, "attention_mask": mask}
                vectors[group.rows] = self._headed(features, [share[row] for row in group.rows])
        return vectors

    def _headed(self, features: dict[str, Any], items: Sequence[Item]) -> Vectors:
        """Run what follows the network. Returns (n, d) float32.

        The library's pooling takes one length of a prompt for all rows, so those with another are
        pooled apart.
        """
        vectors = np.empty((len(items), self.facts.dimension), np.float32)
        for skip in {item.skip for item in items}:
            rows = [row for row, item in enumerate(items) if item.skip == skip]
            part = features if len(rows) == len(items) else _rows_of(features, rows)
            if skip:
                part["prompt_length"] = skip
            for module in self._heads:
                part = module(part)
            found = part["sentence_embedding"].float().cpu().numpy()
            vectors[rows] = found[:, : self.facts.dimension]
        return vectors

    def _forward_padded(self, items: Sequence[Item]) -> Vectors:
        import torch

        if self._device.type == "cpu":
            _use_cores(cores())
        vectors = np.empty((len(items), self.facts.dimension), np.float32)
        with torch.inference_mode():
            for rows in by_length(items) if self.alike else [list(range(len(items)))]:
                part = [items[row] for row in rows]
                features = {k: v.to(self._device) for k, v in self._features(part).items()}
                features = self._network(features)
                features["token_embeddings"] = features["token_embeddings"].float()
                vectors[rows] = self._headed(features, part)
        return vectors

    def _features(self, items: Sequence[Item]) -> dict[str, Any]:
        import torch

        width = max(item.tokens for item in items)
        ids = np.full((len(items), width), self._pad_id, np.int64)
        mask = np.zeros((len(items), width), np.int64)
        for row, item in enumerate(items):
            ids[row, : item.tokens] = item.payload
            mask[row, : item.tokens] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def _release(self) -> None:
        del self._loaded, self._network, self._heads, self._packed, self._exact


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    """Return the threads that compute packed passes, those of every model there is or will be.

    Always the same few: torch and oneDNN keep kernels and memory for each thread that ever computed
    (1.2 GB after 800 requests from 64 threads), and a model that is exchanged brings no new ones.
    """
    return ThreadPoolExecutor(cores(), "encode")


def _rows_of(features: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Return some rows of everything that has a row for each text."""
    count = len(features["attention_mask"])

    def part(value: Any) -> Any:
        if isinstance(value, tuple):  # the states of all layers
            return tuple(map(part, value))
        return value[rows] if getattr(value, "shape", (0,))[0] == count else value

    return {name: part(value) for name, value in features.items()}


def _use_cores(count: int) -> None:
    """Make the calling thread's operations use `count` cores: the setting is per thread."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
