"""Turns texts and token ids into the exact ids that a model reads, within its limit.

One immutable tokenizer serves every thread: truncation and padding, which are state on a shared
tokenizer and give silently wrong ids when two threads set them, are off and done here instead.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

from embedders.base import Input, Item, Prompt, Truncate
from errors import BadRequest, InputTooLong

# Tokenizing takes time in proportion to the text, so only this many characters per token of the
# limit are looked at; the longest words of natural text average far less. (TEI uses the same 250.)
CHARACTERS_PER_TOKEN = 250


class TextTokenizer:
    """Prepares inputs for one model. Safe to call from many threads at once."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, vocabulary: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())  # ours alone
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._vocabulary = vocabulary
        probe = self._tokenizer.encode("a")
        special = probe.special_tokens_mask
        first = special.index(0) if 0 in special else 0
        last = len(special) - special[::-1].index(0) if 0 in special else len(special)
        self._before = tuple(probe.ids[:first])  # such as [CLS]
        self._after = tuple(probe.ids[last:])  # such as [SEP]
        self._room = max_tokens - len(self._before) - len(self._after)
        if self._room < 1:
            raise ValueError(f"max_seq_length {max_tokens} leaves no room for a token")
        self.max_tokens = max_tokens

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return one Item an input, its payload the ids with the model's special tokens around.

        Raises InputTooLong or BadRequest with the input's index.
        """
        texts = [(i, given) for i, given in enumerate(inputs) if isinstance(given, str)]
        limit = self._room * CHARACTERS_PER_TOKEN
        cut = [self._cut(prompt.text + text, limit, truncate) for _, text in texts]
        encoded = self._tokenizer.encode_batch_fast(cut, add_special_tokens=False)
        items: dict[int, Item] = {}
        for (i, text), encoding in zip(texts, encoded, strict=True):
            longer = len(prompt.text) + len(text) > limit
            items[i] = self._item(i, encoding.ids, truncate, longer)
        for i, given in enumerate(inputs):
            if not isinstance(given, str):
                items[i] = self._item(i, self._checked(i, given), truncate, False)
        return [items[i] for i in range(len(inputs))]

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Return how many leading tokens of an input belong to its prompt, [CLS] and all."""
        ids = self._tokenizer.encode(prompt.text, add_special_tokens=False).ids
        return len(self._before) + len(ids) if ids else 0

    def _cut(self, text: str, limit: int, truncate: Truncate) -> str:
        if len(text) <= limit:
            return text
        return text[-limit:] if truncate == "left" else text[:limit]

    def _item(self, index: int, ids: Sequence[int], truncate: Truncate, longer: bool) -> Item:
        longer = longer or len(ids) > self._room
        if longer and truncate == "error":
            count = len(ids) + len(self._before) + len(self._after)
            raise InputTooLong(
                f"input {index} has {count} tokens or more, over this model's limit of "
                f"{self.max_tokens}; shorten it, or allow truncation"
            )
        kept = ids[-self._room :] if truncate == "left" else ids[: self._room]
        payload = [*self._before, *kept, *self._after]
        return Item(payload, len(payload), longer)

    def _checked(self, index: int, ids: Sequence[int]) -> Sequence[int]:
        """Return token ids without special tokens around, all within the vocabulary."""
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise BadRequest(
                    f"input {index}: token id {token} is not in this model's vocabulary "
                    f"(0 to {self._vocabulary - 1}). OpenAI's token ids are of another vocabulary: "
                    "send texts (in LangChain: check_embedding_ctx_length=False)",
                    param="input",
                )
        before, after = self._before, self._after
        framed = tuple(ids[: len(before)]) == before and len(ids) >= len(before) + len(after)
        if framed and tuple(ids[len(ids) - len(after) :]) == after:
            return ids[len(before) : len(ids) - len(after)]
        return ids
