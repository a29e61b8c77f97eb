"""Hugging Face's InferenceClient against the routes that TEI has."""

import numpy as np
import pytest

from tests.dialects.clients.answers import LONG, QUERY, TEXTS, Answers, Raw, refused, same, unlike


def test_it_gets_the_vectors_in_order(python: Answers, raw: Raw) -> None:
    same(python["of_huggingface.one_text"], raw.floats(TEXTS[:1]))
    same(python["of_huggingface.many_texts"], raw.floats())
    same(python["of_huggingface.exact_path"], raw.floats())
    same(python["of_huggingface.in_parallel"], raw.floats())


def test_it_gets_vectors_that_are_not_normalised(python: Answers, raw: Raw) -> None:
    got = python["of_huggingface.not_normalised"]
    same(got, raw.floats(normalize=False))
    unlike(got, raw.floats())


def test_it_gets_shorter_vectors(python: Answers, raw: Raw) -> None:
    same(python["of_huggingface.dimensions"], raw.floats(dimensions=64))


def test_it_says_on_which_side_a_text_is_cut(python: Answers, raw: Raw) -> None:
    for side, rows in python["of_huggingface.cut"].items():
        same(rows, raw.floats([LONG], truncate=side))


def test_it_gets_similarities(python: Answers, raw: Raw) -> None:
    one, many = raw.floats([QUERY])[0], raw.floats()
    np.testing.assert_allclose(python["of_huggingface.similarity"], many @ one, atol=1e-5)


def test_it_gets_every_class_the_likeliest_first(python: Answers, raw: Raw) -> None:
    rows = raw.ask("/predict", {"inputs": TEXTS[0]})
    assert python["of_huggingface.classes"] == [[row["label"], row["score"]] for row in rows]
    assert {row["label"] for row in rows} == {"sad", "glad", "neither"}
    assert sum(row["score"] for row in rows) == pytest.approx(1)


def test_it_asks_whether_the_service_is_well_and_what_it_is(python: Answers) -> None:
    assert python["of_huggingface.health"] is True
    got = python["of_huggingface.info"]
    assert got["model_type"] == {"embedding": {"pooling": "mean"}}
    assert got["max_input_length"] == 256
    assert got["model_id"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_it_raises_its_own_error_with_our_words(python: Answers) -> None:
    said = {"too_long": "tokens", "unknown_prompt": "no-such-prompt", "base64": "encoding_format"}
    for call, says in said.items():
        got = python[f"of_huggingface.{call}"]
        refused(got, "huggingface_hub.HfHubHTTPError", says=says)


def test_it_sends_a_key(python: Answers) -> None:
    got = python["of_huggingface.wrong_key"]
    refused(got, "huggingface_hub.HfHubHTTPError", says="401")
    assert python["of_huggingface.right_key"] == 1


def test_it_tells_when_one_asks_too_often(python: Answers) -> None:
    got = python["of_huggingface.too_often"]
    refused(got, "huggingface_hub.HfHubHTTPError", says="a minute")
    assert "429" in got["says"]
