"""Holds a way of running a model to what the library itself makes of the same texts.

Compared are the token ids of inputs that tokenizers stumble over, then vectors of texts from one
token to over a thousand, alone and in one pass, for each prompt and side of a retrieval. Cosines
are taken as they are and from the vectors' mean: small and untrained models give all texts nearly
one direction, in which any two ways look alike.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from embedders.base import Embedder, Prompt, Vectors
from embedders.reference import Reference
from errors import Invalid

# The least cosine to the library in the same dtype. In half precision two right ways differ by
# rounding, and by what the library itself differs from text alone to text in a batch.
EQUAL_FULL, EQUAL_HALF = 0.99999, 0.9995
OWN_SPREAD = 4.0  # times the library's own difference that a half precision way may have
TEXT = (
    "the model reads 42 words of a text and gives one vector; naïve café, vector spaces (a, b) and "
    "queries: what is near? Ein Satz auf Deutsch, текст по-русски, 向量数据库 の 検索, مثال, हिन्दी "
    "🙂 error_code=0x7f https://example.org/a?b=c don't re-use; it's over-fitted -3.14 TOTAL"
)
WORDS = TEXT.split()
LENGTHS = (1, 5, 20, 60, 200, 1040)  # tokens, about; those that a model reads
MOST_TOKENS_CUT = 40_000  # a limit beyond is not tried with a longer text
STRANGE = (
    "", " ", "two  spaces\n\tand a tab ", "[CLS] [SEP] [MASK] [PAD] [UNK]", "<s> </s> <pad> <mask>",
    "<|endoftext|> <|im_start|>user", "e\u0301 \u200b\ufeff \u00ad", "x" * 300, "\x00\x1f\x7f",
)  # fmt: skip


class Proof:
    """The library's answers for one model, found once and compared with every way."""

    def __init__(self, reference: Reference, limit: int, half: bool) -> None:
        """Take a model whose inputs are cut at `limit` tokens; `half` says it is not in float32."""
        self._reference, self._half = reference, half
        none = Prompt()
        self._words = 200 / max(1, reference.counts([words_of(200)], none, truncation=False)[0])
        lengths = [n for n in LENGTHS if n <= limit]
        self._texts = [words_of(round(n * self._words)) for n in lengths]
        self._short = self._texts[:3]
        self._odd = [*self._texts, *STRANGE]
        if limit <= MOST_TOKENS_CUT:
            self._odd.append(words_of(round((limit + 50) * self._words) + 1))
        self._answers: dict[tuple[str, bool], tuple[Vectors, Vectors]] = {}

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
        items = embedder.prepare(texts, prompt, "auto")
        ours_alone = np.concatenate([embedder.encode([item]).vectors for item in items])
        ours_batch = embedder.encode(items).vectors
        middle = batch.mean(axis=0)
        least = EQUAL_HALF if self._half else EQUAL_FULL
        for shift, centred in ((np.zeros_like(middle), ""), (middle, " from the mean")):
            spread = float((1 - cosines(alone - shift, batch - shift)).max())
            allowed = min(least, 1 - OWN_SPREAD * spread)
            pairs = ((ours_alone, alone, "alone"), (ours_batch, batch, "in a pass"))
            for ours, theirs, how in pairs:
                found = np.nan_to_num(cosines(ours - shift, theirs - shift), nan=-1.0)
                if (found < allowed).any():
                    row = int(np.argmin(found))
                    return (
                        f"a text of {items[row].tokens} tokens {how}{_named(prompt)} has cosine "
                        f"{found[row]:.5f}{centred} to the library's vector"
                    )
        return None

    def _answer(self, prompt: Prompt, texts: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Return the library's vectors of texts alone and in one batch.

        In float32 they are the same but for the last bits, so those alone stand for both. The
        longest is left out of the batch, which is padded to its longest.
        """
        key = (prompt.text, texts is self._texts)
        if key not in self._answers:
            alone = np.concatenate([self._reference.encode([text], prompt) for text in texts])
            batch = alone
            if self._half and len(texts) > 1:
                shorter = self._reference.encode(texts[:-1], prompt)
                batch = np.concatenate([shorter, alone[-1:]])
            self._answers[key] = (alone, batch)
        return self._answers[key]


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
    chosen = {(p.text, p.task): p for p in reversed([*plain, *chain(roles, named)])}
    return list(reversed(chosen.values()))


def _named(prompt: Prompt) -> str:
    return f" with the prompt {prompt.text[:40]!r}" if prompt.text else ""
