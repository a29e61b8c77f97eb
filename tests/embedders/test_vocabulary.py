"""Tokens are those of the model's own tokenizer, each with its place in the text, and back."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import processors

from embedders.base import Pair, Prompt, Token
from embedders.pairs import PairTokenizer, pair_tokenizer
from embedders.sides import SideTokenizer
from embedders.templates import Template, TemplateTokenizer
from embedders.tokens import Limits, TextTokenizer, preparer_of
from embedders.vocabulary import joined, spans_of
from errors import BadRequest, InputTooLong
from tests.zoo import vocabularies
from tests.zoo.words import ODD, prose

TEXTS = [*ODD, "", prose(40, 3)]


def two_at_each_end() -> Any:
    """A tokenizer that puts two special tokens before a text, and two after it."""
    made = vocabularies.bert()
    names = ("[CLS]", "[MASK]", "[SEP]", "[PAD]")
    ids = [(name, made.convert_tokens_to_ids(name)) for name in names]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] [MASK] $A [SEP] [PAD]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    return made


KINDS: dict[str, Callable[[], Any]] = {
    "WordPiece": vocabularies.bert,
    "byte-level BPE": vocabularies.roberta,
    "SentencePiece": vocabularies.xlmr,
    "BPE with bytes": lambda: vocabularies.llama("<s> $A"),
    "two at each end": two_at_each_end,
}


def of(kind: str, limit: int = 32) -> tuple[TextTokenizer, Any]:
    made = KINDS[kind]()
    words = made.backend_tokenizer
    words.enable_truncation(8)
    return TextTokenizer(words, Limits(limit), words.get_vocab_size()), made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [True, False])
def test_every_token_of_a_whole_text_is_told(kind: str, special: bool) -> None:
    texts, made = of(kind)
    made.backend_tokenizer.no_truncation()
    found = texts.tokenize(TEXTS, Prompt(), special=special)
    for text, tokens in zip(TEXTS, found, strict=True):
        right = made.backend_tokenizer.encode(text, add_special_tokens=special)
        assert [token.id for token in tokens] == right.ids
        assert [token.special for token in tokens] == [m == 1 for m in right.special_tokens_mask]
        for token, name, place in zip(tokens, right.tokens, right.offsets, strict=True):
            if token.special:
                assert token == Token(token.id, name, True, None, None)
            else:
                assert (token.start, token.stop) == place
                assert token.text == text[place[0] : place[1]]
    if special and kind == "two at each end":
        assert [token.special for token in found[0]] == [True, True, False, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_tells_the_same(kind: str) -> None:
    texts, _ = of(kind)
    elsewhere = preparer_of(json.loads(json.dumps(texts.recipe())))
    for special in (True, False):
        there = elsewhere.tokenize(TEXTS, Prompt("Say: "), special=special)
        assert there == texts.tokenize(TEXTS, Prompt("Say: "), special=special)
    ids = [[token.id for token in tokens] for tokens in there]
    assert elsewhere.detokenize(ids, skip_special=True) == texts.detokenize(ids, skip_special=True)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_a_text_again(kind: str) -> None:
    texts, made = of(kind)
    text = "the house is large and old"
    (tokens,) = texts.tokenize([text], Prompt(), special=True)
    ids = [token.id for token in tokens]
    assert texts.detokenize([ids, [], ids[1:]], skip_special=True)[0].strip() == text
    (whole,) = texts.detokenize([ids], skip_special=False)
    assert whole == made.backend_tokenizer.decode(ids, skip_special_tokens=False)
    assert len(whole) > len(text)


@pytest.mark.parametrize("ids", [[-1], [10**9], [1, 2**70]])
def test_ids_of_another_vocabulary_are_refused(ids: list[int]) -> None:
    texts, _ = of("WordPiece")
    with pytest.raises(BadRequest, match="not in this model's 0 to") as refused:
        texts.detokenize([[1], ids], skip_special=True)
    assert refused.value.index == 1


def test_a_prompt_goes_before_each_text() -> None:
    texts, _ = of("WordPiece")
    (with_prompt,) = texts.tokenize(["the house"], Prompt("so: "), special=True)
    (plain,) = texts.tokenize(["so: the house"], Prompt(), special=True)
    assert with_prompt == plain and plain[-2].stop == len("so: the house")


def test_a_static_model_adds_no_tokens() -> None:
    words = vocabularies.bert().backend_tokenizer
    texts = TextTokenizer(words, Limits(9), words.get_vocab_size(), special=False, empty=True)
    assert texts.tokenize([""], Prompt(), special=True) == [[]]


def test_a_reranker_tells_the_tokens_of_texts_and_pairs() -> None:
    made = vocabularies.bert()
    words = made.backend_tokenizer
    vocabulary = words.get_vocab_size()
    pairs = pair_tokenizer(words, 64, vocabulary, typed=True, side="right")
    assert isinstance(pairs, PairTokenizer)
    given = ["the house", Pair("the old", "the new house")]
    text, pair = pairs.tokenize(given, Prompt(), special=True)
    assert [token.id for token in text] == made("the house")["input_ids"]
    assert [token.id for token in pair] == made("the old", "the new house")["input_ids"]
    (item,) = pairs.prepare_pairs([Pair("the old", "the new house")], Prompt(), "auto")
    assert [token.id for token in pair] == list(item.payload)
    assert [token.text for token in pair if not token.special][-1].endswith("e")
    assert [token.start for token in pair].count(0) == 2
    assert pairs.detokenize([[token.id for token in text]], skip_special=True) == ["the house"]
    elsewhere = preparer_of(json.loads(json.dumps(pairs.recipe())))
    assert elsewhere.tokenize(given, Prompt(), special=True) == [text, pair]


def test_the_two_sides_of_a_retrieval_have_their_own_tokens() -> None:
    words = vocabularies.bert().backend_tokenizer
    vocabulary = words.get_vocab_size()
    texts = TextTokenizer(words, Limits(9), vocabulary)
    table = TextTokenizer(words, Limits(9), vocabulary, special=False, empty=True)
    both = SideTokenizer({None: texts, "query": table, "document": texts})
    (query,) = both.tokenize(["the"], Prompt(task="query"), special=True)
    (document,) = both.tokenize(["the"], Prompt(task="document"), special=True)
    assert len(document) == len(query) + 2
    assert both.detokenize([[token.id for token in document]], skip_special=True) == ["the"]


# ---- a request's own limit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_lower_limit_cuts_as_the_models_own_does(kind: str, side: Any) -> None:
    texts, made = of(kind, 64)
    lower = TextTokenizer(
        made.backend_tokenizer, Limits(12), made.backend_tokenizer.get_vocab_size()
    )
    long = [prose(60, 5), "a", prose(9, 6)]
    assert texts.prepare(long, Prompt(limit=12), side) == lower.prepare(long, Prompt(), side)
    assert texts.prepare(long, Prompt(limit=64), side) == texts.prepare(long, Prompt(), side)
    with pytest.raises(InputTooLong, match="the request's limit of 12") as refused:
        texts.prepare(["a", *long], Prompt(limit=12), "error")
    assert refused.value.index == 1


def test_a_limit_that_leaves_no_room_is_refused() -> None:
    texts, _ = of("two at each end")
    with pytest.raises(BadRequest, match="leaves no room"):
        texts.prepare(["a"], Prompt(limit=4), "auto")
    assert texts.prepare(["a b"], Prompt(limit=5), "auto")[0].tokens == 5


def pairs_of(limit: int) -> PairTokenizer:
    words = vocabularies.bert().backend_tokenizer
    return pair_tokenizer(words, limit, words.get_vocab_size(), typed=True, side="right")


def templates_of(limit: int) -> TemplateTokenizer:
    words = vocabularies.bert().backend_tokenizer
    return TemplateTokenizer(words, limit, Template(("the {query} old ", "{document} new")))


@pytest.mark.parametrize("make", [pairs_of, templates_of])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_pair_has_a_lower_limit_of_its_own_and_one_of_its_document(make: Any, side: Any) -> None:
    pairs = [Pair(prose(q, q), prose(d, d)) for q, d in ((3, 5), (4, 60), (40, 60), (60, 3))]
    own, lower = make(120), make(24)
    within = own.prepare_pairs(pairs, Prompt(limit=24), side)
    assert [item.tokens for item in within] == [
        item.tokens for item in lower.prepare_pairs(pairs, Prompt(), side)
    ]
    assert [item.payload for item in within][:2] == [
        item.payload for item in lower.prepare_pairs(pairs, Prompt(), side)
    ][:2]
    short = own.prepare_pairs(pairs[:2], Prompt(document_limit=7), side)
    assert [item.truncated for item in short] == [short[0].truncated, True]
    words = vocabularies.bert()
    query = len(words.tokenize(pairs[1].query))
    frame = make(120).prepare_pairs([Pair("", "")], Prompt(), side)[0].tokens
    assert short[1].tokens == frame + query + 7
    kept = words.tokenize(pairs[1].document)
    part = kept[:7] if side == "right" else kept[-7:]
    ids = words.convert_tokens_to_ids(part)
    assert any(list(short[1].payload)[i : i + 7] == ids for i in range(short[1].tokens))
    with pytest.raises(InputTooLong) as refused:
        own.prepare_pairs(pairs, Prompt(document_limit=7), "error")
    assert refused.value.index in (0, 1)
    with pytest.raises(BadRequest, match="no room for a pair"):
        own.prepare_pairs(pairs, Prompt(limit=4), side)


# ---- chunks


def test_a_space_goes_between_chunks_unless_there_is_one() -> None:
    assert joined(["a", "b"]) == ("a b", [(0, 1), (2, 3)])
    assert joined(["a ", "b\n", "c", "\td"]) == ("a b\nc\td", [(0, 2), (2, 4), (4, 5), (5, 7)])
    assert joined(["a"]) == ("a", [(0, 1)])


def test_a_token_is_of_the_chunk_in_which_it_ends() -> None:
    places = [(0, 3), (4, 7), (7, 9)]
    offsets = [(0, 2), (2, 3), (3, 4), (3, 6), (6, 8), (8, 9)]
    assert spans_of(offsets, places) == [(0, 2), (3, 4), (4, 6)]
    assert spans_of([(0, 5), *((a + 5, b + 5) for a, b in offsets)], places, 5) == [
        (1, 3), (4, 5), (5, 7)
    ]  # fmt: skip
    assert spans_of([(0, 3)], [(0, 3), (3, 3)]) == [(0, 1), (1, 1)]
