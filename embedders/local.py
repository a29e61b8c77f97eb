"""Runs transformer encoders: sentence-transformers models and plain Hugging Face ones.

Inputs are tokenized in the caller's thread; a pass pads them, packs them or lays them flat, and
pools. Pooling and all that follows it run in float32, whatever the network's dtype. `backends.py`
proves at each load that the vectors equal those of `SentenceTransformer.encode`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from embedders.base import (
    DENSE,
    Input,
    Item,
    OutOfMemory,
    Output,
    Prompt,
    Small,
    Truncate,
    Value,
    Vectors,
)
from embedders.by_token import ByToken, divided, pools_chunks
from embedders.device import DeviceEmbedder, Result, free_memory, on_thread_of
from embedders.flat_passes import PASS_ITEMS, FlatPasses
from embedders.layers import cores, repacked, threads, use_cores
from embedders.loading import LoadedModel
from embedders.measured import choose_small
from embedders.packed import Make, Packed, Share, by_length, run, shares_of, strip
from embedders.states import FlatStates, PackedStates, PaddedStates, TokenStates
from embedders.tokens import Limits, TextTokenizer

log = logging.getLogger("embedders")

# More tokens for each core gain nothing and make others wait (51 us a token at 512, 53 at 1024).
CORE_TOKENS = 512


class LocalEmbedder(DeviceEmbedder):
    """One transformer encoder on one device."""

    def __init__(
        self, loaded: LoadedModel, limits: Limits, make: Make | None = None, flat: bool = False,
        graphs: bool = False, repack: bool = False,
    ) -> None:  # fmt: skip
        """Run the network itself, padded, with `make` a packed copy of its layers, or it `flat`.

        With `repack` it is a copy whose linear layers have oneDNN's layout.
        Flat passes run by CUDA graphs if they can and `graphs` says so. Raises NotFlat.
        """
        self._loaded, self._device = loaded, loaded.device
        self._network, self._heads = next(iter(loaded.modules)), loaded.heads()
        self._repacked = repack
        if repack:
            self._network = repacked(self._network)
        skips = loaded.pooling is not None and not loaded.pooling.include_prompt
        self.portable = not skips
        tokenizer = self._network.tokenizer
        self._pad_id = tokenizer.pad_token_id or 0
        # Whether a batch holds texts of one length only, as padding changes a text's vector.
        self.one_length = False
        vocabulary = int(self._network.auto_model.get_input_embeddings().weight.shape[0])
        self.preparer = self._tokenizer = TextTokenizer(
            tokenizer.backend_tokenizer, limits, vocabulary, side=tokenizer.truncation_side,
            skips={*tokenizer.all_special_ids} if skips else None,
        )  # fmt: skip
        self._packed: Packed | None = None
        if make is not None:
            self._packed = Packed(self._network.auto_model, loaded.dtype, make)
            self.pads, self.pass_tokens = False, CORE_TOKENS * cores()
        # The model in float32, loaded after a pass that was not finite.
        self._exact: LocalEmbedder | None = None
        self._no_exact = False
        self._passes = self._failed_at = 0
        name = self._packed.layers.name if self._packed else "torch+packed" if repack else "torch"
        self.facts = replace(
            loaded.facts(limits.most, vocabulary, name),
            token_dimension=getattr(loaded.pooling, "embedding_dimension", None) or 0,
            pools_chunks=pools_chunks(self._heads),
        )
        self._flat: FlatPasses | None = None
        if flat:
            self._flat = FlatPasses(
                self._network.auto_model, self._heads, self.facts.dimension, limits.most
            )
            self.pads, self.pass_tokens = False, CORE_TOKENS * cores()
            if self._device.type == "cuda":
                self._prepare_gpu(graphs)
            name = "flat+graphs" if self._flat.sizes else "flat"
            self.facts = replace(self.facts, backend=name)

    def _prepare_gpu(self, graphs: bool) -> None:
        """Fit passes into the GPU's memory, run one, and record the graphs."""
        assert self._flat is not None
        flat, dtype = self._flat, self._loaded.dtype

        def prepare() -> None:
            flat.fit(free_memory(self._device), dtype)
            flat.warm()
            if graphs:
                flat.record()

        on_thread_of(self._device, prepare)
        self.pass_tokens, self.pass_items, self.in_flight = flat.pass_tokens, PASS_ITEMS, 2

    def take_small(self, known: Sequence[Small] | None) -> tuple[Small, ...]:
        """Choose what runs small passes. See `DeviceEmbedder.take_small`."""
        if self._packed is None or not self._packed.layers.shared:
            return ()
        small = choose_small(self._packed, self._loaded, known)
        self.facts = replace(self.facts, small_passes=small)
        return small

    def free_network(self) -> None:
        """Free the network that a packed copy replaces."""
        if self._packed is not None and not self.tokens_apart:
            strip(self._network.auto_model)
        if self._repacked:
            strip(next(iter(self._loaded.modules)).auto_model)
            for rest in self._network.parameters():  # or they would keep the whole file mapped
                rest.data = rest.data.clone()

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the token ids of each input. See `TextTokenizer.prepare`."""
        return self._tokenizer.prepare(inputs, prompt, truncate)

    def _begin(self, items: Sequence[Item]) -> Callable[[], Result]:
        if any(item.outputs != DENSE for item in items):
            made = divided(items, self._forward, self._by_token)
            return lambda: made
        return self._begin_dense(items)

    def _begin_dense(self, items: Sequence[Item]) -> Callable[[], Vectors]:
        flat = self._flat  # which another pass may replace meanwhile
        if flat is None:
            found = self._forward(items)
            return lambda: found
        self._passes += 1
        if self._device.type == "cuda":
            return flat.begin(items)

        def run() -> Vectors:
            use_cores(cores())
            return flat.begin(items)()

        return threads().submit(run).result

    def _forward(self, items: Sequence[Item]) -> Vectors:
        import torch

        if self._flat is not None:
            return self._begin_dense(items)()
        self._passes += 1
        packed = self._packed  # see `_begin`
        if packed is None:
            return self._forward_padded(items)
        vectors = np.empty((len(items), self.facts.dimension), np.float32)

        def vectors_of(share: Share) -> None:
            part = [items[row] for row in share.rows]
            for group in packed([item.payload for item in part], layers=share.layers):  # type: ignore[misc]
                mask = torch.ones(group.states.shape[:2], dtype=torch.int64)
                features = {"token_embeddings": group.states, "attention_mask": mask}
                rows = [share.rows[row] for row in group.rows]
                vectors[rows] = self._headed(features, [part[row] for row in group.rows])

        run(packed.shares([item.tokens for item in items]), vectors_of)
        return vectors

    def _by_token(self, items: Sequence[Item]) -> dict[Output, list[Value | None]]:
        """Return what is made of each token of items, by the way that their vectors are made."""
        packed, flat, heads = self._packed, self._flat, self._heads  # another pass may replace them
        place = next(i for i, head in enumerate(heads) if hasattr(head, "include_prompt"))
        states: TokenStates
        if packed is not None and not self.tokens_apart:
            states = PackedStates(packed, self._loaded.dtype)
        elif flat is not None and not self.tokens_apart:
            states = FlatStates(flat.network)
        else:
            network = _Before(self._network, heads[:place], self._device)
            states = PaddedStates(network, self._pad_id)
        run = ByToken(states, heads[place + 1 :], self.facts.dimension)
        return run(items, one_length=self.one_length)

    def _forward_exactly(self, items: Sequence[Item]) -> Result:
        """Return vectors in float32, of the model loaded again from its files.

        After two passes in a row that were not finite, that copy replaces this network: the dtype
        does not suit the model, and no pass should run twice from then on.
        """
        if self.facts.dtype == "float32":
            return self._begin(items)()
        if self._exact is None:
            if self._no_exact:
                raise OutOfMemory("the model's copy in float32 could not be loaded")
            self._no_exact = True  # if loading fails, it is not tried for each pass again
            self._exact = LocalEmbedder(self._loaded.exactly(), self._tokenizer.limits)
            self._exact.one_length = self.one_length
        vectors = self._exact._begin(items)()
        if self._failed_at and 0 < self._passes - self._failed_at <= self.in_flight:
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
        self._packed = self._flat = None
        self._repacked = False
        self.pads, self.pass_tokens, self.in_flight = True, None, 1
        self.facts = replace(self.facts, dtype="float32", backend="torch", small_passes=())
        self._exact = None

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

        vectors = np.empty((len(items), self.facts.dimension), np.float32)

        def vectors_of(share: Share) -> None:
            part = [items[row] for row in share.rows]
            ids = np.full((len(part), max(i.tokens for i in part)), self._pad_id, np.int64)
            mask = np.zeros_like(ids)
            for row, item in enumerate(part):
                ids[row, : item.tokens], mask[row, : item.tokens] = item.payload, 1
            features = {"input_ids": ids, "attention_mask": mask}
            features = self._network(
                {name: torch.from_numpy(a).to(self._device) for name, a in features.items()}
            )
            features["token_embeddings"] = features["token_embeddings"].float()
            vectors[share.rows] = self._headed(features, part)

        shares = self._padded_shares([item.tokens for item in items])
        if self._device.type == "cpu":
            run(shares, vectors_of)
            return vectors
        with torch.inference_mode():
            for share in shares:
                vectors_of(share)
        return vectors

    def _padded_shares(self, lengths: Sequence[int]) -> list[Share]:
        if self.one_length:
            return [Share(rows, None, cores()) for rows in by_length(lengths).values()]
        parts = shares_of(lengths, cores()) if self._repacked else [list(range(len(lengths)))]
        return [Share(rows, None, cores() // len(parts)) for rows in parts]

    def _release(self) -> None:
        del self._loaded, self._network, self._heads, self._packed, self._flat, self._exact


class _Before:
    """The library's network and the modules before its pooling: the tokens' states come out."""

    def __init__(self, network: Any, modules: Sequence[Any], device: Any) -> None:
        self._network, self._modules, self.device = network, modules, device

    def __call__(self, **features: Any) -> tuple[Any]:
        found = self._network(features)
        found["token_embeddings"] = found["token_embeddings"].float()
        for module in self._modules:
            found = module(found)
        return (found["token_embeddings"],)


def _rows_of(features: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Return some rows of every feature that has a row for each text."""
    count = len(features["attention_mask"])

    def part(value: Any) -> Any:
        if isinstance(value, tuple):  # the states of all layers
            return tuple(map(part, value))
        return value[rows] if getattr(value, "shape", (0,))[0] == count else value

    return {name: part(value) for name, value in features.items()}
