"""Compares a backend's results with the library's own, for the same texts.

First the token ids of inputs that are hard for tokenizers, then the vectors of texts from one token
to over a thousand, alone and in one pass, for each prompt and side of a retrieval, and of texts of
special tokens, in several companies. Cosines are taken of the vectors and of their differences from
the mean: small and untrained models give all texts nearly one direction, in which any two backends
look equal.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from embedders.base import (
    Embedder,
    Encoded,
    Input,
    Item,
    Output,
    Prompt,
    Task,
    Truncate,
    Value,
    Vectors,
)
from errors import Invalid

# The least cosine to the library in the same dtype. In half precision two correct backends
# differ by rounding, as the library itself does between a text alone and in a batch.
EQUAL_FULL, EQUAL_HALF = 0.99999, 0.9995
OWN_SPREAD = 4.0  # times the library's own difference, allowed in half precision
FARTHEST = 0.995  # the least cosine, whatever the library's own difference is
# In int8, the least cosine to the library's float32. From the mean 1 - cosine is twice as large in
# MiniLM (at least 0.9880, and 0.9941, over these texts), so twice as much is allowed.
EQUAL_INT8, CENTRED_INT8 = 0.985, 0.97
TEXT = (
    "the model reads 42 words of a text and gives one vector; naïve café, vector spaces (a, b) and "
    "queries: what is near? Ein Satz auf Deutsch, текст по-русски, 向量数据库 の 検索, مثال, हिन्दी "
    "🙂 error_code=0x7f https://example.org/a?b=c don't re-use; it's over-fitted -3.14 TOTAL"
)
WORDS = TEXT.split()
LENGTHS = (1, 5, 20, 60, 200, 1040)  # tokens, about, up to the model's limit
MOST_TOKENS_CUT = 40_000  # a higher limit is not tried with a longer text
BATCH = 4  # texts in the library's batch, which is padded to the longest
FEW = 3
SPECIAL_TRIED = 40  # of a tokenizer's special tokens; some have hundreds of one kind
CROWD = 30  # times that a text has one special token
STRANGE = (
    "", " ", "two  spaces\n\tand a tab ", "[CLS] [SEP] [MASK] [PAD] [UNK]", "<s> </s> <pad> <mask>",
    "<|endoftext|> <|im_start|>user", "e\u0301 \u200b\ufeff \u00ad", "x" * 300, "\x00\x1f\x7f",
)  # fmt: skip


class Reference:
    """A `SentenceTransformer`, called as its users call it, by one thread at a time."""

    def __init__(self, model: Any) -> None:
        self.model = model
        for module in model.modules():
            warned = getattr(getattr(module, "tokenizer", None), "deprecation_warnings", None)
            if isinstance(warned, dict):  # no warning when the tokens that are cut off are counted
                warned["sequence-length-is-longer-than-the-specified-maximum"] = True

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first module that has one."""
        found = (getattr(module, "tokenizer", None) for module in self.model.modules())
        return next((each for each in found if each is not None), None)

    @property
    def sided(self) -> bool:
        """Whether the side of a retrieval decides the vectors of equal texts."""
        return self.routes

    @property
    def routes(self) -> bool:
        """Whether the side of a retrieval chooses the network."""
        return any(hasattr(module, "route_mappings") for module in self.model)

    def encode(self, texts: Sequence[str], prompt: Prompt, at_once: int = 32) -> Vectors:
        """Return (n, d) float32 as `encode`, `encode_query` or `encode_document` give them."""
        vectors = self.model.encode(
            list(texts), prompt=prompt.text, batch_size=at_once, show_progress_bar=False,
            **_task(prompt),
        )  # fmt: skip
        return np.ascontiguousarray(vectors, np.float32)

    def values(self, texts: Sequence[str], prompt: Prompt, at_once: int) -> Sequence[Value]:
        """Return what the model gives for each text, from batches of `at_once`."""
        return list(self.encode(texts, prompt, at_once))

    def comparable(self, encoded: Encoded) -> Vectors:
        """Return an embedder's results as rows (n, d) that are compared with those of `encode`."""
        return encoded.vectors

    def ids(self, text: str, prompt: Prompt) -> list[int] | None:
        """Return the token ids that the network reads, or None if it reads something else."""
        features = self._features([text], prompt)
        if "input_ids" in features and "attention_mask" in features:
            ids: list[int] = features["input_ids"][0][features["attention_mask"][0].bool()].tolist()
            return ids
        bags = _bags(features)
        return None if bags is None else bags[0]

    def counts(self, texts: Sequence[str], prompt: Prompt, truncation: bool = True) -> list[int]:
        """Return how many tokens of each text are read, or would be without truncation."""
        if truncation:
            return _counts(self._features(texts, prompt), texts)
        words: Any = getattr(next(iter(self.model)), "tokenizer", None)
        if hasattr(words, "tokenize") and not hasattr(words, "backend_tokenizer"):  # a word average
            return [len(words.tokenize(prompt.text + text)) for text in texts]
        uncut = {"processing_kwargs": {"text": {"truncation": False, "max_length": None}}}
        alone = [_counts(self._features([text], prompt, **uncut), [text]) for text in texts]
        return [count for counts in alone for count in counts]  # together they would be padded

    def reads_nothing(self, prompt: Prompt) -> bool:
        """Return whether a text without a token has a vector, as in a word average or a table.

        A transformer has no result for it.
        """
        features = self._features([" "], prompt)
        return "attention_mask" not in features or "sentence_lengths" in features

    def _features(self, texts: Sequence[str], prompt: Prompt, **options: Any) -> Any:
        return self.model.preprocess(
            list(texts), prompt=prompt.text or None, **_task(prompt), **options
        )


class StatesReference(Reference):
    """The states of tokens that a `SentenceTransformer` gives, before its pooling."""

    def are_given(self) -> bool:
        """Return whether there are any, with a mask of those that are padding."""
        (row,) = self.model.encode(["ok"], output_value=None, prompt="", show_progress_bar=False)
        return all(name in row for name in ("token_embeddings", "attention_mask"))

    def values(self, texts: Sequence[str], prompt: Prompt, at_once: int) -> Sequence[Value]:
        """Return the states (t, d) float32 of each text's tokens.

        They are what `encode(output_value="token_embeddings")` returns, without the padding that it
        leaves before texts that are padded on the left.
        """
        rows = self.model.encode(
            list(texts), prompt=prompt.text, batch_size=at_once, show_progress_bar=False,
            output_value=None, **_task(prompt),
        )  # fmt: skip
        found = [row["token_embeddings"][row["attention_mask"].bool()] for row in rows]
        return [states.float().cpu().numpy() for states in found]

    def encode(self, texts: Sequence[str], prompt: Prompt, at_once: int = 32) -> Vectors:
        """Return the states of all tokens, text after text, (tokens, d) float32."""
        return np.concatenate(list(self.values(texts, prompt, at_once)))

    def comparable(self, encoded: Encoded) -> Vectors:
        """Return the states of all tokens, text after text."""
        return np.concatenate(list(encoded.columns["tokens"]))


class Asking(Embedder):
    """An embedder that is asked for one of its outputs."""

    def __init__(self, embedder: Embedder, output: Output) -> None:
        self._embedder, self._output = embedder, output
        self.facts, self.portable = embedder.facts, embedder.portable
        self.encode = embedder.encode  # type: ignore[method-assign]

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the items, asked for that output."""
        items = self._embedder.prepare(inputs, prompt, truncate)
        return [replace(item, outputs=(self._output,)) for item in items]


class Proof:
    """The library's results for one model, computed once and compared with every backend."""

    def __init__(
        self, reference: Reference, limit: int, half: bool, quantized: bool = False
    ) -> None:
        """Take a model whose inputs are cut at `limit` tokens; `half` means half precision.

        With `quantized` the embedders run in int8, the reference in float32.
        """
        self._reference, self._limit, self._half = reference, limit, half
        self._quantized = quantized
        self._least = EQUAL_HALF if half else EQUAL_FULL
        self._words = 200 / max(1, reference.counts([words_of(200)], Prompt(), truncation=False)[0])
        lengths = [n for n in LENGTHS if n <= limit]
        if limit < LENGTHS[-1]:
            lengths.append(limit)
        self._texts = [words_of(round(n * self._words)) for n in lengths]
        self._short = self._texts[:FEW]
        self._odd = [*self._texts, *STRANGE]
        if limit <= MOST_TOKENS_CUT:
            self._odd.append(words_of(round((limit + 50) * self._words) + 1))
        special = special_of(reference.tokenizer)
        self._odd += [f"{token}a text{token}" for token in special]
        # A network may count special tokens, such as masks, over all of a pass.
        self._marked = [" text ".join(["", *special]), *self._short, " ".join(STRANGE), ""]
        self._crowds = crowds_of(reference.tokenizer)
        self._found: dict[tuple[object, ...], Vectors] = {}

    @functools.cached_property
    def leaks(self) -> bool:
        """Whether the library gives a text another vector in a batch with longer ones than alone.

        Padding changes the tokens of some networks (ConvBERT, MobileBERT, FNet), and the longest
        text the positions of some. The vector of the text alone is right; passes of texts of one
        length give it.
        """
        tasks: tuple[Task, ...] = ("query", "document") if self._reference.routes else ()
        worst = 1.0
        for task in (None, *tasks):
            for texts in self._texts[:BATCH], [self._short[-1], self._texts[-1]]:
                alone, batch = self._answer(Prompt(task=task), texts)
                worst = min(worst, float(cosines(alone, batch).min()))
        return not worst >= self._least

    def difference(self, embedder: Embedder) -> str | None:
        """Return how an embedder's results differ from the library's, or None if they do not."""
        prompts = _prompts(embedder)
        for prompt in prompts:
            if difference := self._ids_differ(embedder, prompt):
                return difference
        distinct = {(p.text, self._task(p)): p for p in reversed(prompts)}
        for prompt in reversed(distinct.values()):
            texts = self._texts if prompt == prompts[0] else self._short
            if difference := self._vectors_differ(embedder, prompt, texts):
                return difference
        return self._marked_differ(embedder, prompts[0])

    def states_differ(self, embedder: Embedder) -> str | None:
        """Return how the states of tokens differ from the library's, or None, or without any.

        A few short texts show it, as all else that makes states is that which makes vectors.
        """
        if not embedder.facts.token_dimension:
            return None
        states = StatesReference(self._reference.model)
        if not states.are_given():  # a table has its rows
            return None
        proof = Proof(states, self._limit, self._half, self._quantized)
        vars(proof)["leaks"] = self.leaks
        return proof._vectors_differ(Asking(embedder, "tokens"), Prompt(), proof._short)

    def _ids_differ(self, embedder: Embedder, prompt: Prompt) -> str | None:
        for text in self._odd:
            ids = self._reference.ids(text, prompt)
            if ids is None:
                return "the library reads more than token ids"
            try:
                (item,) = embedder.prepare([text], prompt, "auto")
            except Invalid:  # without a token; the library has no result for it either
                if ids:
                    return f"the library reads {len(ids)} tokens of {text[:20]!r}"
                continue
            if list(item.payload) != ids:
                return f"other token ids of {text[:20]!r}{_named(prompt)}"
        return None

    def _marked_differ(self, embedder: Embedder, prompt: Prompt) -> str | None:
        """Return how vectors of strange texts differ, alone and in passes of several companies."""
        texts = [text for text in self._marked if self._reference.ids(text, prompt)]
        crowded = [[*self._short[:2], crowd, self._short[0]] for crowd in self._crowds]
        for company in texts, texts[::2], *crowded:
            if difference := self._vectors_differ(embedder, prompt, company):
                return difference
        return None

    def _vectors_differ(
        self, embedder: Embedder, prompt: Prompt, texts: Sequence[str]
    ) -> str | None:
        alone, batch = self._answer(prompt, texts)
        if self.leaks:
            batch = alone
        items = embedder.prepare(texts, prompt, "auto")
        rows = self._reference.comparable
        ours_alone = np.concatenate([rows(embedder.encode([item])) for item in items])
        ours_batch = rows(embedder.encode(items))
        if ours_alone.shape != alone.shape:
            return f"{ours_alone.shape} numbers{_named(prompt)}, not {alone.shape}"
        middle = batch.mean(axis=0)
        shifts = [(np.zeros_like(middle), ""), (middle, " from the mean")]
        # A few texts differ little from their mean, and rounding changes that difference most.
        many = texts is self._texts and len(texts) > FEW
        exact = not (self._half or self._quantized)
        for shift, centred in shifts if many or exact else shifts[:1]:
            spread = float((1 - cosines(alone - shift, batch - shift)).max())
            allowed = min(self._least, max(FARTHEST, 1 - OWN_SPREAD * spread))
            if self._quantized:
                allowed = CENTRED_INT8 if centred else EQUAL_INT8
            for ours, theirs, how in (ours_alone, alone, "alone"), (ours_batch, batch, "in a pass"):
                found = np.nan_to_num(cosines(ours - shift, theirs - shift), nan=-1.0)
                if centred:  # texts that are all cut to one prompt do not differ from their mean
                    own, whole = (np.linalg.norm(x, axis=1) for x in (theirs - shift, theirs))
                    found = np.where(own < 1e-5 * whole, 1.0, found)
                if (found < allowed).any():
                    row = int(np.argmin(found))
                    of_texts = len(found) == len(items)
                    what = f"a text of {items[row].tokens} tokens" if of_texts else "a token"
                    return (
                        f"{what} {how}{_named(prompt)} has cosine {found[row]:.5f}{centred} "
                        "to the library's vector"
                    )
        if self._quantized and (apart := cosines(ours_alone, ours_batch).min()) < EQUAL_HALF:
            return f"a text in a pass has cosine {apart:.5f} to its vector alone"
        return None

    def _answer(self, prompt: Prompt, texts: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Return the library's vectors of texts alone, and with the first `BATCH` in a batch."""
        alone = [self._encoded((text,), prompt) for text in texts]
        batch = self._encoded(tuple(texts[:BATCH]), prompt)
        return np.concatenate(alone), np.concatenate([batch, *alone[BATCH:]])

    def _task(self, prompt: Prompt) -> Task | None:
        """Return a prompt's side where that decides the vectors beside the text."""
        return prompt.task if self._reference.sided else None

    def _encoded(self, texts: tuple[str, ...], prompt: Prompt) -> Vectors:
        key = (texts, prompt.text, self._task(prompt))
        if key not in self._found:
            self._found[key] = self._reference.encode(texts, prompt)
        return self._found[key]


def special_of(tokenizer: Any) -> list[str]:
    """Return the special tokens that are tried."""
    found: list[str] = getattr(tokenizer, "all_special_tokens", [])
    return found[:SPECIAL_TRIED]


def crowds_of(tokenizer: Any) -> list[str]:
    """Return a text for each special token that has a role, of nothing but that token."""
    named = getattr(tokenizer, "special_tokens_map", {}).values()
    return [" ".join([token] * CROWD) for token in dict.fromkeys(filter(_is_text, named))]


def words_of(count: int) -> str:
    """Return a text of so many words, always the same."""
    rows = (WORDS[(7 * i + i // len(WORDS)) % len(WORDS)] for i in range(count))
    return " ".join(rows) if count > 1 else "a"


def cosines(a: Vectors, b: Vectors) -> Vectors:
    """Return the cosine of each row of (n, d) with its counterpart; of two zero rows it is 1."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~(a.any(axis=1) | b.any(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Vectors = np.where(both_zero, 1.0, (a * b).sum(axis=1) / lengths)
    return found


def _prompts(embedder: Embedder) -> list[Prompt]:
    """Return every prompt that a request can choose once, the default first."""
    facts = embedder.facts
    named = (embedder.prompt(name, None) for name in facts.prompts)
    roles = (embedder.prompt(None, None, role) for role in ("query", "document"))
    plain = [embedder.prompt(None, None), Prompt()]
    if not embedder.portable:  # the tokens of any prompt are left out of the mean
        plain += [Prompt(" "), Prompt("In other words: "), Prompt("again and " * 500)]
    chosen = {(p.text, p.task): p for p in reversed([*plain, *chain(roles, named)])}
    return list(reversed(chosen.values()))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _named(prompt: Prompt) -> str:
    return f" with the prompt {prompt.text[:40]!r}" if prompt.text else ""


def _counts(features: Any, texts: Sequence[str]) -> list[int]:
    for name in ("sentence_lengths", "attention_mask"):
        if name in features:
            found = features[name] if name == "sentence_lengths" else features[name].sum(dim=1)
            return [int(count) for count in found]
    bags = _bags(features)
    return [len(bag) for bag in bags] if bags is not None else [len(t.split()) for t in texts]


def _task(prompt: Prompt) -> dict[str, str]:
    return {} if prompt.task is None else {"task": prompt.task}


def _bags(features: Any) -> list[list[int]] | None:
    """Return the ids of each text of a static model, whose texts are concatenated."""
    if "input_ids" not in features or "offsets" not in features:
        return None
    ids, starts = features["input_ids"].tolist(), features["offsets"].tolist()
    return [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
