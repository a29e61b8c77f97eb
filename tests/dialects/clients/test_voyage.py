"""Voyage's own Python client."""

import numpy as np
import pytest

from tests.dialects.clients.answers import (
    TEXTS,
    Answers,
    Raw,
    by_type,
    ranked,
    refused,
    same,
    unlike,
)


def test_it_gets_the_vectors_in_order(python: Answers, raw: Raw) -> None:
    got = python["of_voyage.embed"]
    same(got["vectors"], raw.floats())
    assert got["tokens"] == raw.ask("/v1/embeddings", {"input": TEXTS})["usage"]["total_tokens"]
    same(python["of_voyage.in_parallel"], raw.floats())


def test_it_gets_every_type(python: Answers, raw: Raw) -> None:
    by_type(python["of_voyage.by_type"], raw.floats())


def test_it_gets_shorter_vectors(python: Answers, raw: Raw) -> None:
    same(python["of_voyage.dimensions"], raw.floats(dimensions=64))


def test_the_input_type_is_the_prompt(python: Answers, raw: Raw) -> None:
    got = python["of_voyage.prompts"]
    for name in ("query", "document"):
        same(got[name], raw.floats(model="prompted", prompt_name=name))
    unlike(got["query"], np.float32(got["document"]))


def test_reranking_gives_scores_and_texts_in_order(python: Answers, raw: Raw) -> None:
    got = python["of_voyage.rerank"]
    ranked(got["rows"], raw.ranks())
    assert [text for *_, text in got["rows"]] == [TEXTS[index] for index, *_ in got["rows"]]
    assert got["tokens"] > 0
    ranked(python["of_voyage.rerank_best"], raw.ranks()[:2])


def test_chunks_of_a_document_are_embedded_in_its_context(python: Answers, raw: Raw) -> None:
    got = python["of_voyage.chunks"]
    assert got["order"] == [0, 1] and got["tokens"] > 0
    for vectors, chunks in zip(got["vectors"], (TEXTS[:3], TEXTS[3:]), strict=True):
        same(vectors, raw.floats(chunks, late_chunking=True))
        unlike(vectors, raw.floats(chunks))


def test_the_client_may_cut_the_chunks_itself(python: Answers, raw: Raw) -> None:
    got = python["of_voyage.chunks_by_function"]
    assert got["texts"] == ". ".join(TEXTS).split(". ")
    same(got["vectors"], raw.floats(got["texts"], late_chunking=True))


def test_what_cannot_be_read_in_one_pass_is_refused(python: Answers) -> None:
    got = python["of_voyage.chunks_refused"]
    refused(got["auto"], "voyageai.InvalidRequestError", says="enable_auto_chunking")
    refused(got["long"], "voyageai.InvalidRequestError", says="longer than the 256 tokens")


def test_multimodal_inputs_may_hold_text_and_nothing_else(python: Answers, raw: Raw) -> None:
    same(python["of_voyage.multimodal_text"]["vectors"], raw.floats())
    kinds = ("voyageai.InvalidRequestError", "voyageai.MalformedRequestError")
    refused(python["of_voyage.multimodal_image"], *kinds, says="text")


@pytest.mark.parametrize(
    ("call", "says"), [("too_long", "tokens"), ("unknown_model", "no-such-model")]
)
def test_it_raises_its_own_error_with_our_words(python: Answers, call: str, says: str) -> None:
    kinds = ("voyageai.InvalidRequestError", "voyageai.MalformedRequestError")
    refused(python[f"of_voyage.{call}"], *kinds, says=says)


def test_it_sends_a_key(python: Answers) -> None:
    refused(python["of_voyage.wrong_key"], "voyageai.AuthenticationError", says="key")
    assert python["of_voyage.right_key"] == len(TEXTS)


def test_it_tells_when_one_asks_too_often(python: Answers) -> None:
    refused(python["of_voyage.too_often"], "voyageai.RateLimitError", says="a minute")
