"""What a model's tokenizer makes of whole texts, token by token, and the texts of token ids.

Nothing here cuts a text. Where the tokens of a document's chunks are is found here too.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from tokenizers import Tokenizer

from embedders.base import Pair, Token
from errors import BadRequest

Span = tuple[int, int]


def bare(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that neither cuts nor pads."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = tokenizer.encode_special_tokens  # not in to_str
    copy.no_truncation()
    copy.no_padding()
    return copy


def tokens_of(
    tokenizer: Tokenizer, inputs: Sequence[str | Pair], prompt: str = "", *, special: bool
) -> list[list[Token]]:
    """Return the tokens of each whole text or pair, with the prompt before it.

    With `special` the ones that the tokenizer adds are among them.
    """
    given: list[Any] = [
        (prompt + each.query, each.document) if isinstance(each, Pair) else prompt + each
        for each in inputs
    ]
    return list(map(_told, given, tokenizer.encode_batch(given, add_special_tokens=special)))


def _told(given: str | tuple[str, str], encoding: Any) -> list[Token]:
    texts = (given,) if isinstance(given, str) else given
    rows = zip(
        encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask,
        encoding.sequence_ids, strict=True,
    )  # fmt: skip
    return [
        Token(id_, name, True, None, None) if added or of is None
        else Token(id_, texts[of][start:stop], False, start, stop)
        for id_, name, (start, stop), added, of in rows
    ]  # fmt: skip


def texts_of(
    tokenizer: Tokenizer, ids: Sequence[Sequence[int]], vocabulary: int = 0, *, skip_special: bool
) -> list[str]:
    """Return the text of each list of ids, of which the network knows `vocabulary`.

    Raises BadRequest for an id that neither knows, with the list's index.
    """
    known = max(vocabulary, tokenizer.get_vocab_size())
    for index, each in enumerate(ids):
        if any(not 0 <= token < known for token in each):
            raise BadRequest(f"a token id is not in this model's 0 to {known - 1}", index=index)
    decode = tokenizer.decode
    return [decode(list(each), skip_special_tokens=skip_special) for each in ids]


def joined(chunks: Sequence[str]) -> tuple[str, list[Span]]:
    """Return the document of some chunks, and where in it each chunk begins and ends.

    A space goes between two chunks unless there is white space already, so that their words stay
    apart and chunks that were cut out of a text make it whole again. It is of neither chunk.
    """
    parts: list[str] = []
    places: list[Span] = []
    size = 0
    for chunk in chunks:
        before = parts[-1][-1:] if parts else ""
        if before and not before.isspace() and not chunk[:1].isspace():
            parts.append(" ")
            size += 1
        parts.append(chunk)
        places.append((size, size + len(chunk)))
        size += len(chunk)
    return "".join(parts), places


def spans_of(offsets: Sequence[Span], places: Sequence[Span], skipped: int = 0) -> list[Span]:
    """Return where the tokens of each chunk begin and end, from the place of every token's text.

    `places` has where each chunk is in the document, before which are `skipped` characters. A token
    is of the chunk in which its last character is, and of none where that is in no chunk.
    """
    bounds = [skipped + bound for place in places for bound in place]
    last = accumulate((stop - 1 for _, stop in offsets), max)  # no token is before the one before
    of = [bisect_right(bounds, place) for place in last]  # an odd number within a chunk
    within = range(1, len(bounds), 2)
    return [(bisect_left(of, number), bisect_right(of, number)) for number in within]
