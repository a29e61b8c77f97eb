"""Turns texts and token ids into the exact ids that a model reads, within its limit.

One immutable tokenizer serves every thread: truncation and padding, which are state on a shared
tokenizer and give silently wrong ids when two threads set them, are off and done here instead.
"""

from collections.abc import Collection, Sequence

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
        self._tokenizer.encode_special_tokens = tokenizer.encode_special_tokens  # not written
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
        letters = self._tokenizer.encode_batch_fast(list("abcdefghij"), add_special_tokens=False)
        if len({tuple(each.ids) for each in letters}) == 1 and letters[0].ids:
            raise ModelUnavailable("its tokenizer has no vocabulary: all letters are one token")

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return one Item an input, its payload the ids with the model's special tokens around.

        Raises InputTooLong, BadRequest or Invalid with the input's index.
        """
        truncate = self._side if truncate == "auto" else truncate
        limit = self.limits.of(prompt.task)
        texts = [(i, given) for i, given in enumerate(inputs) if isinstance(given, str)]
        most = limit * CHARACTERS_PER_TOKEN
        whole = [prompt.text + text for _, text in texts]
        cut = [_cut(text, most, truncate) for text in whole]
        encoded = self._tokenizer.encode_batch_fast(cut, add_special_tokens=False)
        items: dict[int, Item] = {}
        for (i, _), text, part, encoding in zip(texts, whole, cut, encoded, strict=True):
            ids, longer = encoding.ids, len(part) < len(text)
            if longer and len(ids) < limit + NEAR_THE_CUT:
                ids = self._tokenizer.encode(text, add_special_tokens=False).ids
                longer = False
            items[i] = self._item(i, ids, limit, truncate, longer)
        for i, given in enumerate(inputs):
            if not isinstance(given, str):
                if prompt.text:
                    raise BadRequest(
                        f"input {i}: token ids are read as they are, and the prompt "
                        f"{prompt.text[:40]!r} belongs before a text; send texts, or prompt ''",
                        param="input",
                    )
                items[i] = self._item(i, self._checked(i, given), limit, truncate, False)
        return [items[i] for i in range(len(inputs))]

    def prompt_tokens(self, prompt: Prompt, special: Collection[int]) -> int:
        """Return how many leading tokens of an input the library counts as its prompt's.

        As `Transformer._get_prompt_length`: those of the prompt alone, but for a last token of the
        `special` ones.
        """
        ids = self._tokenizer.encode(prompt.text, add_special_tokens=False).ids
        alone = self._item(0, ids, self.limits.most, self._side, False).payload
        return len(alone) - (list(alone)[-1] in special)

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


def _cut(text: str, limit: int, truncate: Truncate) -> str:
    """Return the end of a text that is kept, about `limit` characters of whole words.

    A word that is longer is kept: the tokens at the end of one depend on all before.
    """
    if len(text) <= limit:
        return text
    if truncate == "left":
        parts = text[-limit:].split(None, 1)
        return parts[1] if len(parts) == 2 else text
    parts = text[:limit].rsplit(None, 1)
    return parts[0] if len(parts) == 2 else text
