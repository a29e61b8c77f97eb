"""Turns texts and token ids into the exact ids that a model reads, within its limit.

One immutable tokenizer serves every thread: truncation and padding, which are state on a shared
tokenizer and give silently wrong ids when two threads set them, are off and done here instead.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

from embedders.base import Input, Item, Prompt, Truncate
from embedders.limits import Limits
from errors import BadRequest, InputTooLong, Invalid, ModelUnavailable

# Tokenizing takes time in proportion to the text, so at first only this many characters per token
# of the limit are looked at; the longest words of natural text average far less. (TEI uses the same
# 250.) Where they come to fewer tokens than fit, and some that the cut may have changed, the whole
# text is looked at.
CHARACTERS_PER_TOKEN = 250
NEAR_THE_CUT = 16


class TextTokenizer:
    """Prepares inputs for one model. Safe to call from many threads at once."""

    def __init__(
        self, tokenizer: Tokenizer, limits: Limits, vocabulary: int, *, side: Truncate = "right",
        special: bool = True, empty: bool = False,
    ) -> None:  # fmt: skip
        """Read inputs as the model's own tokenizer does.

        `side` is where "auto" cuts, `special` says whether special tokens belong around a text, and
        `empty` whether an input without any token has a vector.
        """
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())  # ours alone
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._vocabulary, self._side, self._empty = vocabulary, side, empty
        probe = self._tokenizer.encode("a", add_special_tokens=special)
        marks = probe.special_tokens_mask
        first = marks.index(0) if 0 in marks else 0
        last = len(marks) - marks[::-1].index(0) if 0 in marks else len(marks)
        self._before = tuple(probe.ids[:first])  # such as [CLS]
        self._after = tuple(probe.ids[last:])  # such as [SEP]
        self.limits = limits
        lengths = (limits.most, *limits.of_task.values())
        if min(lengths) <= len(self._before) + len(self._after):
            raise ModelUnavailable(f"a limit of {min(lengths)} tokens leaves no room for a text")

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return one Item an input, its payload the ids with the model's special tokens around.

        Raises InputTooLong, BadRequest or Invalid with the input's index.
        """
        truncate = self._side if truncate == "auto" else truncate
        limit = self.limits.of(prompt.task)
        texts = [(i, given) for i, given in enumerate(inputs) if isinstance(given, str)]
        most = limit * CHARACTERS_PER_TOKEN
        cut = [self._cut(prompt.text + text, most, truncate) for _, text in texts]
        encoded = self._tokenizer.encode_batch_fast(cut, add_special_tokens=False)
        items: dict[int, Item] = {}
        for (i, text), encoding in zip(texts, encoded, strict=True):
            ids = encoding.ids
            longer = len(prompt.text) + len(text) > most
            if longer and len(ids) < limit + NEAR_THE_CUT:
                ids = self._tokenizer.encode(prompt.text + text, add_special_tokens=False).ids
                longer = False
            items[i] = self._item(i, ids, limit, truncate, longer)
        for i, given in enumerate(inputs):
            if not isinstance(given, str):
                items[i] = self._item(i, self._checked(i, given), limit, truncate, False)
        return [items[i] for i in range(len(inputs))]

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Return how many leading tokens of an input belong to its prompt, [CLS] and all."""
        ids = self._tokenizer.encode(prompt.text, add_special_tokens=False).ids
        return len(self._before) + len(ids) if ids else 0

    def _cut(self, text: str, limit: int, truncate: Truncate) -> str:
        """Return the end of a text that is kept, about `limit` characters of whole words."""
        if len(text) <= limit:
            return text
        if truncate == "left":
            return (text[-limit:].split(None, 1) or [""])[-1]
        return (text[:limit].rsplit(None, 1) or [""])[0]

    def _item(
        self, index: int, ids: Sequence[int], limit: int, truncate: Truncate, longer: bool
    ) -> Item:
        room = limit - len(self._before) - len(self._after)
        longer = longer or len(ids) > room
        if longer and truncate == "error":
            count = len(ids) + len(self._before) + len(self._after)
            raise InputTooLong(
                f"input {index} has {count} tokens or more, over this model's limit of "
                f"{limit}; shorten it, or allow truncation"
            )
        kept = ids[-room:] if truncate == "left" else ids[:room]
        payload = [*self._before, *kept, *self._after]
        if not payload and not self._empty:
            raise Invalid(f"input {index} has no token for this model to read", param="input")
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
