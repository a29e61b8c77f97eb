"""Turns a query and a document into the ids of the question that a language model is asked.

What is cut of a pair that is too long is the document. Nothing here needs torch or transformers.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import Tokenizer

from embedders.base import Input, Item, Pair, Prompt, Token, Truncate
from embedders.pairs import no_room, no_single_text, too_long, within
from embedders.tokens import CHARACTERS_PER_TOKEN, NEAR_THE_CUT, PREPARERS
from embedders.vocabulary import bare, texts_of, tokens_of
from errors import BadRequest, ModelUnavailable, TooLarge

TEMPLATE = "template"
# Pairs whose tokens are in memory at a time, at some 0.1 KB each.
PAIRS_AT_ONCE = 64
# Characters of queries, each counted with each of its documents: 2,048 documents beside a query of
# 8,192 tokens are 75 million. More come of a query that is blanks, which have no tokens.
MOST_READ = 1 << 27
# The places of a template: the request's texts, and the instruction that goes before them.
PLACES = re.compile(r"\{(query|document|instruction)\}")


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
        self._tokenizer = bare(tokenizer)
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
        limit, left = within(prompt, self._limit), truncate == "left"
        if limit < self._limit and _count(self._ids([Pair("", "")], prompt.text)[0]) > limit - 2:
            raise no_room(prompt)
        pairs = self._short(pairs)
        items: list[Item] = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            given = pairs[start : start + PAIRS_AT_ONCE]
            part = [self._cut_document(pair, prompt.document_limit, left) for pair in given]
            some = [Pair(self._some(query), self._some(document)) for query, document in part]
            read = self._ids(some, prompt.text)
            for whole, pair, tried, parts in zip(given, part, some, read, strict=True):
                if pair != tried and _count(parts) < self._limit + NEAR_THE_CUT:
                    (parts,) = self._ids([pair], prompt.text)
                over = _count(parts) > limit
                longer = over or pair != whole
                if longer and truncate == "error":
                    raise too_long(len(items), limit)
                if over:
                    parts = self._cut(pair, prompt.text, left, limit)
                payload = [token for ids in parts for token in ids]
                items.append(Item(payload, len(payload), longer))
        return items

    def prepare_chunks(
        self, documents: Sequence[Sequence[str]], prompt: Prompt, truncate: Truncate | None
    ) -> list[Item]:
        """Raise BadRequest, as a reranker gives no vectors."""
        raise no_single_text()

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """Return the tokens of each whole text, without the template. See `Embedder.tokenize`."""
        return tokens_of(self._tokenizer, inputs, prompt.text, special=special)

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the text of each list of ids. See `Embedder.detokenize`."""
        return texts_of(self._tokenizer, ids, skip_special=skip_special)

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

    def _cut_document(self, pair: Pair, most: int | None, left: bool) -> Pair:
        """Return the pair with no more than so many tokens of its document."""
        if most is None or most >= self._limit:
            return pair
        if not left:
            return Pair(pair.query, self._first(pair.document, most))
        offsets = self._encoded(pair.document).offsets
        start = offsets[-most][0] if len(offsets) > most else 0
        return Pair(pair.query, pair.document[start:])

    def _cut(self, pair: Pair, instruction: str, left: bool, limit: int) -> list[list[int]]:
        """Return the ids of a pair that is too long, within the limit.

        The end of the document is cut, or with `left` its start, and what the template has after
        it is kept.
        """
        query, document = pair
        short = self._some(document[::-1])[::-1] if left else self._some(document)
        room = limit - _count(self._ids([Pair("", "")], instruction)[0])
        if room < 2:
            what = f"leaves no room for a pair in {limit} tokens"
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
            ids, over = parts[at], _count(parts) - limit
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


def _count(parts: Sequence[Sequence[int]]) -> int:
    return sum(map(len, parts))


def _filled(segment: str, **given: str) -> str:
    """Return a segment with the texts in their places, whatever the texts hold."""
    return "".join(
        given[part] if odd % 2 else part for odd, part in enumerate(PLACES.split(segment))
    )


def _template_of_recipe(recipe: dict[str, Any]) -> TemplateTokenizer:
    tokenizer = Tokenizer.from_str(recipe["tokenizer"])
    tokenizer.encode_special_tokens = recipe["special"]
    template = {name: tuple(segments) for name, segments in recipe["template"].items()}
    return TemplateTokenizer(tokenizer, recipe["limit"], Template(**template))


PREPARERS[TEMPLATE] = _template_of_recipe
