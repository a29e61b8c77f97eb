"""Holds a way of running a model to what the library itself makes of the same texts.

Compared are the token ids of inputs that tokenizers stumble over, then vectors of texts from one
token to over a thousand, alone and in one pass, for each prompt and side of a retrieval. Cosines
are taken as they are and from the vectors' mean: small and untrained models give all texts nearly
one direction, in which any two ways look alike.
"""

import functools
from collections.abc import Sequence
from itertools import chain

import numpy as np

from embedders.base import Embedder, Prompt, Task, Vectors
from embedders.reference import Reference
from errors import Invalid

# The least cosine to the library in the same dtype. In half precision two right ways differ by
# rounding, and by what the library itself differs from text alone to text in a batch.
EQUAL_FULL, EQUAL_HALF = 0.99999, 0.9995
OWN_SPREAD = 4.0  # times the library's own difference that a half precision way may have
FARTHEST = 0.995  # whatever the library's own difference is
TEXT = (
    "the model reads 42 words of a text and gives one vector; naïve café, vector spaces (a, b) and "
    "queries: what is near? Ein Satz auf Deutsch, текст по-русски, 向量数据库 の 検索, مثال, हिन्दी "
    "🙂 error_code=0x7f https://example.org/a?b=c don't re-use; it's over-fitted -3.14 TOTAL"
)
WORDS = TEXT.split()
LENGTHS = (1, 5, 20, 60, 200, 1040)  # tokens, about; those that a model reads
MOST_TOKENS_CUT = 40_000  # a limit beyond is not tried with a longer text
BATCH = 4  # of these texts are in the library's batch, which is padded to its longest
FEW = 3
SPECIAL_TRIED = 40  # of a tokenizer's special tokens; some have hundreds that are alike
STRANGE = (
    "", " ", "two  spaces\n\tand a tab ", "[CLS] [SEP] [MASK] [PAD] [UNK]", "<s> </s> <pad> <mask>",
    "<|endoftext|> <|im_start|>user", "e\u0301 \u200b\ufeff \u00ad", "x" * 300, "\x00\x1f\x7f",
)  # fmt: skip


class Proof:
    """The library's answers for one model, found once and compared with every way."""

    def __init__(self, reference: Reference, limit: int, half: bool) -> None:
        """Take a model whose inputs are cut at `limit` tokens; `half` says it is not in float32."""
        self._reference, self._half = reference, half
        self._words = 200 / max(1, reference.counts([words_of(200)], Prompt(), truncation=False)[0])
        lengths = [n for n in LENGTHS if n <= limit]
        if limit < LENGTHS[-1]:
            lengths.append(limit)
        self._texts = [words_of(round(n * self._words)) for n in lengths]
        self._short = self._texts[:3]
        self._odd = [*self._texts, *STRANGE]
        if limit <= MOST_TOKENS_CUT:
            self._odd.append(words_of(round((limit + 50) * self._words) + 1))
        special = getattr(reference.tokenizer, "all_special_tokens", [])
        self._odd += [f"{token}a text{token}" for token in special[:SPECIAL_TRIED]]
        self._found: dict[tuple[object, ...], Vectors] = {}

    @functools.cached_property
    def leaks(self) -> bool:
        """Whether the library gives a text another vector beside longer ones than alone.

        Padding reaches the tokens of some networks (ConvBERT, MobileBERT, FNet). Right is the
        vector of the text alone; passes of texts of one length give it.
        """
        tasks: list[Task | None] = [None]
        if self._reference.routes:
            tasks += ["query", "document"]
        worst = 1.0
        for task in tasks:
            alone, beside = self._answer(Prompt(task=task), self._texts[:BATCH])
            worst = min(worst, float(cosines(alone, beside).min()))
        return not worst >= (EQUAL_HALF if self._half else EQUAL_FULL)

    def difference(self, embedder: Embedder) -> str | None:
        """Return how an embedder's result differs from the library's, or None if it does not."""
        prompts = _prompts(embedder)
        for prompt in prompts:
            if difference := self._ids_differ(embedder, prompt):
                return difference
        by_text = {prompt.text: prompt for prompt in reversed(prompts)}
        for prompt in reversed(by_text.values()):
            texts = self._texts if prompt == prompts[0] else self._short
            if difference := self._vectors_differ(embedder, prompt, texts):
                return difference
        return None

    def _ids_differ(self, embedder: Embedder, prompt: Prompt) -> str | None:
        for text in self._odd:
            ids = self._reference.ids(text, prompt)
            if ids is None:
                return "the library reads more than token ids"
            try:
                (item,) = embedder.prepare([text], prompt, "auto")
            except Invalid:  # nothing to read; the library has no result for it either
                if ids:
                    return f"the library reads {len(ids)} tokens of {text[:20]!r}"
                continue
            if list(item.payload) != ids:
                return f"other token ids of {text[:20]!r}{_named(prompt)}"
        return None

    def _vectors_differ(
        self, embedder: Embedder, prompt: Prompt, texts: Sequence[str]
    ) -> str | None:
        alone, batch = self._answer(prompt, texts)
        if self.leaks:
            batch = alone
        items = embedder.prepare(texts, prompt, "auto")
        ours_alone = np.concatenate([embedder.encode([item]).vectors for item in items])
        ours_batch = embedder.encode(items).vectors
        middle = batch.mean(axis=0)
        least = EQUAL_HALF if self._half else EQUAL_FULL
        shifts = [(np.zeros_like(middle), ""), (middle, " from the mean")]
        # Few texts have little of their own beside their mean, which rounding changes most.
        for shift, centred in shifts if len(texts) > FEW or not self._half else shifts[:1]:
            spread = float((1 - cosines(alone - shift, batch - shift)).max())
            allowed = min(least, max(FARTHEST, 1 - OWN_SPREAD * spread))
            pairs = ((ours_alone, alone, "alone"), (ours_batch, batch, "in a pass"))
            for ours, theirs, how in pairs:
                found = np.nan_to_num(cosines(ours - shift, theirs - shift), nan=-1.0)
                if centred:  # texts that are all cut to one prompt have nothing beside their mean
                    own = np.linalg.norm(theirs - shift, axis=1) / np.linalg.norm(theirs, axis=1)
                    found = np.where(own < 1e-5, 1.0, found)
                if (found < allowed).any():
                    row = int(np.argmin(found))
                    return (
                        f"a text of {items[row].tokens} tokens {how}{_named(prompt)} has cosine "
                        f"{found[row]:.5f}{centred} to the library's vector"
                    )
        return None

    def _answer(self, prompt: Prompt, texts: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Return the library's vectors of texts alone, and of the first ones in one batch."""
        alone = np.concatenate([self._encoded((text,), prompt) for text in texts])
        batch = self._encoded(tuple(texts[:BATCH]), prompt)
        return alone, np.concatenate([batch, alone[BATCH:]])

    def _encoded(self, texts: tuple[str, ...], prompt: Prompt) -> Vectors:
        key = (texts, prompt.text, prompt.task if self._reference.routes else None)
        if key not in self._found:
            self._found[key] = self._reference.encode(texts, prompt)
        return self._found[key]


def words_of(count: int) -> str:
    """Return a text of so many words, the same each time."""
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
    """Return every prompt that a request can choose, the default first, each once."""
    facts = embedder.facts
    named = (embedder.prompt(name, None) for name in facts.prompts)
    roles = (embedder.prompt(None, None, role) for role in ("query", "document"))
    plain = [embedder.prompt(None, None), Prompt()]
    if not embedder.portable:  # a prompt's tokens are left out of the mean: any prompt's
        plain += [Prompt(" "), Prompt("In other words: "), Prompt("again and " * 500)]
    chosen = {(p.text, p.task): p for p in reversed([*plain, *chain(roles, named)])}
    return list(reversed(chosen.values()))


def _named(prompt: Prompt) -> str:
    return f" with the prompt {prompt.text[:40]!r}" if prompt.text else ""
