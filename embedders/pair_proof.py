"""Compares a reranker's token ids and raw scores with those of the library's `CrossEncoder`.

Pairs from two words to over three hundred, alone and in one pass, and pairs of special tokens, in
several companies. Untrained models give all pairs nearly one score, so differences are judged by
the spread of the scores too.
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from embedders.base import Embedder, Item, Pair, Preparer, Prompt, Vectors
from embedders.packed import by_length
from embedders.pairs import PairTokenizer
from embedders.proof import MOST_TOKENS_CUT, STRANGE, crowds_of, special_of, words_of
from embedders.templates import Template

# The most that a raw score may differ from the library's: in float32 itself, in half precision as
# a share of the spread of the scores, and times what the library's own scores differ by between a
# pair alone and in a batch.
MOST_FULL, LEAST_FULL, SHARE_FULL = 1e-4, 1e-6, 0.01
SHARE_HALF, FARTHEST_SHARE, OWN_SPREAD = 0.02, 0.1, 4.0
SHARE_INT8 = 0.1  # in int8, to the library's float32: as far as half precision may ever differ
WORDS = ((1, 1), (3, 12), (6, 40), (4, 120), (30, 60), (8, 300))  # of queries and documents
SCORES = "sequence-classification"  # the task of a network with a head for scores
BATCH = 4  # pairs in the library's batch, which is padded to the longest


class Scorer(Protocol):
    """What the proof compares with: the library's ids and scores of pairs."""

    model: Any  # the library's

    def ids(self, given: Pair | str, prompt: Prompt) -> list[int] | None:
        """Return the ids that the network reads, or None if the recipe is not the library's."""

    def scores(self, pairs: Sequence[Pair], prompt: Prompt, at_once: int) -> Vectors:
        """Return the raw scores (n, labels) float32, from batches of `at_once`."""


class LibraryScorer:
    """A `CrossEncoder`, called as its users call it, by one thread at a time."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.transformer = next(iter(model))
        warned = getattr(self.transformer.tokenizer, "deprecation_warnings", None)
        if isinstance(warned, dict):  # no warning when the tokens that are cut off are counted
            warned["sequence-length-is-longer-than-the-specified-maximum"] = True

    def ids(self, given: Pair | str, prompt: Prompt) -> list[int] | None:
        """See `Scorer`."""
        inputs = [given if isinstance(given, str) else list(given)]
        features = self.model.preprocess(inputs, prompt=prompt.text or None)
        mask = features["attention_mask"][0].bool()
        ids: list[int] = features["input_ids"][0][mask].tolist()
        return ids

    def counts(self, pairs: Sequence[Pair], prompt: Prompt, truncation: bool = True) -> list[int]:
        """Return how many tokens of each pair are read, or would be without truncation."""
        options: dict[str, Any] = {}
        if not truncation:
            options = {"processing_kwargs": {"text": {"truncation": False, "max_length": None}}}
        given = ([list(pair)] for pair in pairs)  # together they would be padded
        read = [self.model.preprocess(one, prompt=prompt.text or None, **options) for one in given]
        return [int(features["attention_mask"].sum()) for features in read]

    def scores(self, pairs: Sequence[Pair], prompt: Prompt, at_once: int) -> Vectors:
        """See `Scorer`."""
        import torch

        found = self.model.predict(
            [list(pair) for pair in pairs], prompt=prompt.text, batch_size=at_once,
            activation_fn=torch.nn.Identity(), show_progress_bar=False,
        )  # fmt: skip
        return np.ascontiguousarray(found, np.float32).reshape(len(pairs), -1)


class PublishedScorer:
    """The library's network on the ids of a published recipe, which the library does not know."""

    def __init__(self, model: Any, preparer: Preparer, template: Template, limit: int) -> None:
        self.model, self._preparer = model, preparer
        self._template, self._limit = template, limit

    def ids(self, given: Pair | str, prompt: Prompt) -> list[int] | None:
        """Return the ids of the template's segments, of which the document's end is cut.

        None where the query takes all of the room: the recipes do not say what is cut of it.
        """
        if isinstance(given, str):
            return None
        pair = given
        words = next(iter(self.model)).tokenizer

        def ids(text: str) -> list[int]:
            places = {"{instruction}": prompt.text, "{query}": pair.query}
            for place, given in {**places, "{document}": pair.document}.items():
                text = text.replace(place, given)
            found: list[int] = words(text, add_special_tokens=False)["input_ids"]
            return found

        segments = self._template.prompted if prompt.text else self._template.segments
        parts = [ids(segment) for segment in segments]
        over = sum(map(len, parts)) - self._limit
        if over >= len(ids("{document}")):
            return None
        at = next(i for i, segment in enumerate(segments) if "{document}" in segment)
        end = len(parts[at]) - len(ids(segments[at].split("{document}")[1]))
        if over > 0:
            del parts[at][end - over : end]
        return [token for part in parts for token in part]

    def scores(self, pairs: Sequence[Pair], prompt: Prompt, at_once: int) -> Vectors:
        """See `Scorer`."""
        items = self._preparer.prepare_pairs(pairs, prompt, "auto")
        parts = [items[at : at + at_once] for at in range(0, len(items), at_once)]
        return np.concatenate([library_scores(self.model, part) for part in parts])


def library_scores(model: Any, items: Sequence[Item], one_length: bool = False) -> Vectors:
    """Return the raw scores (n, labels) float32 of the library's modules, padded as it pads.

    With `one_length` only pairs of one length are padded together.
    """
    import torch

    transformer = next(iter(model))
    tokenizer, writes = transformer.tokenizer, transformer.transformer_task != SCORES
    left = writes or tokenizer.padding_side == "left"
    lengths = [item.tokens for item in items]
    groups = list(by_length(lengths).values()) if one_length else [list(range(len(items)))]
    found: dict[int, Any] = {}
    for rows in groups:
        width = max(lengths[row] for row in rows)
        ids = np.full((len(rows), width), tokenizer.pad_token_id or 0, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for at, row in enumerate(rows):
            start = width - lengths[row] if left else 0
            block = slice(start, start + lengths[row])
            ids[at, block], mask[at, block] = items[row].payload, 1
            if items[row].second:
                types[at, start + items[row].second : block.stop] = 1
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in tokenizer.model_input_names:
            features["token_type_ids"] = types
        features = {k: torch.from_numpy(a).to(model.device) for k, a in features.items()}
        known = transformer.modality_config
        features["modality"] = "message" if "message" in known else "text"
        if writes:
            features["logits_to_keep"] = 1
        with torch.inference_mode():
            scores = model(features)["scores"].float().cpu().numpy()
        found.update(zip(rows, scores, strict=True))
    return np.stack([np.atleast_1d(found[row]) for row in range(len(items))]).astype(np.float32)


class PairProof:
    """The library's scores of a few pairs, computed once and compared with every backend."""

    def __init__(
        self, scorer: Scorer, limit: int, half: bool, prompts: Sequence[Prompt], *,
        quantized: bool = False,
    ) -> None:  # fmt: skip
        """Take a model whose pairs are cut at `limit` tokens; `half` means half precision.

        With `quantized` the embedders run in int8, the scorer in float32.
        """
        self._scorer, self._half, self._prompts = scorer, half, prompts
        self._quantized = quantized
        self._pairs = [Pair(words_of(query), words_of(document)) for query, document in WORDS]
        self._odd = [*self._pairs, *(Pair("a query", each) for each in STRANGE)]
        # A query that leaves no room for a document is cut here, by the library it is not.
        tokenizer = next(iter(scorer.model)).tokenizer
        special = special_of(tokenizer)
        every = " text ".join(["", *special])
        queries = [each for each in (*STRANGE, every) if each.strip() and len(each) < limit // 4]
        mark = queries[-1] if queries else "a query"
        self._odd += [Pair(each, "a document") for each in queries]
        self._odd += [Pair("a query", f"{token}a text{token}") for token in special]
        # A network may count special tokens, such as masks, over all of a pass. One pair is there
        # twice in a company, and in each of them.
        some, other = self._pairs[:2]
        odd = " ".join(filter(str.strip, STRANGE))
        marked = [Pair("a query", every), some, Pair(mark, odd), other, some, Pair(mark, every)]
        crowds = [Pair("a query", crowd) for crowd in crowds_of(tokenizer)]
        self._odd += [*marked, *crowds]
        self._companies = [self._pairs, marked, marked[::2]]
        self._companies += [[some, other, crowd, some] for crowd in crowds]
        self._long: list[Pair] = []
        self._found: dict[tuple[Pair, ...], Vectors] = {}
        if limit <= MOST_TOKENS_CUT:
            self._odd.append(Pair(words_of(5), words_of(limit + 50)))
            lengths = (limit + 50, limit + 90), (limit + 90, limit + 50), (limit, limit // 2)
            self._long = [Pair(words_of(query), words_of(document)) for query, document in lengths]

    @functools.cached_property
    def leaks(self) -> bool:
        """Whether the library gives a pair another score in a batch with longer ones than alone.

        The score of the pair alone is right; passes of pairs of one length give it.
        """
        spread = _spread(self._answers(self._pairs)[0])
        full = min(MOST_FULL, max(SHARE_FULL * spread, LEAST_FULL))
        most = SHARE_HALF * spread * OWN_SPREAD if self._half else full
        return any(not self._own(company) <= most for company in self._companies)

    def difference(self, embedder: Embedder) -> str | None:
        """Return how an embedder's results differ from the library's, or None if they do not."""
        odd: list[Pair | str] = [*self._odd]
        if isinstance(embedder.preparer, PairTokenizer):  # no template
            odd += self._long
            odd += [pair.document for pair in (*self._odd, *self._long) if pair.document.strip()]
        for prompt in self._prompts:
            for given in odd:
                ids = self._scorer.ids(given, prompt)
                if isinstance(given, str):
                    (item,) = embedder.prepare([given], prompt, "auto")
                else:
                    (item,) = embedder.prepare_pairs([given], prompt, "auto")
                if ids is not None and list(item.payload) != ids:
                    texts = [given] if isinstance(given, str) else given
                    return f"other token ids of {' and '.join(repr(text[:20]) for text in texts)}"
        for company in self._companies:
            if difference := self._scores_differ(embedder, company):
                return difference
        return None

    def _scores_differ(self, embedder: Embedder, pairs: Sequence[Pair]) -> str | None:
        usual, (alone, _) = self._answers(self._pairs)[0], self._answers(pairs)
        items = embedder.prepare_pairs(pairs, self._prompts[0], "auto")
        ours = np.concatenate([embedder.encode([item]).columns["score"] for item in items])
        together = np.asarray(embedder.encode(items).columns["score"])
        if ours.shape != alone.shape:
            return f"scores of the shape {ours.shape}, not {alone.shape}"
        most = self._most(_spread(usual), max(map(self._own, self._companies)))
        for found, how in (ours, "alone"), (together, "in a pass"):
            off = np.nan_to_num(np.abs(found - alone), nan=np.inf).max(axis=1)
            if not off.max() <= most:
                row = int(off.argmax())
                return (
                    f"a pair of {items[row].tokens} tokens {how} scores {off[row]:.2g} off the "
                    f"library's; {most:.2g} is allowed"
                )
        return None

    def states_differ(self, embedder: Embedder) -> str | None:
        """Return None: a reranker gives none."""
        return None

    def _most(self, spread: float, own: float = 0.0) -> float:
        """Return the most that a score may be off."""
        if self._quantized:
            return SHARE_INT8 * spread
        if not self._half:
            return min(MOST_FULL, max(SHARE_FULL * spread, LEAST_FULL))
        return max(SHARE_HALF * spread, min(OWN_SPREAD * own, FARTHEST_SHARE * spread))

    def _own(self, pairs: Sequence[Pair]) -> float:
        """Return the most that the library's scores differ by between pairs alone and a batch."""
        alone, batch = self._answers(pairs)
        return float(np.abs(alone - batch).max())

    def _answers(self, pairs: Sequence[Pair]) -> tuple[Vectors, Vectors]:
        """Return the library's scores of pairs alone, and in batches."""
        alone = [self._scores((pair,)) for pair in pairs]
        return np.concatenate(alone), self._scores(tuple(pairs))

    def _scores(self, pairs: tuple[Pair, ...]) -> Vectors:
        if pairs not in self._found:
            self._found[pairs] = self._scorer.scores(pairs, self._prompts[0], BATCH)
        return self._found[pairs]


def _spread(scores: Vectors) -> float:
    return float(np.ptp(scores, axis=0).max())
