"""Runs sparse models: the weight of each term of the vocabulary for a text (SPLADE and its kin).

A text's weight of a term is the largest that the masked-language-model head gives it at any token,
on a logarithmic scale. The logits of all tokens are never held: a block of the vocabulary is
computed for some texts, its largest values are kept, and the next block follows. Models without
inference for queries look a query's tokens up in a table.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedders import proven
from embedders.base import (
    Column,
    Embedder,
    Encoded,
    Input,
    Item,
    Prompt,
    Sparse,
    Task,
    Truncate,
    Value,
    Vectors,
)
from embedders.device import DeviceEmbedder
from embedders.fallback import proven_or_library
from embedders.loading import Found, LoadedModel, load
from embedders.packed import strip
from embedders.proof import Reference
from embedders.sides import SIDES, SideTokenizer
from embedders.states import PackedStates, Part, StatesEmbedder, TokenStates, gives, ways
from embedders.terms import Terms, without_decoder
from embedders.tokens import MOST_TOKENS, Limits, TextTokenizer
from errors import ModelUnavailable

TOKENS_AT_ONCE = 2048  # of texts that are pooled together: 16 MB of a block's logits in float32
MOST_NUMBERS = 1 << 24  # weights of those texts, at most: 64 MB
TABLES = ("idf.json", "query_token_weights.txt")  # a query's weights, as OpenSearch writes them


def sparse_of(row: NDArray[Any]) -> Sparse:
    """Return the terms of a row as wide as the vocabulary; what is not finite is kept too."""
    indices = np.flatnonzero(row)
    return Sparse(indices.astype(np.int32), row[indices].astype(np.float32))


def rows_of(column: Column, width: int) -> Vectors:
    """Return the same as (n, width) float32, for comparisons."""
    rows = np.zeros((len(column), width), np.float32)
    for row, value in zip(rows, column, strict=True):
        assert isinstance(value, Sparse)
        row[value.indices] = value.values
    return rows


def build(found: Found) -> Embedder:
    """Return a sparse model, loaded. Raises ModelUnavailable."""
    folder = found.source.folder
    tables = [name for name in TABLES if (folder / name).is_file()]
    if tables and not (folder / "modules.json").is_file():
        raise ModelUnavailable(
            f"{found.spec.model_name!r} has weights for queries ({tables[0]}) and no modules.json, "
            "which says how they are used: save it with sentence-transformers, as a Router"
        )
    return proven.in_its_dtype(load(found), choose)


def choose(loaded: LoadedModel) -> Embedder:
    """Return what runs the model: the first way that is proven equal to `SparseEncoder.encode`."""
    limit, backends = _backends_of(loaded)
    return proven_or_library(loaded, limit, backends, SparseReference(loaded.modules), "sparse")


class SparseReference(Reference):
    """A `SparseEncoder`, called as its users call it, by one thread at a time."""

    def values(self, texts: Sequence[str], prompt: Prompt, at_once: int) -> Sequence[Value]:
        """Return the terms of each text."""
        return [sparse_of(row) for row in self.encode(texts, prompt, at_once)]

    def encode(self, texts: Sequence[str], prompt: Prompt, at_once: int = 32) -> Vectors:
        """Return (n, vocabulary) float32."""
        task = {} if prompt.task is None else {"task": prompt.task}
        rows = self.model.encode(
            list(texts), prompt=prompt.text, batch_size=at_once, show_progress_bar=False,
            convert_to_sparse_tensor=False, **task,
        )  # fmt: skip
        found: Vectors = rows.float().cpu().numpy()
        return found

    def comparable(self, encoded: Encoded) -> Vectors:
        """Return (n, vocabulary) float32."""
        return rows_of(encoded.columns["sparse"], self.model.get_embedding_dimension())


@dataclass(frozen=True)
class Layout:
    """The parts of a sparse model, and which of them each side of a retrieval takes."""

    network: Any  # the library's Transformer, with its masked-language-model head
    pooling: Any  # SpladePooling
    table: Any  # SparseStaticEmbedding, or None
    tabled: frozenset[Task | None]  # the sides that look their tokens up in it

    @classmethod
    def of(cls, model: Any) -> "Layout | None":
        """Return the layout of a `SparseEncoder`, or None for one that is not known here."""
        routes = _routes(model)
        kinds = {task: [type(module).__name__ for module in way] for task, way in routes.items()}
        tabled = frozenset(task for task in SIDES if kinds[task] == ["SparseStaticEmbedding"])
        computed = [task for task in SIDES if kinds[task][1:] == ["SpladePooling"]]
        networks = {tuple(map(id, routes[task])) for task in computed}
        tables = {id(routes[task][0]) for task in tabled}
        if len(tabled) + len(computed) < len(SIDES) or len(networks) != 1 or len(tables) > 1:
            return None
        network, pooling = routes[computed[0]]
        table = next((routes[task][0] for task in tabled), None)
        known = gives(network, "logits") and network.auto_model.get_output_embeddings() is not None
        return cls(network, pooling, table, tabled) if known else None


def _routes(model: Any) -> dict[Task | None, list[Any]]:
    """Return the modules that the texts of each side go through."""
    modules = list(model)
    if len(modules) != 1 or not hasattr(modules[0], "route_mappings"):
        return dict.fromkeys(SIDES, modules)
    router = modules[0]
    names = {task: router._resolve_route(task=task, modality="text") for task in SIDES}
    return {task: list(router.sub_modules[name]) for task, name in names.items()}


def _backends_of(loaded: LoadedModel) -> tuple[int, list[proven.Backend]]:
    """Return how many tokens the model reads, and the ways to run it, the fastest first."""
    (most, limits), wanted = loaded.limits(), loaded.wanted_length
    for module in loaded.modules.modules():
        if type(module).__name__ == "SparseStaticEmbedding" and wanted:
            words = module.tokenizer
            words.model_max_length = min(words.model_max_length, wanted)
    layout = Layout.of(loaded.modules)
    if layout is None:
        return most or MOST_TOKENS, []
    if layout.pooling.embedding_dimension is None:  # the library learns it from its first pass
        head = layout.network.auto_model.get_output_embeddings()
        layout.pooling.embedding_dimension = len(head.weight)
    network, pad_id = layout.network.auto_model, layout.network.tokenizer.pad_token_id or 0
    headless, _ = without_decoder(network)
    found = ways(loaded, headless, network.base_model, pad_id, most)
    return most, [
        (name, functools.partial(SparseEmbedder, loaded, limits, layout, make))
        for name, make in found
    ]


class SparseEmbedder(StatesEmbedder):
    """A sparse model on one device."""

    def __init__(self, loaded: LoadedModel, limits: Limits, layout: Layout, make: Any) -> None:
        """Compute the states of texts by the `TokenStates` that `make` makes."""
        self._loaded, self._device, self._layout = loaded, loaded.device, layout
        network = layout.network.auto_model
        headless, decoder = without_decoder(network)
        self._states: TokenStates = make()
        self._head: Any = None
        if isinstance(self._states, PackedStates):  # of the encoder; the others have the head
            base = headless.base_model
            self._head = next(part for part in headless.children() if part is not base)
        self._terms = Terms(decoder, loaded.dtype, layout.pooling, loaded.modules.max_active_dims)
        self._weights = None
        if layout.table is not None:
            self._weights = layout.table.weight.detach().float().cpu().numpy().copy()
        self.pads, self.pass_tokens = self._states.pads, self._states.pass_tokens
        self.portable = not layout.tabled
        self.preparer = self._tokenizer = _tokenizer(limits, layout)
        known = len(decoder.weight)
        self.facts = replace(
            loaded.facts(limits.most, known, self._states.name),
            dimension=known, outputs=("sparse",), pooling=layout.pooling.pooling_strategy,
        )  # fmt: skip

    def free_network(self) -> None:
        """Free the network that a packed copy replaces."""
        if self._head is not None:
            strip(self._layout.network.auto_model)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the token ids of each input. See `TextTokenizer.prepare`."""
        return self._tokenizer.prepare(inputs, prompt, truncate)

    def _forward(self, items: Sequence[Item]) -> Encoded:
        values: list[Sparse | None] = [None] * len(items)
        computed = []
        for i, item in enumerate(items):
            if item.prompt.task in self._layout.tabled:
                values[i] = self._looked_up(item)
            else:
                computed.append(i)

        def use(part: Part) -> None:
            for row, found in zip(part.rows, self._pooled(part), strict=True):
                values[computed[row]] = found

        if computed:
            payloads: Any = [items[i].payload for i in computed]
            self._states(payloads, use, one_length=self.one_length)
        return Encoded({"sparse": values}, [item.tokens for item in items])

    def _in_float32(self) -> DeviceEmbedder:
        _, backends = _backends_of(self._loaded.exactly())
        return backends[-1][1]()

    def _looked_up(self, item: Item) -> Sparse:
        """Return the table's weights of a query's tokens."""
        assert self._weights is not None
        indices = np.unique(np.asarray(item.payload, np.int64))
        row = np.zeros_like(self._weights)
        row[indices] = self._weights[indices]
        return sparse_of(np.asarray(self._terms.heaviest(row)))

    def _pooled(self, part: Part) -> list[Sparse]:
        states = part.states
        if self._head is not None:
            states = self._head(states.to(self._loaded.dtype))
        found: list[Sparse] = []
        for lengths, rows in _together(part, states, self.facts.dimension):
            found += map(sparse_of, self._terms(rows, lengths).cpu().numpy())
        return found

    def _release(self) -> None:
        del self._loaded, self._layout, self._states, self._head, self._terms
        self._copy = None


def _together(part: Part, states: Any, width: int) -> Iterator[tuple[list[int], Any]]:
    """Yield the lengths and the states of texts that are pooled together."""
    lengths: list[int] = []
    start = 0
    for length in part.lengths:
        full = len(lengths) + 1 > MOST_NUMBERS // width or sum(lengths) + length > TOKENS_AT_ONCE
        if lengths and full:
            yield lengths, states[start : start + sum(lengths)]
            start += sum(lengths)
            lengths = []
        lengths.append(length)
    yield lengths, states[start:]


def _tokenizer(limits: Limits, layout: Layout) -> TextTokenizer | SideTokenizer:
    words = layout.network.tokenizer
    vocabulary = int(layout.network.auto_model.get_input_embeddings().weight.shape[0])
    texts = TextTokenizer(words.backend_tokenizer, limits, vocabulary, side=words.truncation_side)
    if not layout.tabled:
        return texts
    other = layout.table.tokenizer
    table = TextTokenizer(
        other.backend_tokenizer, Limits(min(int(other.model_max_length), MOST_TOKENS)),
        layout.table.num_dimensions, side=other.truncation_side, special=False, empty=True,
    )  # fmt: skip
    return SideTokenizer({task: table if task in layout.tabled else texts for task in SIDES})
