"""Cohere's own clients: of Python in both generations, of Node, and in the Vercel AI SDK."""

import numpy as np
import pytest

from tests.dialects.clients.answers import (
    LONG,
    TEXTS,
    Answers,
    Raw,
    by_type,
    ranked,
    refused,
    same,
    unlike,
)


@pytest.fixture(params=["cohere_5", "cohere_7"])
def cohere(request: pytest.FixtureRequest, python: Answers) -> Answers:
    """What one generation of the client got."""
    if request.param == "cohere_5":
        return python
    answers: Answers = request.getfixturevalue(request.param)
    return answers


def test_the_first_api_gives_floats_in_order(cohere: Answers, raw: Raw) -> None:
    got = cohere["of_cohere.embed_1"]
    same(got["vectors"], raw.floats())
    assert got["texts"] == TEXTS and got["kind"] == "embeddings_floats"


def test_the_first_api_gives_every_type(cohere: Answers, raw: Raw) -> None:
    got = cohere["of_cohere.embed_1_by_type"]
    assert got.pop("kind") == "embeddings_by_type"
    by_type(got, raw.floats())


def test_batches_that_the_client_sends_at_once_keep_their_order(cohere: Answers, raw: Raw) -> None:
    got = cohere["of_cohere.embed_1_in_batches"]
    assert len(got["texts"]) == 300
    same(got["vectors"], raw.floats(got["texts"]))


def test_the_second_api_gives_every_type(cohere: Answers, raw: Raw) -> None:
    got = cohere["of_cohere.embed_2"]
    assert got.pop("texts") == TEXTS and got.pop("version") == "2"
    assert got.pop("tokens") == raw.ask("/v1/embeddings", {"input": TEXTS})["usage"]["total_tokens"]
    by_type(got, raw.floats())


def test_the_second_api_takes_contents_and_a_width(cohere: Answers, raw: Raw) -> None:
    same(cohere["of_cohere.embed_2_contents"], raw.floats(dimensions=64))
    same(cohere["of_cohere.embed_2_in_parallel"], raw.floats())


def test_long_texts_are_cut_as_asked_and_a_warning_says_so(cohere: Answers, raw: Raw) -> None:
    got = cohere["of_cohere.embed_2_cut"]
    same(got["END"]["vectors"], raw.floats([LONG], truncate="right"))
    same(got["START"]["vectors"], raw.floats([LONG], truncate="left"))
    assert got["END"]["warnings"] and got["START"]["warnings"]
    unlike(got["START"]["vectors"], np.float32(got["END"]["vectors"]))


def test_texts_are_cut_at_max_tokens(cohere: Answers, raw: Raw) -> None:
    expected = raw.floats(" ".join(LONG.split()[:6]))
    same(cohere["of_cohere.embed_2_cut_shorter"], expected)


def test_the_input_type_is_the_prompt_where_there_is_one(cohere: Answers, raw: Raw) -> None:
    got = cohere["of_cohere.prompts"]
    for kind, name in (("search_query", "query"), ("search_document", "document")):
        same(got[kind], raw.floats(model="prompted", prompt_name=name))
    same(got["classification"], raw.floats(model="prompted", prompt=""))
    unlike(got["search_query"], np.float32(got["search_document"]))


@pytest.mark.parametrize(
    ("call", "says"),
    [("too_long", "tokens"), ("unknown_model", "no-such-model"), ("image", "text")],
)
def test_it_raises_its_own_error_with_our_words(cohere: Answers, call: str, says: str) -> None:
    kinds = ("cohere.BadRequestError", "cohere.UnprocessableEntityError", "cohere.NotFoundError")
    refused(cohere[f"of_cohere.{call}"], *kinds, says=says)


def test_reranking_gives_the_scores_in_order(cohere: Answers, raw: Raw) -> None:
    got = cohere["of_cohere.rerank_1"]
    ranked(got, raw.ranks())
    assert [text for *_, text in got] == [TEXTS[index] for index, *_ in got]
    ranked(cohere["of_cohere.rerank_2"], raw.ranks())
    ranked(cohere["of_cohere.rerank_2_best"], raw.ranks()[:2])


def test_a_text_becomes_tokens_and_a_text_again(cohere: Answers) -> None:
    got = cohere["of_cohere.tokens"]
    assert got["tokens"] == [7592, 2088] and got["strings"] == ["hello", "world"]
    assert got["text"] == "hello world"


def test_the_models_are_listed_by_what_they_are_for(cohere: Answers) -> None:
    assert set(cohere["of_cohere.models"]["embed"]) == {"minilm", "prompted"}
    assert cohere["of_cohere.models"]["rerank"] == ["reranker"]


def test_it_sends_a_key(cohere: Answers) -> None:
    refused(cohere["of_cohere.wrong_key"], "cohere.UnauthorizedError", says="key", status=401)
    assert cohere["of_cohere.right_key"] == len(TEXTS)


def test_it_tells_when_one_asks_too_often(cohere: Answers, node: Answers) -> None:
    got = cohere["of_cohere.too_often"]
    refused(got, "cohere.TooManyRequestsError", says="a minute", status=429)
    refused(node["node.cohere_too_often"], "TooManyRequestsError", says="a minute", status=429)


def test_node_gets_the_vectors_and_scores(node: Answers, raw: Raw) -> None:
    same(node["node.cohere_embed_1"], raw.floats())
    got = node["node.cohere_embed_2"]
    assert set(got) >= {"float", "int8", "uint8", "binary", "ubinary", "base64"}
    by_type(got, raw.floats())
    ranked(node["node.cohere_rerank_1"], raw.ranks())
    ranked(node["node.cohere_rerank_2"], raw.ranks())
    assert node["node.cohere_tokens"]["text"] == "hello world"
    assert node["node.cohere_key_is_good"] is True


def test_node_raises_its_own_error_with_our_words(node: Answers) -> None:
    kinds = ("BadRequestError", "UnprocessableEntityError", "NotFoundError")
    refused(node["node.cohere_unknown_model"], *kinds, says="no-such-model")


def test_the_vercel_ai_sdk_gets_vectors_and_scores(node: Answers, raw: Raw) -> None:
    same(node["node.vercel_cohere"], raw.floats())
    ranked(node["node.vercel_cohere_rerank"], raw.ranks())
