"""Of a pair that is too long the tokens are cut that its tokenizer, or its template, cuts."""

from pathlib import Path
from typing import Any

import pytest

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Pair, Prompt, Truncate
from embedders.causal import PUBLISHED
from embedders.pairs import pair_tokenizer
from embedders.templates import Template, TemplateTokenizer
from embedders.tokens import preparer_of
from errors import BadRequest, TooLarge
from tests.embedders.rerankers import encoder, xlnet
from tests.zoo import vocabularies

COUNTS = (1, 9, 20, 21, 22, 43, 44, 45, 46, 60, 90)
PLAIN = Prompt()
TEMPLATES = {
    "published": PUBLISHED["qwen3-reranker"].template,
    "document-first": Template(("Text: {document}\nQuestion: {query}\nAnswer:",)),
}


@pytest.mark.parametrize("cuts", ["right", "left"])
@pytest.mark.parametrize("limit", [45, 46])
def test_each_text_keeps_the_tokens_that_its_tokenizer_keeps(limit: int, cuts: Truncate) -> None:
    words: Any = vocabularies.bert()
    words.truncation_side = cuts
    ours = pair_tokenizer(words.backend_tokenizer, limit, len(words), typed=True, side=cuts)
    again = preparer_of(ours.recipe())
    for query in COUNTS:
        for document in COUNTS:
            pair = Pair("cat " * query + "dog", "dog " * document + "cat")
            right = words(*pair, truncation="longest_first", max_length=limit)["input_ids"]
            for truncate in ("auto", cuts):
                (item,) = again.prepare_pairs([pair], PLAIN, truncate)
                assert list(item.payload) == right, (query, document)


@pytest.mark.parametrize(("query", "document"), [(4000, 900), (900, 4000), (900, 901), (901, 900)])
def test_of_a_very_long_text_no_more_is_read_than_shows_that_it_is_the_longer(
    query: int, document: int
) -> None:
    words: Any = vocabularies.bert()
    ours = pair_tokenizer(words.backend_tokenizer, 46, len(words), typed=True, side="right")
    pair = Pair("cat " * query, "dog " * document)
    right = words(*pair, truncation="longest_first", max_length=46)["input_ids"]
    other = Pair(pair.query, "dog " * 50)
    items = ours.prepare_pairs([pair, other], PLAIN, "auto")
    assert list(items[0].payload) == right
    long = Pair("cat " * 4000, "dog " * 4000)
    for prompt in (PLAIN, Prompt("about: ")):
        with pytest.raises(TooLarge, match="both have more than 11500 characters"):
            ours.prepare_pairs([pair, long], prompt, "auto")
    assert ours.prepare_pairs([long], Prompt(limit=45), "auto"), "no odd token: neither is counted"


def test_a_reranker_whose_tokenizer_cuts_the_start_needs_no_library(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    encoder(folder, "Bert", vocabularies.bert(truncation_side="left"))
    entry = {"id": "m", "model_name": str(folder), "dtype": "float32", "max_seq_length": 61}
    embedder = local(
        ModelSpec.model_validate(entry), Config(device="cpu", model_cache_dir=tmp_path / "cache")
    )
    assert embedder.facts.backend == "onnx"
    pair = Pair("which", "cat " + "dog " * 100)
    auto, left, right = (
        embedder.prepare_pairs([pair], PLAIN, side)[0] for side in ("auto", "left", "right")
    )
    assert auto.payload == left.payload != right.payload


def test_the_library_cuts_only_the_side_that_its_tokenizer_cuts(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    xlnet(folder)
    embedder = local(
        ModelSpec(id="m", model_name=str(folder), dtype="float32", max_seq_length=300),
        Config(device="cpu", model_cache_dir=tmp_path / "cache"),
    )
    assert embedder.facts.backend == "library"
    with pytest.raises(BadRequest, match="truncate right"):
        embedder.prepare_pairs([Pair("which", "dog")], PLAIN, "left")
    assert embedder.prepare_pairs([Pair("which", "dog")], PLAIN, "right")


@pytest.mark.parametrize("truncate", ["auto", "left"])
@pytest.mark.parametrize("room", [120, 121])
@pytest.mark.parametrize("document", ["", "dog", "the cat sleeps " * 200, "🦥🦦 " * 200])
@pytest.mark.parametrize("query", ["which animal sleeps " * 100, "🦥" * 300, "a🦥 bé " * 99])
@pytest.mark.parametrize("template", TEMPLATES)
def test_of_a_long_query_the_start_is_read_once(
    template: str, query: str, document: str, room: int, truncate: Truncate
) -> None:
    words: Any = vocabularies.qwen(ends=False)
    made = TEMPLATES[template]
    whole = "".join(made.segments)
    limit = room + len(words(whole.replace("{query}", "").replace("{document}", ""))["input_ids"])
    ours = TemplateTokenizer(words.backend_tokenizer, limit, made)
    (item,) = ours.prepare_pairs([Pair(query, document)], PLAIN, truncate)
    assert item.truncated and limit - 24 <= item.tokens <= limit
    text = words.decode(item.payload, clean_up_tokenization_spaces=False)
    start, between, end = whole.replace("{query}", "\0").replace("{document}", "\0").split("\0")
    assert text.startswith(start) and text.endswith(end)
    inner = text[len(start) : len(text) - len(end)]
    assert inner.count(between) == 1
    first, second = inner.split(between)
    if template == "document-first":
        first, second = second, first
    assert first and query.startswith(first)
    kept = second.strip("�")  # a cut may be inside of a character
    assert document.strip().endswith(kept.strip()) if truncate == "left" else (
        document.startswith(kept)
    )  # fmt: skip
    assert (kept == document) if len(document) < 9 else len(kept) > 5


def test_an_instruction_that_leaves_no_room_is_refused() -> None:
    words: Any = vocabularies.qwen(ends=False)
    ours = TemplateTokenizer(words.backend_tokenizer, 350, TEMPLATES["published"])
    with pytest.raises(BadRequest, match="leaves no room"):
        ours.prepare_pairs([Pair("a", "b")], Prompt("judge it " * 200), "auto")
