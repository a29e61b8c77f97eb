"""Runs transformer encoders: sentence-transformers models and plain Hugging Face ones.

Inputs are tokenized in the caller's thread, padded or packed for a pass, and pooled. Pooling and
all that follows it run in float32, whatever the network's dtype. `backends.py` proves at each load
that the vectors equal those of `SentenceTransformer.encode`.
"""

import functools
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from embedders.base import Input, Item, OutOfMemory, Prompt, Truncate, Vectors
from embedders.device import DeviceEmbedder
from embedders.layers import cores
from embedders.loading import LoadedModel
from embedders.packed import Make, Packed, by_length, padded_parts, shares_of
from embedders.tokens import Limits, TextTokenizer

log = logging.getLogger("embedders")

# More tokens for each core gain nothing and make others wait (51 us a token at 512, 53 at 1024).
CORE_TOKENS = 512


class LocalEmbedder(DeviceEmbedder):
    """One transformer encoder on one device."""

    def __init__(self, loaded: LoadedModel, limits: Limits, make: Make | None = None) -> None:
        """Run the network itself, padded, or with `make` a packed copy of its layers."""
        self._loaded, self._device = loaded, loaded.device
        self._network, self._heads = next(iter(loaded.modules)), loaded.heads()
        self._skips = loaded.pooling is not None and not loaded.pooling.include_prompt
        self.portable = not self._skips
        tokenizer = self._network.tokenizer
        self._pad_id, self._special = tokenizer.pad_token_id or 0, {*tokenizer.all_special_ids}
        # Whether a batch holds texts of one length only, as padding changes a text's vector.
        self.one_length = False
        vocabulary = int(self._network.auto_model.get_input_embeddings().weight.shape[0])
        self._tokenizer = TextTokenizer(
            tokenizer.backend_tokenizer, limits, vocabulary, side=tokenizer.truncation_side
        )
        self._packed: Packed | None = None
        if make is not None:
            self._packed = Packed(self._network.auto_model, loaded.dtype, make)
            self.pads, self.pass_tokens = False, CORE_TOKENS * cores()
        # The model in float32, loaded after a pass that was not finite.
        self._exact: LocalEmbedder | None = None
        self._no_exact = False
        self._passes = self._failed_at = 0
        name = self._packed.layers.name if self._packed else "torch"
        self.facts = loaded.facts(limits.most, vocabulary, name)

    def free_network(self) -> None:
        """Free the network that a packed copy replaces."""
        if self._packed is not None:
            for name, _ in list(self._network.auto_model.named_children()):
                delattr(self._network.auto_model, name)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the token ids of each input. See `TextTokenizer.prepare`."""
        items = self._tokenizer.prepare(inputs, prompt, truncate)
        if prompt.text and self._skips:
            skip = self._tokenizer.prompt_tokens(prompt, self._special)
            items = [replace(item, skip=skip) for item in items]
        return items

    def _forward(self, items: Sequence[Item]) -> Vectors:
        self._passes += 1
        if self._packed is None:
            return self._forward_padded(items)
        lengths = [item.tokens for item in items]
        vectors = np.empty((len(items), self.facts.dimension), np.float32)
        if not self._packed.layers.shared:
            for rows in padded_parts(lengths):
                work = _threads().submit(self._forward_share, items, rows, cores())
                vectors[rows] = work.result()
            return vectors
        shares = shares_of(lengths, cores())
        # A short text on both of 2 cores takes 8.5 ms, on one of them 18.5.
        each = cores() // len(shares)
        running = [_threads().submit(self._forward_share, items, rows, each) for rows in shares]
        for rows, share in zip(shares, running, strict=True):
            vectors[rows] = share.result()
        return vectors

    def _forward_exactly(self, items: Sequence[Item]) -> Vectors:
        """Return vectors in float32, of the model loaded again from its files.

        After two passes in a row that were not finite, that copy replaces this network: the dtype
        does not suit the model, and no pass should run twice from then on.
        """
        if self.facts.dtype == "float32":
            return self._forward(items)
        if self._exact is None:
            if self._no_exact:
                raise OutOfMemory("the model's copy in float32 could not be loaded")
            self._no_exact = True  # if loading fails, it is not tried for each pass again
            self._exact = LocalEmbedder(self._loaded.exactly(), self._tokenizer.limits)
            self._exact.one_length = self.one_length
        vectors = self._exact._forward_padded(items)
        if self._failed_at and self._passes == self._failed_at + 1:
            self._replace_by(self._exact)
        self._failed_at = self._passes
        return vectors

    def _replace_by(self, exact: "LocalEmbedder") -> None:
        """Run the network of `exact` from now on. The fingerprint stays, as the space does."""
        log.error(
            "%s is not finite in %s: it runs in float32 from now on; set its dtype to float32",
            self._loaded.spec.id, self.facts.dtype,
        )  # fmt: skip
        self._loaded, self._network, self._heads = exact._loaded, exact._network, exact._heads
        self._packed, self.pads, self.pass_tokens = None, True, None
        self.facts = replace(self.facts, dtype="float32", backend="torch")
        self._exact = None

    def _forward_share(self, items: Sequence[Item], rows: list[int], count: int) -> Vectors:
        """Return the vectors of some of the items, (len(rows), d), computed on `count` cores."""
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
        """Return the vectors (n, d) float32 that the modules after the network make.

        The library's pooling takes one prompt length for all rows, so rows are pooled by it.
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
        groups: Iterable[list[int]] = [list(range(len(items)))]
        if self.one_length:
            groups = by_length([item.tokens for item in items]).values()
        with torch.inference_mode():
            for rows in groups:
                part = [items[row] for row in rows]
                ids = np.full((len(part), max(i.tokens for i in part)), self._pad_id, np.int64)
                mask = np.zeros_like(ids)
                for row, item in enumerate(part):
                    ids[row, : item.tokens], mask[row, : item.tokens] = item.payload, 1
                features = {"input_ids": ids, "attention_mask": mask}
                features = self._network(
                    {name: torch.from_numpy(a).to(self._device) for name, a in features.items()}
                )
                features["token_embeddings"] = features["token_embeddings"].float()
                vectors[rows] = self._headed(features, part)
        return vectors

    def _release(self) -> None:
        del self._loaded, self._network, self._heads, self._packed, self._exact


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that compute packed passes, the same ones for all models.

    torch and oneDNN keep kernels and memory for each thread that ever computed (1.2 GB after 800
    requests from 64 threads), and so an exchanged model brings no new threads.
    """
    return ThreadPoolExecutor(cores(), "encode")


def _rows_of(features: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Return some rows of every feature that has a row for each text."""
    count = len(features["attention_mask"])

    def part(value: Any) -> Any:
        if isinstance(value, tuple):  # the states of all layers
            return tuple(map(part, value))
        return value[rows] if getattr(value, "shape", (0,))[0] == count else value

    return {name: part(value) for name, value in features.items()}


def _use_cores(count: int) -> None:
    """Make the operations of the calling thread use `count` cores."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
