"""OpenAI's own clients, of Python and of Node, and what is built on them in the same process."""

import pytest

from tests.dialects.clients.answers import LONG, TEXTS, Answers, Raw, refused, same


def test_python_gets_the_vectors_in_order(python: Answers, raw: Raw) -> None:
    got = python["of_openai.floats"]
    same(got["vectors"], raw.floats())
    assert got["order"] == list(range(len(TEXTS)))
    assert got["tokens"] == raw.ask("/v1/embeddings", {"input": TEXTS})["usage"]["total_tokens"] > 0


def test_python_gets_the_same_asked_for_floats_or_for_many_at_once(
    python: Answers, raw: Raw
) -> None:
    same(python["of_openai.one_text"], raw.floats(TEXTS[:1]))
    same(python["of_openai.in_parallel"], raw.floats())


def test_python_gets_shorter_vectors(python: Answers, raw: Raw) -> None:
    same(python["of_openai.dimensions"], raw.floats(dimensions=64))


def test_python_may_use_another_name_for_the_model(python: Answers, raw: Raw) -> None:
    same(python["of_openai.another_name"], raw.floats())


def test_python_sends_the_cut_of_vllm(python: Answers, raw: Raw) -> None:
    same(python["of_openai.cut_as_vllm_does"], raw.floats(" ".join(LONG.split()[:6])))


def test_python_lists_the_models(python: Answers) -> None:
    assert {"minilm", "reranker", "sparse"} <= set(python["of_openai.models"])


@pytest.mark.parametrize(
    ("call", "says"),
    [("unknown_model", "no-such-model"), ("too_long", "tokens"), ("too_wide", "9999")],
)
def test_python_raises_its_own_error_with_our_words(python: Answers, call: str, says: str) -> None:
    refused(python[f"of_openai.{call}"], "openai.BadRequestError", says=says, status=400)


def test_python_and_azure_send_a_key(python: Answers) -> None:
    got = python["of_openai.wrong_key"]
    refused(got, "openai.AuthenticationError", says="key", status=401)
    assert python["of_openai.right_key"] == python["of_openai.azure_key"] == len(TEXTS)


def test_python_and_azure_need_the_endpoint(python: Answers) -> None:
    got = python["of_openai.azure_base"]
    refused(got, "openai.NotFoundError", says="/v1/deployments/minilm/embeddings", status=404)


def test_python_and_node_tell_when_one_asks_too_often(python: Answers, node: Answers) -> None:
    refused(python["of_openai.too_often"], "openai.RateLimitError", says="a minute", status=429)
    refused(node["node.openai_too_often"], "RateLimitError", says="a minute", status=429)


def test_node_gets_the_vectors(node: Answers, raw: Raw) -> None:
    same(node["node.openai_floats"]["vectors"], raw.floats())
    same(node["node.openai_asked_floats"], raw.floats())
    assert "minilm" in node["node.openai_models"]


def test_node_raises_its_own_error_with_our_words(node: Answers) -> None:
    got = node["node.openai_unknown_model"]
    refused(got, "BadRequestError", says="no-such-model", status=400)
    refused(node["node.openai_wrong_key"], "AuthenticationError", says="key", status=401)


def test_the_vercel_ai_sdk_gets_the_vectors(node: Answers, raw: Raw) -> None:
    same(node["node.vercel_many"], raw.floats())
    same([node["node.vercel_one"]], raw.floats(TEXTS[:1], dimensions=64))


def test_the_vercel_ai_sdk_raises_its_own_error_with_our_words(node: Answers) -> None:
    got = node["node.vercel_unknown_model"]
    refused(got, "APICallError", "AI_APICallError", says="no-such-model", status=400)


def test_langchain_of_node_gets_the_vectors(node: Answers, raw: Raw) -> None:
    same(node["node.langchain_documents"], raw.floats())
