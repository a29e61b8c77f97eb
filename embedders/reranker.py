"""Runs rerankers and classifiers: the scores of a pair of texts that one network reads together.

A cross-encoder has a head that gives scores; a causal reranker is a language model that answers yes
or no to a question of which the pair is a part. Scores come out raw, in float32. Each way through
the network is compared with `CrossEncoder.predict` before it serves.
"""

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from embedders import proven
from embedders.base import (
    Activation,
    Embedder,
    Encoded,
    Facts,
    Input,
    Item,
    Pair,
    Preparer,
    Prompt,
    Truncate,
    Value,
    Vectors,
)
from embedders.causal import answers_by_words, instructions, recipe_of, rendered, tell
from embedders.device import DeviceEmbedder
from embedders.fallback import LibraryEmbedder, refuse_lower_limit
from embedders.graph import WIDEST, OnnxFirstTokens
from embedders.layers import FirstTokens, cores, use_cores
from embedders.loading import Found, LoadedModel, load
from embedders.packed import can_pack, strip
from embedders.pair_proof import (
    LibraryScorer,
    PairProof,
    PublishedScorer,
    Scorer,
    library_scores,
)
from embedders.pairs import OtherLayout, no_single_text, pair_tokenizer, too_long
from embedders.quantized import QuantizedFirstTokens, check, magnitudes_of
from embedders.states import FlatStates, PackedStates, Part, StatesEmbedder, TokenStates
from embedders.templates import TemplateTokenizer
from embedders.tokens import MOST_TOKENS, Limits
from errors import BadRequest, ModelUnavailable

log = logging.getLogger("embedders")
ACTIVATIONS: dict[str, Activation] = {
    "Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax",
}  # fmt: skip
# Of several scores, by what the network was trained for; else they are shares of one class.
PROBLEMS: dict[str | None, Activation] = {
    "regression": "identity", "multi_label_classification": "sigmoid",
}  # fmt: skip
AT_ONCE = 32  # pairs in a batch of the library's `predict`, its default


def build(found: Found) -> Embedder:
    """Return a reranker or a classifier, loaded. Raises ModelUnavailable."""
    return proven.in_its_dtype(load(found), choose)


def choose(loaded: LoadedModel) -> Embedder:
    """Return what runs the model: the first way that is proven equal to `CrossEncoder.predict`."""
    model, (_, limits) = loaded.modules, loaded.limits()
    network, tokenizer = next(iter(model)).model, next(iter(model)).tokenizer
    if getattr(network.config, "pad_token_id", 0) is None:  # it is looked for in each pass
        network.config.pad_token_id = tokenizer.pad_token_id
    recipe, prompts = recipe_of(loaded), _prompts(model)
    scorer: Scorer = LibraryScorer(model)
    ways: list[proven.Backend] = []
    try:
        if recipe is None:
            preparer = _preparer(loaded, limits)
        else:
            tell(recipe, model)
            backend = tokenizer.backend_tokenizer
            preparer = TemplateTokenizer(backend, limits.most, recipe.template)
            scorer = PublishedScorer(model, preparer, recipe.template, limits.most)
    except OtherLayout as exc:
        log.warning("%s: %s", loaded.spec.id, exc)
    else:
        ways = [
            (
                way.name if way else "torch",
                functools.partial(Reranker, loaded, preparer, limits, way),
            )
            for way in (*_ways(loaded, limits), *([] if loaded.quantized else [None]))
        ]

    def library(note: str) -> DeviceEmbedder:
        if recipe is not None:
            raise ModelUnavailable(f"{loaded.spec.model_name!r} runs by no way equal to its recipe")
        return LibraryReranker(loaded, limits, note)

    half = loaded.dtype.itemsize < 4
    proof = PairProof(scorer, limits.most, half, prompts, quantized=loaded.quantized)
    return proven.choose(loaded, limits.most, ways, proof, library)


def _preparer(loaded: LoadedModel, limits: Limits) -> Preparer:
    """Return what prepares pairs as the library does. Raises OtherLayout."""
    transformer = next(iter(loaded.modules))
    tokenizer = transformer.tokenizer
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise OtherLayout("its tokenizer is not a fast one")
    if "message" in transformer.modality_config:
        template = rendered(transformer)
        return TemplateTokenizer(tokenizer.backend_tokenizer, limits.most, template)
    return pair_tokenizer(
        tokenizer.backend_tokenizer, limits.most, _vocabulary(loaded.modules),
        typed="token_type_ids" in tokenizer.model_input_names, side=tokenizer.truncation_side,
    )  # fmt: skip


def _ways(loaded: LoadedModel, limits: Limits) -> list["Way"]:
    """Return the ways past the library's modules, the fastest first."""
    import torch

    found = head_of(loaded.modules)
    if loaded.quantized:
        check(found and found[0], limits.most, loaded.backend)
        network, head = found  # type: ignore[misc]  # without it `check` raises
        tokenizer = next(iter(loaded.modules)).tokenizer
        make = functools.partial(
            QuantizedFirstTokens, magnitudes_of(network, tokenizer, limits.most)
        )
        states = functools.partial(PackedStates, network, loaded.dtype, make)
        return [Way(QuantizedFirstTokens.name, network, head, states)]
    if found is None or loaded.backend == "torch":
        return []
    network, head = found
    if loaded.device.type != "cpu" or not can_pack(network):
        return [Way("flat", network, head, lambda: FlatStates(network))]
    onnx = loaded.dtype == torch.float32 and loaded.backend in ("auto", "onnx")
    return [
        Way(m.name, network, head, functools.partial(PackedStates, network, loaded.dtype, m))
        for m in ([OnnxFirstTokens] if onnx and limits.most <= WIDEST else []) + [FirstTokens]
    ]


@dataclass(frozen=True)
class Head:
    """What makes scores of the state of one token, or of the mean of all, in float32."""

    at: Literal["first", "last", "mean"]
    scores: Callable[[Any], Any]  # (n, d) -> (n, labels)
    padding: int | None = None  # an id that is passed over where the last token is looked for

    def __call__(self, part: Part, inputs: Sequence[Sequence[int]]) -> Vectors:
        """Return the scores of each text of a part, (n, labels). `inputs` are all of the pass."""
        import torch

        if self.at == "mean":
            rows = torch.stack([states.float().mean(0) for states in part.of_each(part.states)])
        else:
            lengths = torch.tensor(part.lengths)
            places = lengths.cumsum(0) - lengths
            if self.at == "last":
                places += torch.tensor([self._last(inputs[row]) for row in part.rows])
            rows = part.states[places.to(part.states.device)].float()
        found: Vectors = self.scores(rows).float().cpu().numpy()
        return found

    def _last(self, ids: Sequence[int]) -> int:
        """Return the place of the last token but padding, which a text may hold too."""
        places = range(len(ids) - 1, -1, -1)
        return next((place for place in places if ids[place] != self.padding), 0)


def head_of(model: Any) -> tuple[Any, Head] | None:
    """Return the network that gives the states, and the head on them, where they are known."""
    network = next(iter(model)).model
    base, count = getattr(network, "base_model", network), len(list(model))
    if base is network:
        return None
    if answers_by_words(model) and count == 2 and hasattr(network, "lm_head"):
        score = list(model)[-1]
        weight = network.lm_head.weight.detach()
        row = weight[score.true_token_id].float()
        if score.false_token_id is not None:
            row = row - weight[score.false_token_id].float()
        return base, Head("last", lambda states: states @ row[:, None])
    if count > 1:
        return None
    classifier, score = _exact(network, "classifier"), _exact(network, "score")
    pooler, prediction = _exact(base, "pooler"), _exact(network, "head")
    if score is not None:
        return base, Head("last", score, network.config.pad_token_id)
    if classifier is None:
        return None
    if hasattr(classifier, "out_proj"):  # RoBERTa's reads the first state of each text
        return base, Head("first", lambda states: classifier(states[:, None]))
    if prediction is not None:  # ModernBERT
        means = network.config.classifier_pooling == "mean"
        return base, Head("mean" if means else "first", lambda x: classifier(prediction(x)))
    if pooler is not None:  # BERT
        return base, Head("first", lambda states: classifier(pooler(states[:, None])))
    return None


def _exact(owner: Any, name: str) -> Any:
    """Return a copy in float32 of a part of a network, or None without it."""
    part = getattr(owner, name, None)
    return None if part is None else copy.deepcopy(part).float()


class Way(NamedTuple):
    """A way through the network up to the tokens' states, and the head on them."""

    name: str
    network: Any
    head: Head
    make: Callable[[], TokenStates]


class Reranker(StatesEmbedder):
    """A cross-encoder or a causal reranker on one device."""

    preparer: Preparer

    def __init__(
        self, loaded: LoadedModel, preparer: Preparer, limits: Limits,
        way: Way | None,
    ) -> None:  # fmt: skip
        """Run by a way, or without one by the library's modules, padded."""
        self._loaded, self._device, self._limits = loaded, loaded.device, limits
        self.preparer, self._way = preparer, way
        self._states = way and way.make()
        if self._states is not None:
            self.pads, self.pass_tokens = self._states.pads, self._states.pass_tokens
        self.facts = facts_of(loaded, limits.most, way.name if way else "torch")

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return texts alone. Raises BadRequest for a model that reads pairs by a template."""
        return self.preparer.prepare(inputs, prompt, truncate)

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return the ids of each pair. See `Embedder`."""
        return self.preparer.prepare_pairs(pairs, prompt, truncate)

    def trial(self, text: str = "ok") -> list[Item]:
        """Return one short pair, ready to be scored."""
        return self.prepare_pairs([Pair("ok", text)], Prompt(), "right")

    def free_network(self) -> None:
        """Free the network that packed layers replace."""
        if self._way is not None and isinstance(self._states, PackedStates):
            strip(self._way.network)

    def _forward(self, items: Sequence[Item]) -> Encoded:
        """Return the raw scores of one pass."""
        tokens = [item.tokens for item in items]
        if self._way is None or self._states is None:
            if self._device.type == "cpu":
                use_cores(cores())
            return _scored(library_scores(self._loaded.modules, items, self.one_length), tokens)
        head, scores = self._way.head, np.empty((len(items), len(self.facts.labels)), np.float32)

        def use(part: Part) -> None:
            scores[list(part.rows)] = head(part, payloads)

        payloads: Any = [item.payload for item in items]
        seconds = [item.second for item in items]
        self._states(payloads, use, seconds=seconds if any(seconds) else ())
        return _scored(scores, tokens)

    def _in_float32(self) -> DeviceEmbedder:
        loaded = self._loaded.exactly()
        if recipe := recipe_of(loaded):
            tell(recipe, loaded.modules)
        return Reranker(loaded, self.preparer, self._limits, None)

    def _release(self) -> None:
        del self._loaded, self._way, self._states
        self._copy = None


class LibraryReranker(LibraryEmbedder):
    """A cross-encoder that the library itself runs, from texts to scores."""

    _library: LibraryScorer

    def __init__(self, loaded: LoadedModel, limits: Limits, note: str) -> None:
        self._limit = limits.most
        facts = facts_of(loaded, limits.most, "library", note)
        super().__init__(loaded, LibraryScorer(loaded.modules), facts)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Raise BadRequest: it takes pairs, as the library does."""
        if self.facts.kind == "classifier":
            raise BadRequest("this classifier reads pairs of texts here, not texts alone")
        raise no_single_text()

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return the pairs' texts, and how many tokens the library reads of each. See `Embedder`.

        A payload is both texts, and `second` where the document begins.
        """
        refuse_lower_limit(prompt, self.facts.max_tokens)
        side = self._library.transformer.tokenizer.truncation_side
        if truncate not in (side, "auto", "error"):
            end = "start" if side == "left" else "end"
            raise BadRequest(f"this model can cut only a text's {end}: truncate {side} or error")
        items = []
        with self._lock:
            read = self._library.counts(pairs, prompt)
            whole = self._library.counts(pairs, prompt, truncation=False)
        for index, (pair, count, full) in enumerate(zip(pairs, read, whole, strict=True)):
            if full > count and truncate == "error":
                raise too_long(index, self._limit)
            text, second = pair.query + pair.document, len(pair.query)
            items.append(Item(text, count, full > count, prompt=prompt, second=second))
        return items

    def trial(self, text: str = "ok") -> list[Item]:
        """Return one short pair, ready to be scored."""
        return self.prepare_pairs([Pair("ok", text)], Prompt(), "right")

    def _values(self, items: Sequence[Item]) -> Sequence[Value]:
        pairs = [_pair_of(item) for item in items]
        return list(self._library.scores(pairs, items[0].prompt, AT_ONCE))


def facts_of(loaded: LoadedModel, limit: int, backend: str, *notes: str) -> Facts:
    """Return the facts of a reranker or classifier. `backend` is what runs its passes."""
    model = loaded.modules
    return Facts(
        dimension=0, max_tokens=limit if limit < MOST_TOKENS else None,
        device=str(loaded.device), backend=backend,
        dtype=loaded.precision, fingerprint=loaded.fingerprint(limit),
        outputs=("score",), labels=_labels(model), activation=activation_of(model),
        revision=loaded.spec.revision, vocabulary=_vocabulary(model),
        prompts=instructions(model.prompts), default_prompt_name=model.default_prompt_name,
        notes=(*loaded.notes, *notes),
    )  # fmt: skip


def activation_of(model: Any) -> Activation:
    """Return what the folder says is made of the raw scores. Raises ModelUnavailable.

    Where it names none, several scores are as a pipeline of transformers makes them. Identity is no
    name: the library writes it into each classifier that it saves.
    """
    name = type(model.activation_fn).__name__
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ModelUnavailable(f"its activation {name} is not known here; known: {known}")
    if model.num_labels == 1 and name == "Softmax":
        raise ModelUnavailable("its activation Softmax makes 1 of every single score")
    if model.num_labels == 1 or name != "Identity":
        return ACTIVATIONS[name]
    return PROBLEMS.get(getattr(model.config, "problem_type", None), "softmax")


def _labels(model: Any) -> tuple[str, ...]:
    if answers_by_words(model):  # its config names labels all the same, of no head
        return ("score",)
    named = getattr(model.config, "id2label", None) or {}
    return tuple(str(named.get(i, f"LABEL_{i}")) for i in range(model.num_labels))


def _vocabulary(model: Any) -> int:
    return int(next(iter(model)).model.get_input_embeddings().weight.shape[0])


def _prompts(model: Any) -> list[Prompt]:
    """Return every prompt that a request can choose by name once, the default first."""
    named = instructions(model.prompts)
    texts = [named.get(model.default_prompt_name or "", ""), "", *named.values()]
    return [Prompt(text) for text in dict.fromkeys(texts)]


def _pair_of(item: Item) -> Pair:
    text = str(item.payload)
    return Pair(text[: item.second], text[item.second :])


def _scored(scores: Vectors, tokens: Sequence[int]) -> Encoded:
    return Encoded({"score": scores}, tokens)
