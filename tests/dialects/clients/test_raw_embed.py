"""Programs that ask for vectors without a client library: their requests, byte for byte."""

from typing import Any

import numpy as np
import pytest

from tests.dialects.clients.answers import (
    LONG,
    TEXTS,
    Raw,
    by_type,
    same,
    unlike,
)
from tests.dialects.clients.conftest import KEY


def rows(reply: Any) -> list[Any]:
    """Return the embeddings of a reply of OpenAI's form, in the order of their indices."""
    assert [row["index"] for row in reply["data"]] == list(range(len(reply["data"])))
    assert reply["usage"]["total_tokens"] > 0  # Dify, Jina and Voyage read it
    assert reply["object"] == "list" and reply["model"]
    return [row["embedding"] for row in reply["data"]]


# -- Dify ------------------------------------------------------------------------------------------


def test_dify_openai_compatible(raw: Raw) -> None:
    """Without a key it sends `Authorization` with nothing in it."""
    body = {"model": "minilm", "input": TEXTS, "encoding_format": "float"}
    reply = raw.ask("/v1/embeddings", body, Authorization="")
    same(rows(reply), raw.floats())


def test_dify_openai_compatible_with_pictures_turned_on(raw: Raw) -> None:
    content = [{"type": "text", "text": TEXTS[0]}]
    body = {"model": "minilm", "messages": [{"role": "user", "content": content}],
            "encoding_format": "float", "continue_final_message": True,
            "add_special_tokens": True}  # fmt: skip
    same(rows(raw.ask("/v1/embeddings", body)), raw.floats(TEXTS[:1]))
    content.append({"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}})
    status, reply = raw.send("/v1/embeddings", body)
    assert status == 400 and "text" in reply["error"]["message"]


def test_dify_tei(raw: Raw) -> None:
    """It asks what the model is, counts tokens, and names no model."""
    info = raw.ask("/info", method="GET")
    assert list(info["model_type"]) == ["embedding"]
    assert info["max_input_length"] == 256 and info["max_client_batch_size"] >= 1
    tokens = raw.ask("/tokenize", {"inputs": TEXTS})
    assert [one["text"] for one in tokens[4] if not one["special"]] == ["oil"]
    same(rows(raw.ask("/v1/embeddings", {"input": TEXTS})), raw.floats())


def test_dify_localai(raw: Raw) -> None:
    """One text a request, on a path without a version."""
    for path in ("/embeddings", "/v1/embeddings"):
        body = {"model": "text-embedding-ada-002", "input": TEXTS[0]}
        reply = raw.ask(path, body, Authorization="Bearer 123")
        same(rows(reply), raw.floats(TEXTS[:1]))


def test_dify_ollama(raw: Raw) -> None:
    body = {"model": "minilm", "input": TEXTS, "truncate": True, "options": {"use_mmap": True}}
    same(raw.ask("/api/embed", body)["embeddings"], raw.floats())


def test_dify_cohere(raw: Raw) -> None:
    """It checks the key and counts tokens first."""
    assert raw.ask("/v1/check-api-key", None, Authorization="Bearer any")["valid"] is True
    got = raw.ask("/v1/tokenize", {"text": "hello world", "model": "minilm"})
    assert got["tokens"] == [7592, 2088] and got["token_strings"] == ["hello", "world"]


def test_dify_voyage(raw: Raw) -> None:
    body = {"model": "prompted", "input": TEXTS, "input_type": "query"}
    same(rows(raw.ask("/v1/embeddings", body)), raw.floats(model="prompted", prompt_name="query"))


def test_dify_jina(raw: Raw) -> None:
    body = {"model": "minilm", "input": [{"text": text} for text in TEXTS]}
    same(rows(raw.ask("/v1/embeddings", body)), raw.floats())
    status, reply = raw.send("/v1/embeddings", {**body, "model": "no-such-model"})
    assert status == 400 and "no-such-model" in reply["detail"]


# -- RAGFlow ---------------------------------------------------------------------------------------


def test_ragflow_openai(raw: Raw) -> None:
    body = {"model": "minilm", "input": TEXTS, "encoding_format": "float", "drop_params": True}
    same(rows(raw.ask("/v1/embeddings", body)), raw.floats())


def test_ragflow_builtin(raw: Raw) -> None:
    """It runs a TEI of its own at :6380, and counts on it to cut long texts."""
    same(raw.ask("/embed", {"inputs": TEXTS}), raw.floats())
    same(raw.ask("/embed", {"inputs": TEXTS[0]}), raw.floats(TEXTS[:1]))
    same(raw.ask("/embed", {"inputs": [LONG]}), raw.floats([LONG]))


def test_ragflow_jina(raw: Raw) -> None:
    """It sends texts as objects, and takes some for queries."""
    body = {"model": "minilm", "input": [{"text": text} for text in TEXTS],
            "task": "retrieval.passage", "truncate": True}  # fmt: skip
    same(rows(raw.ask("/v1/embeddings", body)), raw.floats())


def test_ragflow_nvidia(raw: Raw) -> None:
    for kind, name in (("query", "query"), ("passage", "document")):
        body = {"input": TEXTS, "input_type": kind, "model": "prompted",
                "encoding_format": "float", "truncate": "END"}  # fmt: skip
        got = rows(raw.ask("/v1/embeddings", body))
        same(got, raw.floats(model="prompted", prompt_name=name))


def test_ragflow_ollama(raw: Raw) -> None:
    body = {"model": "minilm", "input": TEXTS, "truncate": True, "keep_alive": -1,
            "options": {"use_mmap": True}}  # fmt: skip
    same(raw.ask("/api/embed", body)["embeddings"], raw.floats())


# -- Open WebUI, AnythingLLM, LocalAI --------------------------------------------------------------


def test_open_webui_openai(raw: Raw) -> None:
    """With headers that name its user, and with a prefix in a field, if it is told one."""
    user = {"X_OpenWebUI_User_Name": "Ada", "X_OpenWebUI_User_Role": "admin"}
    body = {"input": TEXTS, "model": "minilm"}
    same(rows(raw.ask("/v1/embeddings", body, **user)), raw.floats())
    got = rows(raw.ask("/v1/embeddings", {**body, "prompt": "query: "}, **user))
    same(got, raw.floats([f"query: {text}" for text in TEXTS]))


def test_open_webui_ollama(raw: Raw) -> None:
    assert "version" in raw.ask("/api/version", method="GET")
    assert "minilm:latest" in [m["model"] for m in raw.ask("/api/tags", method="GET")["models"]]
    body = {"model": "minilm:latest", "input": TEXTS}
    same(raw.ask("/api/embed", body)["embeddings"], raw.floats())


def test_anythingllm_ollama(raw: Raw) -> None:
    """It looks whether anything answers, and sends its chunk size as `num_ctx`."""
    assert raw.send("/", method="GET")[0] == raw.send("/", method="HEAD")[0] == 200
    body = {"model": "minilm:latest", "input": TEXTS, "options": {"num_ctx": 512}}
    same(raw.ask("/api/embed", body)["embeddings"], raw.floats())


def test_anythingllm_localai(raw: Raw) -> None:
    body = {"model": "minilm", "input": TEXTS, "encoding_format": "float"}
    same(rows(raw.ask("/v1/embeddings", body)), raw.floats())


def test_localai_lists_models(raw: Raw) -> None:
    for path in ("/v1/models", "/models"):
        assert "minilm" in [model["id"] for model in raw.ask(path, method="GET")["data"]]


# -- TEI's other callers ---------------------------------------------------------------------------


def test_sagemaker(raw: Raw) -> None:
    assert raw.send("/ping", method="GET")[0] == 200
    same(raw.ask("/invocations", {"inputs": TEXTS}), raw.floats())


def test_vertex(raw: Raw) -> None:
    body = {"instances": [{"inputs": TEXTS[0]}, {"inputs": TEXTS[1:]}]}
    one, others = raw.ask("/vertex", body)["predictions"]
    same(np.concatenate([np.float32(one), np.float32(others)]), raw.floats())


def test_tei_over_curl(raw: Raw) -> None:
    """Unknown keys are ignored, ids are texts too, and errors have TEI's form and status."""
    same(raw.ask("/embed", {"inputs": TEXTS, "any": 1}), raw.floats())
    ids = [one["id"] for one in raw.ask("/tokenize", {"inputs": [TEXTS[0]]})[0]]
    assert raw.ask("/decode", {"ids": ids}) == [TEXTS[0].lower()]
    status, reply = raw.send("/embed", {"inputs": []})
    assert (status, reply["error_type"]) == (400, "Empty")
    status, reply = raw.send("/embed", {"inputs": LONG, "truncate": False})
    assert (status, reply["error_type"]) == (422, "Validation")
    tokens = raw.ask("/embed_all", {"inputs": [TEXTS[0]]})
    assert np.shape(tokens) == (1, len(ids), 384)
    mean = np.float32(tokens[0]).mean(axis=0)
    np.testing.assert_allclose(mean, raw.floats(TEXTS[:1], normalize=False)[0], atol=1e-5)


# -- Jina, Infinity, vLLM --------------------------------------------------------------------------


def test_jina_over_curl(raw: Raw) -> None:
    body = {"model": "minilm", "input": TEXTS, "normalized": True, "task": "text-matching"}
    same(rows(raw.ask("/v1/embeddings", body)), raw.floats())
    got = {kind: rows(raw.ask("/v1/embeddings", {**body, "embedding_type": kind}))
           for kind in ("float", "base64", "binary", "ubinary")}  # fmt: skip
    by_type(got, raw.floats())
    late = rows(raw.ask("/v1/embeddings", {**body, "late_chunking": True}))
    unlike(late, raw.floats())
    assert np.allclose(np.linalg.norm(np.float32(late), axis=1), 1, atol=1e-5)


def test_jina_by_llamaindex(raw: Raw) -> None:
    """It has another name for the type."""
    body = {"model": "minilm", "input": TEXTS}
    got = {kind: rows(raw.ask("/v1/embeddings", {**body, "encoding_type": kind}))
           for kind in ("float", "binary", "ubinary")}  # fmt: skip
    by_type(got, raw.floats())


def test_jina_refuses_what_it_cannot_do(raw: Raw) -> None:
    for field, value in (("late_chunking", "maybe"), ("embedding_type", "int4"), ("task", 3)):
        body = {"model": "minilm", "input": TEXTS, field: value}
        status, reply = raw.send("/v1/embeddings", body)
        assert status == 400 and field in reply["detail"]


def test_infinity_over_curl(raw: Raw) -> None:
    body = {"model": "default/not-specified", "input": TEXTS, "modality": "text"}
    status, reply = raw.send("/embeddings", body)
    assert status == 400 and "default/not-specified" in reply["error"]["message"]
    same(rows(raw.ask("/embeddings", {**body, "model": "minilm"})), raw.floats())


def test_vllm_pooling(raw: Raw) -> None:
    body = {"model": "minilm", "input": TEXTS, "task": "embed"}
    same([row["data"] for row in raw.ask("/pooling", body)["data"]], raw.floats())
    tokens = raw.ask("/pooling", {**body, "input": TEXTS[0], "task": "token_embed"})
    assert np.shape(tokens["data"][0]["data"])[1] == 384


def test_vllm_tokens(raw: Raw) -> None:
    got = raw.ask("/tokenize", {"model": "minilm", "prompt": "hello world"})
    assert got["tokens"] == [101, 7592, 2088, 102] and got["count"] == 4
    assert got["max_model_len"] == 256
    back = raw.ask("/detokenize", {"model": "minilm", "tokens": [7592, 2088]})
    assert back["prompt"] == "hello world"


# -- what all of them may do -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"Bearer {KEY}"}, {"X_API_Key": KEY}, {"api_key": KEY}],
    ids=["bearer", "x-api-key", "azure"],
)
def test_keys_come_in_every_header(raw_locked: Raw, headers: dict[str, str]) -> None:
    for path, body in (
        ("/v1/embeddings", {"input": TEXTS}),
        ("/embed", {"inputs": TEXTS}),
        ("/api/embed", {"model": "fake", "input": TEXTS}),
        ("/v2/embed", {"model": "fake", "texts": TEXTS, "input_type": "clustering"}),
        ("/pooling", {"model": "fake", "input": TEXTS}),
    ):
        assert raw_locked.send(path, body, **headers)[0] == 200, path
        assert raw_locked.send(path, body)[0] == 401, path


def test_json_is_read_without_being_called_json(raw: Raw) -> None:
    """LiteLLM sends Voyage's requests so."""
    body = {"model": "minilm", "input": TEXTS}
    same(rows(raw.ask("/v1/embeddings", body, kind="")), raw.floats())
