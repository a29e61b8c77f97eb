"""A query with many documents: it is read as far as it may count, and no further."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from embedders.base import Item, Pair, Prompt
from embedders.fake import FakeEmbedder
from embedders.templates import Template, TemplateTokenizer
from errors import InputTooLong, TooLarge

LIMIT = 40
TEMPLATE = Template(("ask ", "{query} then {document}", " end"))
WORDS = ["ask", "then", "end", "?", *(f"w{i}" for i in range(200))]


def words() -> Tokenizer:
    """A tokenizer of whole words; blanks have no token."""
    vocabulary = {word: at for at, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def text(count: int, first: int = 0) -> str:
    return " ".join(f"w{(first + i) % 200}" for i in range(count))


def prepared(query: str, documents: list[str]) -> list[Item]:
    pairs = [Pair(query, document) for document in documents]
    return TemplateTokenizer(words(), LIMIT, TEMPLATE).prepare_pairs(pairs, Prompt(), "auto")


@pytest.mark.parametrize("count", [1, 30, 36, 37, 38, 60, 71, 72, 73, 100, 150_000])
def test_what_is_kept_of_a_query_does_not_depend_on_how_long_it_goes_on(count: int) -> None:
    room = LIMIT - 3
    documents = [text(n, 50) for n in (1, 5, 9, 100)]
    for item, n in zip(prepared(text(count), documents), (1, 5, 9, 100), strict=True):
        asked = min(count, room - min(n, room // 4))
        kept = min(n, room - asked)
        right = ["ask", *text(asked).split(), "then", *text(kept, 50).split(), "end"]
        assert [WORDS[token] for token in item.payload] == right
        assert item.truncated == (count + n > room)


def test_more_pairs_than_are_read_at_once_keep_their_places() -> None:
    documents = [text(i % 7 + 1, i) for i in range(150)]
    for item, document in zip(prepared("w1 w2", documents), documents, strict=True):
        assert [WORDS[token] for token in item.payload][4:-1] == document.split()
    pairs = [Pair("w1", each) for each in [*documents[:99], text(99)]]
    with pytest.raises(InputTooLong) as refused:
        TemplateTokenizer(words(), LIMIT, TEMPLATE).prepare_pairs(pairs, Prompt(), "error")
    assert refused.value.index == 99


@pytest.mark.fault("Hostile clients")
def test_a_long_query_without_tokens_is_not_read_with_thousands_of_documents() -> None:
    """A query of 2 MB of blanks and 2,048 documents -> 413 that says what to send."""
    with pytest.raises(TooLarge, match="a shorter query or fewer documents") as refused:
        prepared("w1" + " " * 2_000_000 + "w2", ["w3"] * 2048)
    assert refused.value.param == "query"


def test_the_fake_splits_a_query_once() -> None:
    class Query(str):
        splits = 0

        def split(self, *how: str) -> list[str]:  # type: ignore[override]
            Query.splits += 1
            return super().split(*how)

    query = Query("a b c")
    fake = FakeEmbedder("tests/r+score")
    made = fake.prepare_pairs([Pair(query, str(i)) for i in range(9)], Prompt(), "auto")
    assert Query.splits == 1 and len(made) == 9
