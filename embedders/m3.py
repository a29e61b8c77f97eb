"""Runs models like bge-m3: one pass gives a dense vector, weights of terms and token vectors.

Beside the modules of a dense model the folder has two linear layers, which read the last states.
`sparse_linear` gives a weight for each token; a term has the largest of its tokens' weights.
`colbert_linear` gives a vector for each token but the first. The formulas are FlagEmbedding's.
"""

import functools
from collections.abc import Mapping, Sequence
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
    Output,
    Prompt,
    Sparse,
    Truncate,
    Value,
    Vectors,
)
from embedders.device import DeviceEmbedder
from embedders.fallback import FallbackEmbedder
from embedders.loading import LoadedModel
from embedders.manifest import HEADS
from embedders.packed import by_length, strip
from embedders.proof import Asking, Proof, Reference
from embedders.sparse import rows_of
from embedders.states import PackedStates, Part, StatesEmbedder, TokenStates, ways
from embedders.tokens import Limits, TextTokenizer
from errors import ModelUnavailable

OUTPUTS: tuple[Output, ...] = ("dense", "sparse", "multi_vector")
TOKENS: Output = "tokens"  # the states that all of these are made of


def has_heads(loaded: LoadedModel) -> bool:
    """Return whether a dense model has both heads, and pools all of its tokens' states."""
    first = next(iter(loaded.modules))
    there = all((loaded.source.folder / f"{name}.safetensors").is_file() for name in HEADS)
    return (
        there and hasattr(first, "auto_model") and getattr(loaded.pooling, "include_prompt", False)
    )


def choose(loaded: LoadedModel, heads: "Heads") -> Embedder:
    """Return what runs the model: the first way that is proven equal to the formulas."""
    network = next(iter(loaded.modules))
    _, limits = loaded.limits()
    encoder, pad_id = network.auto_model, network.tokenizer.pad_token_id or 0
    backends: list[proven.Backend] = [
        (name, functools.partial(M3Embedder, loaded, limits, heads, make))
        for name, make in ways(loaded, encoder, encoder, pad_id, limits.most)
    ]
    reference = Reference(loaded.modules)
    return proven.choose(
        loaded, limits.most, backends, M3Proof(loaded, heads, limits.most),
        lambda note: FallbackEmbedder(loaded, reference, limits.most, f"dense alone: {note}"),
    )  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """The two linear layers in float32, and the tokens that are no terms."""

    sparse: Any  # torch.nn.Linear (d, 1)
    tokens: Any  # torch.nn.Linear (d, any)
    special: NDArray[np.int64]  # the ids of CLS, EOS, PAD and UNK

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Heads":
        """Read the heads of a model's folder. Raises ModelUnavailable for other layers."""
        import torch
        from safetensors.torch import load_file

        network, layers = loaded.modules[0], []
        width, tokenizer = network.auto_model.config.hidden_size, network.tokenizer
        for name in HEADS:
            file = loaded.source.folder / f"{name}.safetensors"
            given = {key: value.float() for key, value in load_file(file).items()}
            weight, bias = given.get("weight"), given.get("bias")
            rows = 1 if name == HEADS[0] else None
            if weight is None or weight.shape != (rows or len(weight), width):
                raise ModelUnavailable(f"its {name} is no linear layer of {width} numbers")
            if not all(value.isfinite().all() for value in given.values()):
                raise ModelUnavailable(f"its {name} holds numbers that are not finite")
            layer = torch.nn.Linear(width, len(weight), bias=bias is not None)
            layer.load_state_dict(given)
            layers.append(layer.to(loaded.device).eval())
        names = ("cls_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
        special = [getattr(tokenizer, name) for name in names]
        sparse, tokens = layers
        return cls(sparse, tokens, np.array([i for i in special if i is not None], np.int64))

    def terms(self, ids: NDArray[np.int64], states: Any) -> Sparse:
        """Return the weights of a text's terms, from its states (t, d) float32."""
        weights = self.sparse(states)[:, 0].relu().cpu().numpy()
        counted = (weights != 0) & ~np.isin(ids, self.special)  # what is not finite is kept
        indices, places = np.unique(ids[counted], return_inverse=True)
        values = np.zeros(len(indices), np.float32)
        np.maximum.at(values, places, weights[counted])
        return Sparse(indices.astype(np.int32), values)

    def vectors(self, states: Any) -> Vectors:
        """Return the vectors (t - 1, d) of a text's tokens but the first, each of length 1."""
        from torch.nn import functional

        found: Vectors = functional.normalize(self.tokens(states[1:]), dim=-1).cpu().numpy()
        return found


class M3Proof(Proof):
    """Compares the dense vectors with the library's, and the heads' results with the formulas.

    The formulas read the states that the library's own network gives, padded.
    """

    def __init__(self, loaded: LoadedModel, heads: Heads, limit: int) -> None:
        half = loaded.dtype.itemsize < 4
        super().__init__(Reference(loaded.modules), limit, half)
        states = LibraryStates(loaded.modules)
        self._others: Mapping[Output, Proof] = {
            "sparse": Proof(SparseHeadReference(states, heads), limit, half),
            "multi_vector": Proof(TokenHeadReference(states, heads), limit, half),
        }

    def difference(self, embedder: Embedder) -> str | None:
        """Return how any of the results differ, or None."""
        if difference := super().difference(embedder):
            return difference
        for output, proof in self._others.items():
            if difference := proof.difference(Asking(embedder, output)):
                return f"{output}: {difference}"
        return None

    def states_differ(self, embedder: Embedder) -> str | None:
        """Return None: the states of tokens were compared by what the heads make of them."""
        return None


class LibraryStates:
    """The last states that the library's network gives texts, each computed once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._known: dict[tuple[tuple[str, ...], Prompt], list[tuple[NDArray[np.int64], Any]]] = {}

    def __call__(self, texts: Sequence[str], prompt: Prompt) -> list[tuple[NDArray[np.int64], Any]]:
        """Return the token ids of each text, and their states (t, d) float32."""
        import torch

        key = (tuple(texts), prompt)
        if key not in self._known:
            task = {} if prompt.task is None else {"task": prompt.task}
            given = self.model.preprocess(list(texts), prompt=prompt.text or None, **task)
            given = {
                name: value.to(self.model.device) if torch.is_tensor(value) else value
                for name, value in given.items()
            }
            mask = given["attention_mask"].bool()
            with torch.inference_mode():
                states = self.model[0](given)["token_embeddings"].float()
                self._known[key] = [
                    (given["input_ids"][i][mask[i]].cpu().numpy(), states[i][mask[i]])
                    for i in range(len(mask))
                ]
        return self._known[key]


class SparseHeadReference(Reference):
    """The weights of terms by the formula, of the library's states."""

    def __init__(self, states: LibraryStates, heads: Heads) -> None:
        super().__init__(states.model)
        self._states, self._heads = states, heads
        self._width = len(self.tokenizer)

    def encode(self, texts: Sequence[str], prompt: Prompt, at_once: int = 32) -> Vectors:
        """Return (n, vocabulary) float32."""
        import torch

        with torch.inference_mode():
            found = [self._heads.terms(*each) for each in self._states(texts, prompt)]
        return self.comparable(Encoded({"sparse": found}, []))

    def comparable(self, encoded: Encoded) -> Vectors:
        """Return (n, vocabulary) float32."""
        return rows_of(encoded.columns["sparse"], self._width)


class TokenHeadReference(Reference):
    """The token vectors by the formula, of the library's states."""

    def __init__(self, states: LibraryStates, heads: Heads) -> None:
        super().__init__(states.model)
        self._states, self._heads = states, heads

    def encode(self, texts: Sequence[str], prompt: Prompt, at_once: int = 32) -> Vectors:
        """Return the vectors of all tokens, text after text."""
        import torch

        with torch.inference_mode():
            found = [self._heads.vectors(states) for _, states in self._states(texts, prompt)]
        return np.concatenate(found)

    def comparable(self, encoded: Encoded) -> Vectors:
        """Return the vectors of all tokens, text after text."""
        return np.concatenate(list(encoded.columns["multi_vector"]))


class M3Embedder(StatesEmbedder):
    """A dense model with both heads, on one device."""

    def __init__(self, loaded: LoadedModel, limits: Limits, heads: Heads, make: Any) -> None:
        """Compute the states of texts by the `TokenStates` that `make` makes."""
        self._loaded, self._device, self._heads = loaded, loaded.device, heads
        self._limits = limits
        self._states: TokenStates = make()
        self._network, self._modules = next(iter(loaded.modules)), loaded.heads()
        self.pads, self.pass_tokens = self._states.pads, self._states.pass_tokens
        words = self._network.tokenizer
        vocabulary = int(self._network.auto_model.get_input_embeddings().weight.shape[0])
        self.preparer = self._tokenizer = TextTokenizer(
            words.backend_tokenizer, limits, vocabulary, side=words.truncation_side
        )
        facts = loaded.facts(limits.most, vocabulary, self._states.name)
        width = int(self._network.auto_model.config.hidden_size)
        self.facts = replace(facts, outputs=OUTPUTS, token_dimension=width)

    def free_network(self) -> None:
        """Free the network that a packed copy replaces."""
        if isinstance(self._states, PackedStates):
            strip(self._network.auto_model)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the token ids of each input. See `TextTokenizer.prepare`."""
        return self._tokenizer.prepare(inputs, prompt, truncate)

    def _forward(self, items: Sequence[Item]) -> Encoded:
        found: dict[Output, list[Value | None]] = {
            output: [None] * len(items)
            for output in (*OUTPUTS, TOKENS)
            if any(output in item.outputs for item in items)
        }

        def use(part: Part) -> None:
            part = replace(part, states=part.states.float())
            each = part.of_each(part.states)
            if "dense" in found:
                self._pool(part.rows, each, items, found["dense"])
            for row, states in zip(part.rows, each, strict=True):
                item = items[row]
                if "sparse" in item.outputs:
                    ids = np.asarray(item.payload, np.int64)
                    found["sparse"][row] = self._heads.terms(ids, states)
                if "multi_vector" in item.outputs:
                    found["multi_vector"][row] = self._heads.vectors(states)
                if TOKENS in item.outputs:
                    found[TOKENS][row] = np.array(states.cpu().numpy())

        payloads: Any = [item.payload for item in items]
        self._states(payloads, use, one_length=self.one_length)
        columns: dict[Output, Column] = {**found}
        if all("dense" in item.outputs for item in items):
            columns["dense"] = np.stack(columns["dense"])  # type: ignore[arg-type]
        return Encoded(columns, [item.tokens for item in items])

    def _pool(
        self, rows: Sequence[int], each: Sequence[Any], items: Sequence[Item],
        to: list[Value | None],
    ) -> None:  # fmt: skip
        """Give the texts that want one their dense vector, by the library's own modules."""
        import torch

        wanted = [at for at, row in enumerate(rows) if "dense" in items[row].outputs]
        for places in by_length([len(each[at]) for at in wanted]).values():
            chosen = [wanted[place] for place in places]
            states = torch.stack([each[at] for at in chosen])
            mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
            features = {"token_embeddings": states, "attention_mask": mask}
            for module in self._modules:
                features = module(features)
            vectors = features["sentence_embedding"].float().cpu().numpy()
            for at, vector in zip(chosen, vectors, strict=True):
                to[rows[at]] = np.ascontiguousarray(vector[: self.facts.dimension])

    def _in_float32(self) -> DeviceEmbedder:
        exact, limits = self._loaded.exactly(), self._limits
        network = exact.modules[0]
        encoder, pad_id = network.auto_model, network.tokenizer.pad_token_id or 0
        _, make = ways(exact, encoder, encoder, pad_id, limits.most)[-1]
        return M3Embedder(exact, limits, self._heads, make)

    def _release(self) -> None:
        del self._loaded, self._states, self._network, self._modules, self._heads
        self._copy = None
