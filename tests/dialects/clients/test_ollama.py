"""Ollama's own clients, of Python and of Node."""

import numpy as np

from tests.dialects.clients.answers import LONG, TEXTS, Answers, Raw, refused, same


def test_python_gets_the_vectors_in_order(python: Answers, raw: Raw) -> None:
    got = python["of_ollama.embed"]
    same(got["vectors"], raw.floats())
    usage = raw.ask("/v1/embeddings", {"input": TEXTS})["usage"]
    assert got["tokens"] == usage["prompt_tokens"] and got["took"] > 0
    assert got["model"] == "minilm:latest"
    same(python["of_ollama.one_text"], raw.floats(TEXTS[:1]))
    same(python["of_ollama.in_parallel"], raw.floats())


def test_python_gets_one_vector_of_the_old_route(python: Answers, raw: Raw) -> None:
    got = np.float32(python["of_ollama.old_route"])
    np.testing.assert_allclose(got / np.linalg.norm(got), raw.floats(TEXTS[:1])[0], atol=1e-6)


def test_an_empty_input_loads_the_model_and_no_more(python: Answers) -> None:
    assert list(python["of_ollama.nothing"]) == []


def test_python_gets_shorter_vectors(python: Answers, raw: Raw) -> None:
    same(python["of_ollama.dimensions"], raw.floats(dimensions=64))


def test_python_cuts_at_num_ctx(python: Answers, raw: Raw) -> None:
    same(python["of_ollama.short_context"], raw.floats(" ".join(LONG.split()[:6])))


def test_python_sees_the_models(python: Answers) -> None:
    got = python["of_ollama.listed"]
    assert "minilm:latest" in got["tags"] and "minilm:latest" in got["ps"]
    shown = python["of_ollama.shown"]
    assert shown["info"]["bert.embedding_length"] == 384
    assert shown["info"]["bert.context_length"] == 256
    assert shown["can"] == ["embedding"] and shown["family"] == "bert"


def test_python_raises_its_own_error_with_our_words(python: Answers) -> None:
    got = python["of_ollama.too_long"]
    says = "input length exceeds the context length"
    refused(got, "ollama.ResponseError", says=says, status=400)
    got = python["of_ollama.unknown_model"]
    refused(got, "ollama.ResponseError", says="model 'no-such-model' not found", status=404)


def test_what_writes_is_refused(python: Answers) -> None:
    for got in python["of_ollama.not_here"]:
        refused(got, "ollama.ResponseError", says="embeds texts", status=400)


def test_a_model_that_is_here_need_not_be_pulled(python: Answers) -> None:
    assert set(python["of_ollama.pulled"]) == {"success"}


def test_python_sends_a_key_in_a_header(python: Answers) -> None:
    refused(python["of_ollama.wrong_key"], "ollama.ResponseError", says="key", status=401)
    assert python["of_ollama.right_key"] == len(TEXTS)


def test_python_and_node_tell_when_one_asks_too_often(python: Answers, node: Answers) -> None:
    refused(python["of_ollama.too_often"], "ollama.ResponseError", says="a minute", status=429)
    refused(node["node.ollama_too_often"], "ResponseError", says="a minute", status=429)


def test_node_gets_the_vectors(node: Answers, raw: Raw) -> None:
    same(node["node.ollama_embed"]["vectors"], raw.floats())
    got = np.float32(node["node.ollama_old_route"])
    np.testing.assert_allclose(got / np.linalg.norm(got), raw.floats(TEXTS[:1])[0], atol=1e-6)
    assert "minilm:latest" in node["node.ollama_listed"]["tags"]
    assert node["node.ollama_shown"] == ["embedding"]


def test_node_raises_its_own_error_with_our_words(node: Answers) -> None:
    got = node["node.ollama_unknown_model"]
    refused(got, "ResponseError", says="model 'no-such-model' not found", status=404)
