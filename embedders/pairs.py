"""Turns a query and a document into the exact ids that a reranker reads, within its limit.

What is cut of a pair that is too long is the document; the query keeps at least half of the room.
Nothing here needs torch or transformers, so that any process can prepare pairs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer

from embedders.base import Input, Item, Pair, Prompt, Token, Truncate
from embedders.tokens import CHARACTERS_PER_TOKEN, PREPARERS, Limits, TextTokenizer
from embedders.vocabulary import bare, tokens_of
from errors import BadRequest, InputTooLong, ModelUnavailable, TooLarge

PAIR = "pair"


class OtherLayout(Exception):
    """The tokenizer lays pairs out in a way that is not known here."""


class PairTokenizer:
    """Prepares pairs for a cross-encoder. Safe to call from many threads at once.

    The ids are those that the model's tokenizer gives with `truncation="longest_first"`; "auto"
    cuts the side that it cuts.
    """

    def __init__(
        self, texts: TextTokenizer, frame: Sequence[Sequence[int]], limit: int, typed: bool
    ) -> None:
        """Take a tokenizer that gives a text's bare ids, and a pair's special tokens.

        `frame` is what stands before, between and after the two texts, `typed` whether the network
        is told where the second begins. Raises ModelUnavailable.
        """
        self._texts, self._single, self._limit = texts, texts.with_special(), limit
        self._side: Truncate = texts.side
        self._typed = typed
        self._before, self._middle, self._after = (list(ids) for ids in frame)
        self._room = limit - sum(map(len, frame))
        if self._room < 2:
            raise ModelUnavailable(f"a limit of {limit} tokens leaves no room for a pair")

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return texts alone, of which such a network gives scores too."""
        return self._single.prepare(inputs, prompt, truncate)

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return the ids of each pair; see `Embedder`.

        A prompt goes before the query. Raises InputTooLong with the pair's index, and TooLarge.
        """
        side: Truncate = truncate if truncate in ("left", "right") else self._side
        room = self._room + within(prompt, self._limit) - self._limit
        if room < 2:
            raise no_room(prompt)
        queries = list(dict.fromkeys(pair.query for pair in pairs))  # often one for all documents
        given = self._texts.prepare(queries, replace(prompt, limit=None), side)
        read = dict(zip(queries, given, strict=True))
        most = prompt.document_limit
        short = most is not None and most < self._limit  # a document is cut to it, and no further
        texts = [pair.document for pair in pairs]
        documents = self._texts.prepare(texts, Prompt(limit=most if short else None), side)
        # One of two texts that are both cut gets the odd token; a short document is not the longer.
        odd = room % 2 and truncate != "error" and not short
        asked = {query: prompt.text + query for query in queries}
        whole = self._lengths(
            [
                Pair(asked[pair.query], pair.document)
                for pair, document in zip(pairs, documents, strict=True)
                if odd and document.truncated and read[pair.query].truncated
            ]
        )
        items = []
        for index, (pair, document) in enumerate(zip(pairs, documents, strict=True)):
            query = read[pair.query]
            longer = query.truncated or document.truncated
            longer = longer or query.tokens + document.tokens > room
            if longer and truncate == "error":
                raise too_long(index, within(prompt, self._limit))
            count = document.tokens + (document.truncated and not short)
            counts = query.tokens + query.truncated, count
            if odd and query.truncated and document.truncated:
                counts = whole[asked[pair.query]], whole[pair.document]
            kept = shares(*counts, room)
            first, last = (
                _part(item, count, side)
                for item, count in zip((query, document), kept, strict=True)
            )
            ids = [*self._before, *first, *self._middle]
            payload = [*ids, *last, *self._after]
            second = len(ids) if self._typed else 0
            items.append(Item(payload, len(payload), longer, second=second))
        return items

    def _lengths(self, pairs: Sequence[Pair]) -> dict[str, int]:
        """Return how many tokens each text has; of a very long one it may be fewer, but more than
        its pair's other text has. Raises TooLarge for a pair of two such texts.
        """
        most = self._limit * CHARACTERS_PER_TOKEN
        if any(min(map(len, pair)) > most for pair in pairs):
            raise TooLarge(
                f"the query and a document both have more than {most} characters: shorten one",
                param="query",
            )
        texts = {text for pair in pairs for text in pair}
        found = {text: self._texts.count(text, 0) for text in texts if len(text) <= most}
        longest = max(found.values(), default=0)
        long = texts - found.keys()
        return found | {text: self._texts.count(text, longest) for text in long}

    def prepare_chunks(
        self, documents: Sequence[Sequence[str]], prompt: Prompt, truncate: Truncate | None
    ) -> list[Item]:
        """Raise BadRequest, as a reranker gives no vectors."""
        raise no_single_text()

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """Return the tokens of each whole text or pair. See `Embedder.tokenize`."""
        return tokens_of(self._texts.tokenizer, inputs, prompt.text, special=special)

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the text of each list of ids. See `Embedder.detokenize`."""
        return self._texts.detokenize(ids, skip_special=skip_special)

    def recipe(self) -> dict[str, Any]:
        """Return JSON from which `preparer_of` makes an equal one."""
        return {
            "kind": PAIR, "texts": self._texts.recipe(), "limit": self._limit, "typed": self._typed,
            "frame": [self._before, self._middle, self._after],
        }  # fmt: skip


def pair_tokenizer(
    tokenizer: Tokenizer, limit: int, vocabulary: int, *, typed: bool, side: Truncate
) -> PairTokenizer:
    """Return what prepares pairs, and texts alone, as a model's tokenizer does.

    `typed` is whether the network reads the types of tokens, `side` the side that "auto" cuts.
    Raises OtherLayout, or ModelUnavailable for a limit that leaves no room.
    """
    probe = bare(tokenizer).encode("a", "b")
    of, types = probe.sequence_ids, probe.type_ids
    if 0 not in of or 1 not in of:
        raise OtherLayout("its tokenizer reads no pairs")
    start, end = of.index(0), len(of) - of[::-1].index(0)
    second, last = of.index(1), len(of) - of[::-1].index(1)
    if not end <= second or types not in ([0] * len(of), [0] * second + [1] * (len(of) - second)):
        raise OtherLayout("its tokenizer lays pairs out in a way of its own")
    frame = [probe.ids[:start], probe.ids[end:second], probe.ids[last:]]
    texts = TextTokenizer(
        tokenizer, Limits(limit), vocabulary, side=side, special=False, empty=True
    )
    return PairTokenizer(texts, frame, limit, typed and any(types))


def shares(query: int, document: int, room: int) -> tuple[int, int]:
    """Return how many tokens of a query and of a document are kept, as "longest_first" keeps them.

    The counts are those before any cut. The query is whole while it takes at most half of the room;
    the longer gets an odd token.
    """
    if query + document <= room:
        return query, document
    half = room // 2
    if query <= half:
        return query, room - query
    if document <= half:
        return room - document, document
    return (room - half, half) if query > document else (half, room - half)


def no_single_text() -> BadRequest:
    """Return the error of a reranker that is given texts alone."""
    return BadRequest(
        "this model scores pairs of a query and a document, and gives texts no vector: "
        "send them to /rerank",
        param="model",
    )


def within(prompt: Prompt, limit: int) -> int:
    """Return the most tokens of a pair: a request may want fewer than the model reads."""
    return limit if prompt.limit is None else min(limit, prompt.limit)


def no_room(prompt: Prompt) -> BadRequest:
    """Return the error of a request's limit that a pair cannot have."""
    what = f"a limit of {prompt.limit} tokens leaves no room for a pair"
    return BadRequest(what, param="truncate_prompt_tokens")


def too_long(index: int, limit: int) -> InputTooLong:
    """Return the error of a pair over the limit that must not be cut."""
    return InputTooLong(
        f"query and document have more than the limit of {limit} tokens together; shorten the "
        "longer one, or allow truncation",
        index=index,
    )


def _part(item: Item, count: int, side: Truncate) -> Sequence[int]:
    """Return the first ids of a text, or the last ones if its start is cut."""
    ids = item.payload
    assert not isinstance(ids, str)
    return ids[len(ids) - count :] if side == "left" else ids[:count]


def _pair_of_recipe(recipe: dict[str, Any]) -> PairTokenizer:
    texts = TextTokenizer.of_recipe(recipe["texts"])
    return PairTokenizer(texts, recipe["frame"], recipe["limit"], recipe["typed"])


PREPARERS[PAIR] = _pair_of_recipe
