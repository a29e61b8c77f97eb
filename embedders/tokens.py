"""Turns texts and token ids into the exact ids that a model reads, within its limit.

One immutable tokenizer serves all threads. Truncation and padding are state of a shared tokenizer,
and two threads that set them get wrong ids without an error, so both are off and done here.

The limit is the configured one, within the model's table of positions: a model that has one cannot
read more tokens than it has rows. No configuration says which models have a table and where its
numbers begin: one pass shows it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tokenizers import Tokenizer

from embedders.base import Input, Item, Pair, Preparer, Prompt, Task, Token, Truncate
from embedders.vocabulary import bare, joined, spans_of, texts_of, tokens_of
from errors import BadRequest, InputTooLong, Invalid, ModelUnavailable

# Tokenizing takes time in proportion to the text, so at first only this many characters for each
# token of the limit are read; natural text averages far fewer. (TEI uses the same 250.) If they
# make fewer tokens than fit, and NEAR_THE_CUT more that the cut may change, all of it is read.
CHARACTERS_PER_TOKEN = 250
NEAR_THE_CUT = 16

# The limit where neither the model nor its tokenizer has one (some T5, XLNet).
MOST_TOKENS = 1 << 20
MOST_TRIED = 4096  # tokens of the longest pass that looks for a limit
PROBE = 7  # tokens of the pass that shows the table
LENGTHS: dict[Task, str] = {"query": "query_length", "document": "document_length"}


@dataclass(frozen=True)
class Limits:
    """The longest input in tokens, special ones included, also for each side of a retrieval."""

    most: int
    of_task: dict[Task, int] = field(default_factory=dict)

    def of(self, task: Task | None) -> int:
        """Return the limit of inputs on this side of a retrieval."""
        return self.most if task is None else self.of_task.get(task, self.most)

    def set_on(self, transformer: Any) -> None:
        """Make the library cut inputs at the same lengths."""
        transformer.max_seq_length = self.most
        for task, length in self.of_task.items():
            setattr(transformer, LENGTHS[task], length)
        text = transformer.processing_kwargs.get("text", {})
        if text.get("max_length") is not None:
            text["max_length"] = self.most


class TextTokenizer:
    """Prepares inputs for one model. Safe to call from many threads at once."""

    def __init__(
        self, tokenizer: Tokenizer, limits: Limits, vocabulary: int, *, side: Truncate = "right",
        special: bool = True, empty: bool = False, skips: Collection[int] | None = None,
        copied: bool = False,
    ) -> None:  # fmt: skip
        """Copy the model's tokenizer, unless it is `copied` already.

        `side` is the side that "auto" cuts, `special` whether special tokens go around a text, and
        `empty` whether an input without a token has a vector. With `skips`, all special tokens, a
        prompt's tokens are left out of the pooled vector. Raises ModelUnavailable.
        """
        self._tokenizer = tokenizer if copied else bare(tokenizer)  # not shared with the library
        self._vocabulary, self.side, self._empty = vocabulary, side, empty
        self._special, self._skips = special, skips
        probe = self._tokenizer.encode("a", add_special_tokens=special)
        marks = probe.special_tokens_mask
        first, last = 0, len(marks)
        if 0 in marks:
            first, last = marks.index(0), last - marks[::-1].index(0)
        self._before, self._after = tuple(probe.ids[:first]), tuple(probe.ids[last:])
        self.limits = limits
        self._limits = lengths = (limits.most, *limits.of_task.values())
        if min(lengths) <= len(self._before) + len(self._after):
            raise ModelUnavailable(f"a limit of {min(lengths)} tokens leaves no room for a text")
        letters = self._tokenizer.encode_batch_fast(list("abcdefghij"), add_special_tokens=False)
        if len({tuple(each.ids) for each in letters}) == 1 and letters[0].ids:
            raise ModelUnavailable("its tokenizer has no vocabulary: all letters are one token")

    def with_special(self) -> "TextTokenizer":
        """Return one with this tokenizer that puts the special tokens around each text."""
        return TextTokenizer(
            self._tokenizer, self.limits, self._vocabulary, side=self.side, copied=True
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """What tokenizes; it must not be changed."""
        return self._tokenizer

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return one Item for each input: its ids, with the model's special tokens around them.

        Raises InputTooLong, BadRequest or Invalid with the input's index.
        """
        truncate = self.side if truncate == "auto" else truncate
        limit = self._limit(prompt)
        texts = [prompt.text + given for given in inputs if isinstance(given, str)]
        cut = [_cut(text, limit * CHARACTERS_PER_TOKEN, truncate) for text in texts]
        encoded = self._tokenizer.encode_batch_fast(cut, add_special_tokens=False)
        found, items = zip(texts, cut, encoded, strict=True), []
        for index, given in enumerate(inputs):
            ids, longer = given, False
            if isinstance(given, str):
                text, part, encoding = next(found)
                ids, longer = encoding.ids, len(part) < len(text)
                if longer and len(ids) < limit + NEAR_THE_CUT:
                    ids, longer = self._tokenizer.encode(text, add_special_tokens=False).ids, False
            elif prompt.text:
                raise BadRequest(
                    f"token ids are read as they are, so the prompt {prompt.text[:40]!r} "
                    "cannot go before them; send texts, or prompt ''",
                    param="input",
                    index=index,
                )
            else:
                ids = self._checked(index, given)
            items.append(self._item(index, ids, limit, truncate, longer))
        skip = self._skipped(prompt)
        return [replace(item, skip=skip) for item in items] if skip else items

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Raise BadRequest: such a model reads one text."""
        raise BadRequest("this model takes texts, not pairs of them")

    def prepare_chunks(
        self, documents: Sequence[Sequence[str]], prompt: Prompt, truncate: Truncate | None
    ) -> list[Item]:
        """Return the token ids of each document, and where in them its chunks are.

        As published, the special tokens before a text are of its first chunk and those after it of
        the last, so that a document of one chunk has the vector of its text. So is the prompt,
        unless the model leaves prompts out.
        """
        limit, items, first = self._limit(prompt), [], 0
        leading = self._skipped(prompt)
        for chunks in documents:
            items.append(self._document(chunks, prompt, truncate, limit, leading, first))
            first += len(chunks)
        return items

    def _document(
        self, chunks: Sequence[str], prompt: Prompt, truncate: Truncate | None, limit: int,
        leading: int, first: int,
    ) -> Item:  # fmt: skip
        """Return a document, whose first chunk is the request's chunk `first`."""
        text, places = joined(chunks)
        text = prompt.text + text
        room = limit - len(self._before) - len(self._after)
        side = self.side if truncate in (None, "auto") else truncate
        some = text if side == "left" else text[: limit * CHARACTERS_PER_TOKEN]
        encoding = self._tokenizer.encode(some, add_special_tokens=False)
        if len(some) < len(text) and len(encoding.ids) < room + NEAR_THE_CUT:
            some, encoding = text, self._tokenizer.encode(text, add_special_tokens=False)
        spans = spans_of(encoding.offsets, places, len(prompt.text))
        empty = [start == end for start, end in spans]
        if True in empty and some == text:
            at = first + empty.index(True)
            raise Invalid("this chunk has no token of its own", param="input", index=at)
        over = max(0, len(encoding.ids) - room)
        whole = truncate in (None, "error")  # a chunk of which a part is cut is refused too
        cut = over if side == "left" and not whole else 0
        kept = [(max(0, start - cut), min(room, end - cut)) for start, end in spans]
        for number, ((start, end), span) in enumerate(zip(kept, spans, strict=True)):
            if end <= start or (whole and over and (start, end) != span):
                raise InputTooLong(
                    f"its document is longer than the {limit} tokens that are read, and "
                    f"{'nothing' if end <= start else 'not all'} of this chunk is among them; send "
                    "fewer chunks as one document",
                    param="input",
                    index=first + number,
                )
        ids, lead = encoding.ids[cut : cut + room], len(self._before)
        payload = [*self._before, *ids, *self._after]
        kept = [(start + lead, end + lead) for start, end in kept]
        kept[0] = (leading if leading < kept[0][1] else kept[0][0], kept[0][1])
        kept[-1] = (kept[-1][0], len(payload))
        return Item(payload, len(payload), over > 0, outputs=("chunks",), spans=tuple(kept))

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """Return the tokens of each whole input. See `Embedder.tokenize`."""
        added = special and self._special
        return tokens_of(self._tokenizer, inputs, prompt.text, special=added)

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the text of each list of ids. See `Embedder.detokenize`."""
        return texts_of(self._tokenizer, ids, self._vocabulary, skip_special=skip_special)

    def terms(self, indices: Sequence[int]) -> list[str]:
        """Return the vocabulary's tokens of these ids, "" for an id without one."""
        return [self._tokenizer.id_to_token(int(index)) or "" for index in indices]

    def count(self, text: str, enough: int) -> int:
        """Return how many tokens a text has, without special ones around it.

        If it has more than `enough`, some number over that: no more of it is read than shows this.
        """
        size = self.limits.most * CHARACTERS_PER_TOKEN
        while True:
            part = _cut(text, size, "right")
            # A batch lets other threads run meanwhile.
            (encoding,) = self._tokenizer.encode_batch_fast([part], add_special_tokens=False)
            if len(part) == len(text) or len(encoding.ids) > enough + NEAR_THE_CUT:
                return len(encoding.ids)
            size *= 2

    def recipe(self) -> dict[str, Any]:
        """Return JSON from which `preparer_of` makes an equal tokenizer in another process."""
        return {
            "kind": "text", "tokenizer": self._tokenizer.to_str(),
            "encodes_special": self._tokenizer.encode_special_tokens,
            "most": self.limits.most, "of_task": self.limits.of_task,
            "vocabulary": self._vocabulary, "side": self.side, "special": self._special,
            "empty": self._empty, "skips": None if self._skips is None else sorted(self._skips),
        }  # fmt: skip

    @classmethod
    def of_recipe(cls, recipe: dict[str, Any]) -> "TextTokenizer":
        """Return the tokenizer of a recipe."""
        tokenizer = Tokenizer.from_str(recipe["tokenizer"])
        tokenizer.encode_special_tokens = recipe["encodes_special"]
        return cls(
            tokenizer, Limits(recipe["most"], recipe["of_task"]), recipe["vocabulary"],
            side=recipe["side"], special=recipe["special"], empty=recipe["empty"],
            skips=recipe["skips"],
        )  # fmt: skip

    def _limit(self, prompt: Prompt) -> int:
        """Return the most tokens of an input. Raises BadRequest for one that leaves no room."""
        limit = self.limits.of(prompt.task)
        if prompt.limit is None or prompt.limit >= limit:
            return limit
        if prompt.limit <= (own := len(self._before) + len(self._after)):
            raise BadRequest(
                f"a limit of {prompt.limit} tokens leaves no room for a text beside the {own} that "
                "this model adds to each",
                param="truncate_prompt_tokens",
            )
        return prompt.limit

    def _skipped(self, prompt: Prompt) -> int:
        """Return how many leading tokens of an input are a prompt's that is left out of its vector.

        As the library counts them (`Transformer._get_prompt_length`): those of the prompt alone,
        cut as a text of no side is, without a last special one.
        """
        if not prompt.text or self._skips is None:
            return 0
        ids = self._tokenizer.encode(prompt.text, add_special_tokens=False).ids
        limit = min(self.limits.most, prompt.limit or MOST_TOKENS)
        alone = list(self._item(0, ids, limit, self.side, False).payload)
        return len(alone) - (alone[-1] in self._skips)

    def _item(
        self, index: int, ids: Sequence[int], limit: int, truncate: Truncate, longer: bool
    ) -> Item:
        room = limit - len(self._before) - len(self._after)
        longer = longer or len(ids) > room
        if longer and truncate == "error":
            count = len(ids) + len(self._before) + len(self._after)
            whose = "this model's" if limit in self._limits else "the request's"
            raise InputTooLong(
                f"it has {count} tokens or more, over {whose} limit of {limit}; shorten it, "
                "or allow truncation",
                param="input",
                index=index,
            )
        kept = ids[-room:] if truncate == "left" else ids[:room]
        payload = [*self._before, *kept, *self._after]
        if not payload and not self._empty:
            raise Invalid("it has no token that this model reads", param="input", index=index)
        return Item(payload, len(payload), longer)

    def _checked(self, index: int, ids: Sequence[int]) -> Sequence[int]:
        """Return token ids without special tokens around them. Raises BadRequest for others."""
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise BadRequest(
                    f"token id {token} is not in this model's vocabulary (0 to "
                    f"{self._vocabulary - 1}). OpenAI's token ids are of another vocabulary: send "
                    "texts (in LangChain: check_embedding_ctx_length=False)",
                    param="input",
                    index=index,
                )
        before, after = self._before, self._after
        framed = tuple(ids[: len(before)]) == before and len(ids) >= len(before) + len(after)
        if framed and tuple(ids[len(ids) - len(after) :]) == after:
            return ids[len(before) : len(ids) - len(after)]
        return ids


# What makes a preparer of a recipe, by the recipe's kind. Modules of other kinds add theirs.
PREPARERS: dict[str, Callable[[dict[str, Any]], Preparer]] = {"text": TextTokenizer.of_recipe}


def preparer_of(recipe: dict[str, Any]) -> Preparer:
    """Return what prepares inputs as the embedder does whose preparer gave this recipe."""
    return PREPARERS[recipe["kind"]](recipe)


def _cut(text: str, limit: int, truncate: Truncate) -> str:
    """Return about `limit` characters of whole words, from the side of the text that is kept.

    A longer word is kept whole, as the tokens at its end depend on all before them.
    """
    if len(text) <= limit:
        return text
    left = truncate == "left"
    parts = text[-limit:].split(None, 1) if left else text[:limit].rsplit(None, 1)
    return parts[left] if len(parts) == 2 else text


def limits_of(transformer: Any, wanted: int | None) -> Limits:
    """Return the limits of a sentence-transformers `Transformer`, at most `wanted` tokens.

    As in the library, `processing_kwargs` in sentence_bert_config.json wins over `query_length`.
    """
    pad_id = getattr(transformer.tokenizer, "pad_token_id", None)
    ceiling = min(wanted or MOST_TOKENS, positions(transformer.model, pad_id))
    most = int(min(wanted or transformer.max_seq_length or MOST_TOKENS, ceiling))
    rows = getattr(transformer.config, "max_position_embeddings", None)
    if isinstance(rows, int) and 0 < rows < most and not _reads(transformer, rows + 1, pad_id):
        ceiling = most = rows  # a table that no lookup shows
    always = transformer.processing_kwargs.get("text", {}).get("max_length")
    if always is not None:
        return Limits(min(int(always), ceiling))
    lengths = {task: getattr(transformer, name, None) for task, name in LENGTHS.items()}
    of_task = {task: min(int(length), ceiling) for task, length in lengths.items() if length}
    return Limits(most, of_task)


def _reads(transformer: Any, count: int, pad_id: int | None) -> bool:
    """Return whether a network reads so many tokens; over `MOST_TRIED` it is assumed to."""
    import torch

    if count > MOST_TRIED:
        return True
    network = transformer.model
    ids = torch.full((1, count), 1 if pad_id == 0 else 0, device=next(network.parameters()).device)
    try:
        with torch.inference_mode():
            network(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def positions(network: Any, pad_id: int | None) -> int:
    """Return how many tokens a network's table of positions has rows for, or `MOST_TOKENS`.

    In a pass over `PROBE` tokens such a table is the one whose rows are looked up one after the
    other, whatever the tokens are: by BERT from row 0, by RoBERTa from the padding's row + 1.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[int] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten.embedding.default:
                rows, asked = args[0].shape[0], args[1]
                first = asked.reshape(-1)[:PROBE].tolist()
                alone = asked.numel() == asked.shape[-1] >= PROBE
                if alone and first == list(range(first[0], first[0] + PROBE)):
                    found.append(rows - first[0])
            return func(*args, **(kwargs or {}))

    try:
        vocabulary = network.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):  # it reads characters, not tokens
        return MOST_TOKENS
    # Any tokens but padding, which some networks number differently, and no consecutive ones.
    some = [i for i in range(min(vocabulary, 4 * PROBE)) if i != pad_id]
    ids = torch.tensor([[some[(5 * i) % len(some)] for i in range(PROBE)]])
    ids = ids.to(next(network.parameters()).device)
    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
        network(input_ids=ids, attention_mask=torch.ones_like(ids))
    return min(found, default=MOST_TOKENS)
