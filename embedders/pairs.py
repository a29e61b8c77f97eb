"""Turns a query and a document into the exact ids that a reranker reads, within its limit.

What is cut of a pair that is too long is the document; the query keeps at least half of the room.
Nothing here needs torch or transformers, so that any process can prepare pairs.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import Tokenizer

from embedders.base import Input, Item, Pair, Prompt, Truncate
from embedders.tokens import (
    CHARACTERS_PER_TOKEN,
    NEAR_THE_CUT,
    PREPARERS,
    Limits,
    TextTokenizer,
)
from errors import BadRequest, InputTooLong, ModelUnavailable, TooLarge

PAIR, TEMPLATE = "pair", "template"
# Pairs whose tokens are in memory at a time, at some 0.1 KB each.
PAIRS_AT_ONCE = 64
# Characters of queries, each counted with each of its documents: 2,048 documents beside a query of
# 8,192 tokens are 75 million. More come of a query that is blanks, which have no tokens.
MOST_READ = 1 << 27
# The places of a template: the request's texts, and the instruction that goes before them.
PLACES = re.compile(r"\{(query|document|instruction)\}")


class OtherLayout(Exception):
    """The tokenizer lays pairs out in a way that is not known here."""


class PairTokenizer:
    """Prepares pairs for a cross-encoder. Safe to call from many threads at once.

    The ids are those that the model's tokenizer gives with `truncation="longest_first"`; "auto"
    cuts the side that it cuts.
    """

    def __init__(
        self, texts: TextTokenizer, frame: Sequence[Sequence[int]], limit: int, typed: bool,
        single: TextTokenizer | None = None,
    ) -> None:  # fmt: skip
        """Take a tokenizer that gives a text's bare ids, and a pair's special tokens.

        `frame` is what stands before, between and after the two texts, `typed` whether the network
        is told where the second begins. `single` prepares texts for a model that also reads them
        alone. Raises ModelUnavailable.
        """
        self._texts, self._single, self._limit = texts, single, limit
        self._side: Truncate = texts.side
        self._typed = typed
        self._before, self._middle, self._after = (list(ids) for ids in frame)
        self._room = limit - sum(map(len, frame))
        if self._room < 2:
            raise ModelUnavailable(f"a limit of {limit} tokens leaves no room for a pair")

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return texts for a classifier. Raises BadRequest for a reranker, which reads pairs."""
        if self._single is None:
            raise no_single_text()
        return self._single.prepare(inputs, prompt, truncate)

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return the ids of each pair; see `Embedder`.

        A prompt goes before the query. Raises InputTooLong with the pair's index.
        """
        side: Truncate = truncate if truncate in ("left", "right") else self._side
        queries = list(dict.fromkeys(pair.query for pair in pairs))  # often one for all documents
        read = dict(zip(queries, self._texts.prepare(queries, prompt, side), strict=True))
        documents = self._texts.prepare([pair.document for pair in pairs], Prompt(), side)
        whole = functools.cache(self._texts.count)
        items = []
        for index, (pair, document) in enumerate(zip(pairs, documents, strict=True)):
            query = read[pair.query]
            longer = query.truncated or document.truncated
            longer = longer or query.tokens + document.tokens > self._room
            if longer and truncate == "error":
                raise too_long(index, self._limit)
            counts = query.tokens + query.truncated, document.tokens + document.truncated
            if query.truncated and document.truncated and self._room % 2:  # one gets the odd token
                counts = whole(prompt.text + pair.query), self._texts.count(pair.document)
            kept = shares(*counts, self._room)
            first, last = (
                _part(item, count, side)
                for item, count in zip((query, document), kept, strict=True)
            )
            ids = [*self._before, *first, *self._middle]
            payload = [*ids, *last, *self._after]
            second = len(ids) if self._typed else 0
            items.append(Item(payload, len(payload), longer, second=second))
        return items

    def recipe(self) -> dict[str, Any]:
        """Return JSON from which `preparer_of` makes an equal one."""
        return {
            "kind": PAIR, "texts": self._texts.recipe(), "limit": self._limit, "typed": self._typed,
            "frame": [self._before, self._middle, self._after],
            "single": self._single and self._single.recipe(),
        }  # fmt: skip


def pair_tokenizer(
    tokenizer: Tokenizer, limit: int, vocabulary: int, *, typed: bool, side: Truncate, alone: bool
) -> PairTokenizer:
    """Return what prepares pairs, and texts `alone` if wanted, as a model's tokenizer does.

    `typed` is whether the network reads the types of tokens, `side` the side that "auto" cuts.
    Raises OtherLayout, or ModelUnavailable for a limit that leaves no room.
    """
    probe = _bare(tokenizer).encode("a", "b")
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
    single = TextTokenizer(tokenizer, Limits(limit), vocabulary, side=side) if alone else None
    return PairTokenizer(texts, frame, limit, typed and any(types), single)


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


@dataclass(frozen=True)
class Template:
    """The text that a language model reads of a pair, in segments that are tokenized apart.

    In a segment {query}, {document} and {instruction} stand for the request's texts. `prompted` are
    the segments with an instruction; without them the model takes none.
    """

    segments: tuple[str, ...]
    prompted: tuple[str, ...] = ()


class TemplateTokenizer:
    """Prepares pairs for a reranker that is a language model. Safe from many threads at once."""

    def __init__(self, tokenizer: Tokenizer, limit: int, template: Template) -> None:
        """Copy the model's tokenizer. Raises ModelUnavailable for a template that cannot be."""
        self._tokenizer = _bare(tokenizer)
        self._limit, self._template = limit, template
        for segments in filter(None, (template.segments, template.prompted)):
            text = "".join(segments)
            if any(text.count(place) != 1 for place in ("{query}", "{document}")):
                raise ModelUnavailable("its template needs {query} and {document}, each once")
        if _count(self._ids([Pair("", "")], "")[0]) > limit - 2:
            raise ModelUnavailable(f"a limit of {limit} tokens leaves no room for a pair")

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Raise BadRequest, as a reranker reads pairs."""
        raise no_single_text()

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return the ids of each pair; see `Embedder`. A prompt is the instruction.

        Raises InputTooLong with the pair's index, BadRequest for an instruction that it cannot
        take.
        """
        if prompt.text and not self._template.prompted:
            raise BadRequest("this model's template takes no instruction", param="prompt")
        pairs = self._short(pairs)
        items: list[Item] = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            part = pairs[start : start + PAIRS_AT_ONCE]
            some = [Pair(self._some(query), self._some(document)) for query, document in part]
            read = self._ids(some, prompt.text)
            for pair, tried, parts in zip(part, some, read, strict=True):
                if pair != tried and _count(parts) < self._limit + NEAR_THE_CUT:
                    (parts,) = self._ids([pair], prompt.text)
                longer = _count(parts) > self._limit
                if longer and truncate == "error":
                    raise too_long(len(items), self._limit)
                if longer:
                    parts = self._cut(pair, prompt.text, truncate == "left")
                payload = [token for ids in parts for token in ids]
                items.append(Item(payload, len(payload), longer))
        return items

    def recipe(self) -> dict[str, Any]:
        """Return JSON from which `preparer_of` makes an equal one."""
        return {
            "kind": TEMPLATE, "tokenizer": self._tokenizer.to_str(), "limit": self._limit,
            "special": self._tokenizer.encode_special_tokens, "template": asdict(self._template),
        }  # fmt: skip

    def _short(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return the pairs with no more of a query than may be kept, and what shows that it is cut.

        A query is read with each of its documents. Raises TooLarge where that is too much to read.
        """
        most = self._limit + 2 * NEAR_THE_CUT
        short = {query: self._first(query, most) for query in {pair.query for pair in pairs}}
        if sum(len(short[pair.query]) for pair in pairs) > MOST_READ:
            raise TooLarge(
                f"the query is read with each of the {len(pairs)} documents, which is more than "
                f"{MOST_READ} characters: send a shorter query or fewer documents",
                param="query",
            )
        return [Pair(short[pair.query], pair.document) for pair in pairs]

    def _some(self, text: str) -> str:
        """Return as much of a text as may fit; it is read whole if this leaves room."""
        most = self._limit * CHARACTERS_PER_TOKEN
        return text if len(text) <= most else text[:most]

    def _segments(self, instruction: str) -> Sequence[str]:
        return self._template.prompted if instruction else self._template.segments

    def _ids(self, pairs: Sequence[Pair], instruction: str) -> list[list[list[int]]]:
        """Return the ids of each segment of each pair."""
        segments = self._segments(instruction)
        texts = [
            _filled(segment, query=pair.query, document=pair.document, instruction=instruction)
            for pair in pairs
            for segment in segments
        ]
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in encoded]
        return [ids[at : at + len(segments)] for at in range(0, len(ids), len(segments))]

    def _cut(self, pair: Pair, instruction: str, left: bool) -> list[list[int]]:
        """Return the ids of a pair that is too long, within the limit.

        The end of the document is cut, or with `left` its start, and what the template has after
        it is kept.
        """
        query, document = pair
        short = self._some(document[::-1])[::-1] if left else self._some(document)
        room = self._limit - _count(self._ids([Pair("", "")], instruction)[0])
        if room < 2:
            what = f"leaves no room for a pair in this model's {self._limit} tokens"
            raise BadRequest(f"the instruction {what}", param="prompt")
        if len(self._encoded(short)) < room + NEAR_THE_CUT:
            short = document
        segments = self._segments(instruction)
        at = next(i for i, segment in enumerate(segments) if "{document}" in segment)
        # The library cuts the document alone, also where the query leaves nothing of it.
        most = room - min(len(self._encoded(short)), room // 4)
        while True:
            first = self._first(query, most)
            (parts,) = self._ids([Pair(first, short)], instruction)
            before, after = (
                _filled(each, query=first, instruction=instruction)
                for each in segments[at].split("{document}")
            )
            starts = len(before), len(before) + len(short)
            ends = [stop for _, stop in self._encoded(before + short + after).offsets]
            lead, end = (sum(stop <= start for stop in ends) for start in starts)
            ids, over = parts[at], _count(parts) - self._limit
            # Where the document's start is cut, nothing of it is in the tokens before it.
            head = self._encoded(before).ids if left and over > 0 else ids[:lead]
            over += len(head) - lead
            if over <= end - lead or not first:
                break
            most -= over - (end - lead)  # other tokens beside the cut than in the whole query
        kept = max(0, end - lead - max(0, over))
        inner = ids[end - kept : end] if left else ids[lead : lead + kept]
        parts[at] = [*head, *inner, *ids[end:]]
        return parts

    def _first(self, text: str, count: int) -> str:
        """Return a text's first tokens, at most `count`; several can be one character's."""
        some = self._some(text)
        offsets = self._encoded(some).offsets
        if some != text and len(offsets) < count + NEAR_THE_CUT:
            offsets = self._encoded(text).offsets
        if count >= len(offsets):
            return text
        return text[: min(offsets[count - 1][1], offsets[count][0])] if count > 0 else ""

    def _encoded(self, text: str) -> Any:
        return self._tokenizer.encode(text, add_special_tokens=False)


def no_single_text() -> BadRequest:
    """Return the error of a reranker that is given texts alone."""
    return BadRequest(
        "this model scores pairs of a query and a document, and gives texts no vector: "
        "send them to /rerank",
        param="model",
    )


def too_long(index: int, limit: int) -> InputTooLong:
    """Return the error of a pair over the limit that must not be cut."""
    return InputTooLong(
        f"with the query it has more than this model's limit of {limit} tokens; shorten it, or "
        "allow truncation",
        index=index,
    )


def _part(item: Item, count: int, side: Truncate) -> Sequence[int]:
    """Return the first ids of a text, or the last ones if its start is cut."""
    ids = item.payload
    assert not isinstance(ids, str)
    return ids[len(ids) - count :] if side == "left" else ids[:count]


def _count(parts: Sequence[Sequence[int]]) -> int:
    return sum(map(len, parts))


def _filled(segment: str, **given: str) -> str:
    """Return a segment with the texts in their places, whatever the texts hold."""
    return "".join(
        given[part] if odd % 2 else part for odd, part in enumerate(PLACES.split(segment))
    )


def _bare(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that neither cuts nor pads."""
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.encode_special_tokens = tokenizer.encode_special_tokens  # not in to_str
    bare.no_truncation()
    bare.no_padding()
    return bare


def _pair_of_recipe(recipe: dict[str, Any]) -> PairTokenizer:
    texts = TextTokenizer.of_recipe(recipe["texts"])
    single = TextTokenizer.of_recipe(recipe["single"]) if recipe["single"] else None
    return PairTokenizer(texts, recipe["frame"], recipe["limit"], recipe["typed"], single)


def _template_of_recipe(recipe: dict[str, Any]) -> TemplateTokenizer:
    tokenizer = Tokenizer.from_str(recipe["tokenizer"])
    tokenizer.encode_special_tokens = recipe["special"]
    template = {name: tuple(segments) for name, segments in recipe["template"].items()}
    return TemplateTokenizer(tokenizer, recipe["limit"], Template(**template))


PREPARERS[PAIR], PREPARERS[TEMPLATE] = _pair_of_recipe, _template_of_recipe
