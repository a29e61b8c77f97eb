"""Runs late-interaction models (ColBERT and its kin): a vector for each token of a text.

A query may be filled up with mask tokens, whose vectors count as the query's; of a document the
tokens of a list, often punctuation, are left out. Which of it a model does is what the library's
`MultiVectorEncoder` reads from its folder.
"""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedders import proven
from embedders.base import (
    Embedder,
    Encoded,
    Input,
    Item,
    Prompt,
    Task,
    Truncate,
    Value,
    Vectors,
)
from embedders.device import DeviceEmbedder
from embedders.fallback import proven_or_library
from embedders.loading import Found, LoadedModel, load
from embedders.manifest import STANFORD
from embedders.packed import strip
from embedders.proof import Reference
from embedders.sides import SIDES, Expansion, SideTokenizer
from embedders.states import (
    PackedStates,
    PaddedStates,
    Part,
    StatesEmbedder,
    TokenStates,
    gives,
    ways,
)
from embedders.tokens import MOST_TOKENS, Limits, TextTokenizer

TOKENS = "token_embeddings"
HEADS = ("Dense", "Dropout", "LayerNorm", "Normalize")  # modules that change tokens one by one


def build(found: Found) -> Embedder:
    """Return a late-interaction model, loaded. Raises ModelUnavailable."""
    return proven.in_its_dtype(load(found), choose)


def choose(loaded: LoadedModel) -> Embedder:
    """Return what runs the model: the first way proven equal to `MultiVectorEncoder.encode`."""
    loaded = replace(loaded, notes=(*loaded.notes, *_unknown_markers(loaded)))
    limit, backends = _backends_of(loaded)
    reference = TokenReference(loaded.modules)
    return proven_or_library(loaded, limit, backends, reference, "multi_vector")


def _unknown_markers(loaded: LoadedModel) -> list[str]:
    """Return notes on the markers of sides that a ColBERT of Stanford has no token for."""
    words = getattr(next(iter(loaded.modules)), "tokenizer", None)
    if words is None or not (loaded.source.folder / STANFORD).is_file():
        return []
    known, prompts = words.get_vocab(), loaded.modules.prompts
    marks = [(prompts.get(side) or "").strip() for side in ("query", "document")]
    return [
        f"its vocabulary has no token {mark}, so that it is read as several"
        for mark in marks
        if mark and mark not in known
    ]


class TokenReference(Reference):
    """A `MultiVectorEncoder`, called as its users call it, by one thread at a time."""

    sided = True  # a query is filled up, and of a document tokens are left out

    def values(self, texts: Sequence[str], prompt: Prompt, at_once: int) -> Sequence[Value]:
        """Return the vectors (t, d) float32 of each text's tokens."""
        found = self.model.encode(
            list(texts), prompt=prompt.text, task=prompt.task, batch_size=at_once,
            show_progress_bar=False,
        )  # fmt: skip
        return [each.float().cpu().numpy() for each in found]

    def encode(self, texts: Sequence[str], prompt: Prompt, at_once: int = 32) -> Vectors:
        """Return the vectors of all tokens, text after text, (tokens, d) float32."""
        return np.concatenate(self.values(texts, prompt, at_once))

    def comparable(self, encoded: Encoded) -> Vectors:
        """Return the vectors of all tokens, text after text."""
        return np.concatenate(list(encoded.columns["multi_vector"]))


@dataclass(frozen=True)
class Layout:
    """The parts of a late-interaction model."""

    network: Any  # the library's Transformer
    heads: Sequence[Any]  # the modules that change the tokens' states, in float32
    mask: Any  # MultiVectorMask, or None

    @classmethod
    def of(cls, model: Any) -> "Layout | None":
        """Return the layout of a `MultiVectorEncoder`, or None for one that is not known here."""
        network, *others = model
        masks = [module for module in others if type(module).__name__ == "MultiVectorMask"]
        heads = [module for module in others if module not in masks]
        if not gives(network) or len(masks) > 1 or not all(map(_is_head, heads)):
            return None
        copies = [copy.deepcopy(module).float().eval() for module in heads]
        return cls(network, copies, masks[0] if masks else None)

    def kept(self, ids: NDArray[np.int64], seen: int, task: Task | None) -> NDArray[np.bool_]:
        """Return which of an input's tokens have a vector; those from `seen` on are expansions."""
        kept = np.ones(len(ids), bool)
        mask = self.mask
        if mask is None:
            kept[seen:] = False
            return kept
        skipped = mask._skiplist_ids
        if skipped is not None and (task or "document") in mask.skiplist_tasks:
            kept &= ~np.isin(ids, skipped.cpu().numpy())
        if task != "query" and mask.keep_only_token_ids:
            kept &= np.isin(ids, mask.keep_only_token_ids)
        return kept


def _is_head(module: Any) -> bool:
    reads = getattr(module, "module_input_name", TOKENS)
    writes = getattr(module, "module_output_name", TOKENS)
    return type(module).__name__ in HEADS and (reads, writes) == (TOKENS, TOKENS)


def _backends_of(loaded: LoadedModel) -> tuple[int, list[proven.Backend]]:
    """Return how many tokens the model reads, and the ways to run it, the fastest first."""
    most, limits = loaded.limits()
    layout = Layout.of(loaded.modules)
    if layout is None:
        return most or MOST_TOKENS, []
    network = layout.network
    if (expansion := network.query_expansion) is not None:
        length = expansion["length"]
        if expansion["strategy"] == "min":
            length = max(length, limits.of("query"))
        limits = Limits(limits.most, {**limits.of_task, "query": length})
    encoder, pad_id = network.auto_model, network.tokenizer.pad_token_id or 0
    return most, [
        (name, functools.partial(MultiVectorEmbedder, loaded, limits, layout, make))
        for name, make in ways(loaded, encoder, encoder, pad_id, most)
    ]


class MultiVectorEmbedder(StatesEmbedder):
    """A late-interaction model on one device."""

    def __init__(self, loaded: LoadedModel, limits: Limits, layout: Layout, make: Any) -> None:
        """Compute the states of texts by the `TokenStates` that `make` makes."""
        self._loaded, self._device, self._layout = loaded, loaded.device, layout
        self._states: TokenStates = make()
        network = layout.network
        words, encoder = network.tokenizer, network.auto_model
        # What sees less than all tokens of its text is computed by the network itself.
        self._masked = PaddedStates(encoder, words.pad_token_id or 0)
        self.pads, self.pass_tokens = self._states.pads, self._states.pass_tokens
        self.portable = False  # the side decides too
        vocabulary = int(encoder.get_input_embeddings().weight.shape[0])
        texts = TextTokenizer(
            words.backend_tokenizer, limits, vocabulary, side=words.truncation_side
        )
        self.preparer = self._tokenizer = SideTokenizer(
            dict.fromkeys(SIDES, texts), _expansion_of(network)
        )
        facts = loaded.facts(limits.most, vocabulary, self._states.name)
        self.facts = replace(facts, outputs=("multi_vector",), pooling=None)

    def free_network(self) -> None:
        """Free the network that a packed copy replaces, unless queries need it."""
        expansion = self._tokenizer.expansion
        if isinstance(self._states, PackedStates) and (expansion is None or expansion.attend):
            strip(self._layout.network.auto_model)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the token ids of each input, and its side. See `SideTokenizer.prepare`."""
        return self._tokenizer.prepare(inputs, prompt, truncate)

    def _forward(self, items: Sequence[Item]) -> Encoded:
        values: list[Vectors | None] = [None] * len(items)
        ids = [np.asarray(item.payload, np.int64) for item in items]
        seen = [len(each) for each in ids]
        expansion = self._tokenizer.expansion
        filled, plain = [], []
        for i, item in enumerate(items):
            if item.tokens > seen[i]:  # a query that does not see its expansion
                assert expansion is not None
                more = np.full(item.tokens - seen[i], expansion.token)
                ids[i] = np.concatenate([ids[i], more])
                filled.append(i)
            else:
                plain.append(i)

        def compute(rows: list[int], run: Any) -> None:
            def use(part: Part) -> None:
                vectors = self._headed(part.states)
                for row, each in zip(part.rows, part.of_each(vectors), strict=True):
                    i = rows[row]
                    kept = self._layout.kept(ids[i], seen[i], items[i].prompt.task)
                    values[i] = np.ascontiguousarray(each.numpy()[kept])

            if rows:
                run([ids[i] for i in rows], use, one_length=self.one_length)

        compute(plain, self._states)
        compute(filled, functools.partial(self._masked, seen=[seen[i] for i in filled]))
        return Encoded({"multi_vector": values}, [item.tokens for item in items])

    def _in_float32(self) -> DeviceEmbedder:
        _, backends = _backends_of(self._loaded.exactly())
        return backends[-1][1]()

    def _headed(self, states: Any) -> Any:
        """Return what the heads make of (tokens, d), float32 on the CPU."""
        features = {TOKENS: states.float()}
        for module in self._layout.heads:
            features = module(features)
        return features[TOKENS].cpu()

    def _release(self) -> None:
        del self._loaded, self._layout, self._states, self._masked
        self._copy = None


def _expansion_of(network: Any) -> Expansion | None:
    """Return what the library fills queries up with; by default the mask token, else the end's."""
    given, words = network.query_expansion, network.tokenizer
    if given is None:
        return None
    token = words.convert_tokens_to_ids(given["token"]) if given["token"] else words.mask_token_id
    token = words.eos_token_id if token is None else token
    return Expansion(given["length"], int(token), given["attend"])
