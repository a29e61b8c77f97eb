"""Ollama's clients get its replies, with the vectors of `/v1/embeddings`."""

import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from serving import residency
from tests.faults.conftest import until

TEXTS = ["one two three", "four", "five six"]
LONG = " ".join(map(str, range(20)))  # the fake models read 16 words
# What langchain-ollama sends: each of its options, null where it was not set.
NULLS = dict.fromkeys(
    ["mirostat", "mirostat_eta", "mirostat_tau", "num_ctx", "num_gpu", "num_thread",
     "repeat_last_n", "repeat_penalty", "temperature", "stop", "tfs_z", "top_k", "top_p"]
)  # fmt: skip


def embed(client: FlaskClient, **fields: Any) -> Any:
    reply = client.post("/api/embed", json={"model": "dense", "input": TEXTS, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json


def refused(client: FlaskClient, status: int, path: str = "/api/embed", **fields: Any) -> str:
    reply = client.post(path, json={"model": "dense", **fields})
    assert reply.status_code == status, reply.text
    assert set(reply.json) == {"error"}
    return str(reply.json["error"])


def openai(client: FlaskClient, **fields: Any) -> list[Any]:
    reply = client.post("/v1/embeddings", json={"model": "dense", "input": TEXTS, **fields})
    assert reply.status_code == 200, reply.text
    return [row["embedding"] for row in reply.json["data"]]


def test_the_vectors_are_those_of_openais_route(kinds: FlaskClient) -> None:
    got = embed(kinds)
    assert got["embeddings"] == openai(kinds)
    assert got["model"] == "dense" and got["prompt_eval_count"] == 6
    assert 0 <= got["load_duration"] < got["total_duration"] < 60e9
    assert all(isinstance(got[name], int) for name in ("load_duration", "total_duration"))
    assert embed(kinds, input="four")["embeddings"] == openai(kinds, input="four")
    np.testing.assert_allclose(np.linalg.norm(got["embeddings"], axis=1), 1, rtol=1e-6)


def test_an_older_client_gets_the_vector_as_the_model_has_it(kinds: FlaskClient) -> None:
    body = {"model": "dense", "prompt": "four", "options": NULLS, "keep_alive": None}
    reply = kinds.post("/api/embeddings", json=body)
    assert set(reply.json) == {"embedding"}
    native = {"text": "four", "model": "dense", "normalize": False}
    assert reply.json["embedding"] == kinds.post("/embed", json=native).json["embedding"]
    assert kinds.post("/api/embeddings", json={"model": "dense"}).json == {"embedding": []}
    cut = kinds.post("/api/embeddings", json={**body, "dimensions": 3}).json["embedding"]
    assert cut == reply.json["embedding"][:3]
    said = refused(kinds, 400, "/api/embeddings", prompt=LONG, truncate=False)
    assert said.startswith("the input length exceeds the context length")


def test_fields_are_read_in_any_case(kinds: FlaskClient) -> None:
    """Ollama is written in Go, which reads them so."""
    body = {"Model": "dense", "Input": LONG, "OPTIONS": {"Num_Ctx": 3}}
    got = kinds.post("/api/embed", json=body).json
    assert got["embeddings"] == openai(kinds, input="0 1 2") and got["prompt_eval_count"] == 3
    assert kinds.post("/api/show", json={"Name": "dense"}).status_code == 200


def test_too_many_texts_are_counted(kinds: FlaskClient) -> None:
    for count in (2049, 100_001):
        assert refused(kinds, 413, input=["a"] * count).startswith(f"{count} inputs")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
def test_curl_need_not_say_that_a_body_is_json(kinds: FlaskClient, kind: str | None) -> None:
    body = json.dumps({"model": "dense", "input": TEXTS})
    reply = kinds.post("/api/embed", data=body, content_type=kind)
    assert reply.json["embeddings"] == openai(kinds)
    for header in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        reply = kinds.post("/api/embed", data=body, content_type=kind, headers=header)
        assert (reply.status_code, list(reply.json)) == (415, ["error"])


@pytest.mark.parametrize("nothing", ["", None, []])
def test_no_input_only_loads_the_model(kinds: FlaskClient, nothing: object) -> None:
    got = embed(kinds, input=nothing)
    assert (got["embeddings"], got["model"], got["prompt_eval_count"]) == ([], "dense", 0)
    assert kinds.post("/api/embed", json={}).json["embeddings"] == []


@pytest.mark.parametrize(
    ("name", "told"),
    [("dense", "dense"), ("dense:latest", "dense:latest"), ("tests/dense", "tests/dense"),
     (None, "dense")],
)  # fmt: skip
def test_a_model_is_found_by_all_its_names(kinds: FlaskClient, name: str | None, told: str) -> None:
    got = embed(kinds, model=name)
    assert (got["model"], got["embeddings"]) == (told, openai(kinds))


def test_a_model_that_there_is_not_is_404(kinds: FlaskClient) -> None:
    for path in ("/api/embed", "/api/embeddings", "/api/show", "/api/pull"):
        said = refused(kinds, 404, path, model="none:latest")
        assert said.startswith("model 'none:latest' not found") and "dense" in said
    assert refused(kinds, 404, "/api/embed", model="none", input=[]).startswith("model 'none'")
    for path, field in (("/api/embed", "input"), ("/api/embeddings", "prompt")):
        said = refused(kinds, 404, path, model="", **{field: "a"})
        assert said.startswith("model '' not found")


def test_a_wrong_kind_is_refused(kinds: FlaskClient) -> None:
    assert "gives no dense vectors" in refused(kinds, 400, model="reranker", input="a")


@pytest.mark.parametrize("wrong", [5, ["a", 5], [["a"]], {"text": "a"}, True])
@pytest.mark.fault("Malformed requests")
def test_an_input_that_is_no_text_is_refused(kinds: FlaskClient, wrong: object) -> None:
    """A value of another type on Ollama's routes -> 400 with Ollama's own words."""
    assert refused(kinds, 400, input=wrong).startswith("input: invalid input type")


def test_dimensions_cut_and_0_is_all(kinds: FlaskClient) -> None:
    assert embed(kinds, dimensions=3)["embeddings"] == openai(kinds, dimensions=3)
    assert embed(kinds, dimensions=0)["embeddings"] == openai(kinds)
    assert "dimensions" in refused(kinds, 400, input="a", dimensions=9)
    assert "dimensions" in refused(kinds, 400, input="a", dimensions=-1)


def test_what_is_too_long_is_cut_or_refused_in_ollamas_words(kinds: FlaskClient) -> None:
    cut = embed(kinds, input=LONG)["embeddings"]
    assert cut == embed(kinds, input=LONG, truncate=True)["embeddings"] == openai(kinds, input=LONG)
    said = refused(kinds, 400, input=["a", LONG], truncate=False)
    assert said.startswith("the input length exceeds the context length: input 1: ")


def test_num_ctx_lowers_the_limit_and_other_options_change_nothing(kinds: FlaskClient) -> None:
    first = embed(kinds, input="0 1 2")["embeddings"]
    got = kinds.post(
        "/api/embed", json={"model": "dense", "input": LONG, "options": {"num_ctx": 3}}
    )
    assert got.json["embeddings"] == first and got.json["prompt_eval_count"] == 3
    assert got.headers["X-Truncated-Inputs"] == "1"
    assert embed(kinds, input=LONG, options={"num_ctx": 3.0})["embeddings"] == first
    plain = openai(kinds)
    for options in (NULLS, {"use_mmap": True}, {"num_ctx": 8192, "num_thread": 4}, {}, None):
        assert embed(kinds, options=options)["embeddings"] == plain
    said = refused(kinds, 400, input=LONG, truncate=False, options={"num_ctx": 3})
    assert "exceeds the context length" in said
    body = {"model": "dense", "prompt": LONG, "options": {"num_ctx": 3}}
    old = kinds.post("/api/embeddings", json=body).json["embedding"]
    np.testing.assert_allclose(old / np.linalg.norm(old), first[0], rtol=1e-6)
    for wrong in (0, -1, True, "3", 2.5, [3]):
        said = refused(kinds, 400, input=LONG, options={"num_ctx": wrong})
        assert said.startswith(f"num_ctx: {'a list' if wrong == [3] else json.dumps(wrong)} is")


@pytest.mark.parametrize(
    "keep_alive", [0, -1, 300, 0.5, "0", "-1", "5m", "-1m", "1h30m", "1.5h", "300ms", "24h", None]
)
def test_every_keep_alive_of_ollamas_is_taken(kinds: FlaskClient, keep_alive: object) -> None:
    assert len(embed(kinds, keep_alive=keep_alive)["embeddings"]) == 3


@pytest.mark.parametrize(
    "keep_alive",
    ["", "soon", "5 minutes", "m", "5x", True, [5], "1" * 999, 10**400, -(10**400), {}],
    ids=lambda each: str(each)[:9],
)
def test_any_other_keep_alive_is_refused(kinds: FlaskClient, keep_alive: object) -> None:
    assert refused(kinds, 400, input="a", keep_alive=keep_alive).startswith("keep_alive:")


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"truncate": "yes"}, "truncate"), ({"images": ["aGk="]}, "images"), ({"model": 5}, "model"),
     ({"prompt": "a"}, "prompt"), ({"options": 5}, "options")],
)  # fmt: skip
def test_a_field_that_cannot_be_honoured_is_named(
    kinds: FlaskClient, fields: dict[str, Any], named: str
) -> None:
    assert refused(kinds, 400, input="a", **fields).startswith(f"{named}:")


def test_other_fields_are_ignored_and_images_are_told_what_this_is(kinds: FlaskClient) -> None:
    assert embed(kinds, other=1, images=None)["embeddings"] == openai(kinds)
    assert "text only" in refused(kinds, 400, "/api/embeddings", prompt="a", images=["aGk="])
    assert "/api/embed" in refused(kinds, 400, "/api/embeddings", input="a")


def test_the_models_are_listed_as_ollama_lists_them(kinds: FlaskClient) -> None:
    rows = kinds.get("/api/tags").json["models"]
    assert [row["name"] for row in rows] == [
        f"{name}:latest" for name in ("dense", "reranker", "sparse", "tokens", "all")
    ]
    shown = {row["id"]: row for row in kinds.get("/models").json["data"]}
    for row in rows:
        model = shown[row["name"].removesuffix(":latest")]
        assert row["model"] == row["name"] and row["digest"] == model["fingerprint"]
        assert row["size"] == 0 and row["modified_at"] == "1970-01-01T00:00:00Z"
        details = row["details"]
        assert (details["family"], details["families"]) == ("fake", ["fake"])
        assert details["embedding_length"] == (model["dimension"] or 0)
        assert (details["context_length"], details["quantization_level"]) == (16, "F32")
    embeds = [row["name"] for row in rows if row["capabilities"] == ["embedding"]]
    assert embeds == ["dense:latest", "all:latest"]
    assert kinds.head("/api/tags").status_code == 200 and kinds.head("/api/tags").data == b""


def test_what_is_said_of_a_model_is_what_its_files_say(real_client: FlaskClient) -> None:
    (row,) = real_client.get("/api/tags").json["models"]
    model = real_client.get("/info").json
    assert row["name"] == "minilm:latest" and row["digest"] == model["fingerprint"]
    assert re.fullmatch("[0-9a-f]{12,64}", row["digest"])
    assert 90_868_376 < row["size"] < 95_000_000  # the weights, and the tokenizer
    assert 2020 < datetime.fromisoformat(row["modified_at"]).year < 2100
    assert row["details"] == {
        "parent_model": "", "format": "safetensors", "family": "bert", "families": ["bert"],
        "parameter_size": "23M", "quantization_level": "F32", "context_length": 256,
        "embedding_length": 384,
    }  # fmt: skip
    told = real_client.post("/api/show", json={"model": "minilm:latest", "verbose": True}).json
    assert told["details"] == row["details"] and told["modified_at"] == row["modified_at"]
    assert told["capabilities"] == ["embedding"]
    assert told["model_info"] == {
        "general.architecture": "bert", "general.parameter_count": 22_713_216,
        "bert.context_length": 256, "bert.embedding_length": 384,
    }  # fmt: skip
    (loaded,) = real_client.get("/api/ps").json["models"]
    assert loaded["size"] == model["memory_bytes"] and loaded["size_vram"] == 0
    assert loaded["context_length"] == 256
    assert datetime.fromisoformat(loaded["expires_at"]).year == 2300


def test_the_real_vectors_are_those_of_openais_route(real_client: FlaskClient) -> None:
    long = "every word of a text counts " * 100
    for given in (TEXTS, [long]):
        body = {"model": "minilm", "input": given}
        data = real_client.post("/v1/embeddings", json=body).json["data"]
        got = real_client.post("/api/embed", json={**body, "options": NULLS}).json["embeddings"]
        assert got == [row["embedding"] for row in data]
    few = {"model": "minilm", "input": [long], "options": {"num_ctx": 10}}
    got = real_client.post("/api/embed", json=few).json
    assert got["prompt_eval_count"] == 10
    same = {"input": ["every word of a text counts every word"]}  # and [CLS] and [SEP]
    data = real_client.post("/v1/embeddings", json=same).json["data"]
    np.testing.assert_allclose(got["embeddings"][0], data[0]["embedding"], atol=2e-6)


def test_show_takes_either_name_and_needs_one(kinds: FlaskClient) -> None:
    for body in ({"model": "dense"}, {"name": "dense:latest"}, {"model": "", "name": "dense"}):
        told = kinds.post("/api/show", json=body).json
        assert told["model_info"] == {
            "general.architecture": "fake", "fake.context_length": 16, "fake.embedding_length": 8,
        }  # fmt: skip
    reply = kinds.post("/api/show", json={})
    assert (reply.status_code, reply.json["error"][:6]) == (400, "model:")
    told = kinds.post("/api/show", json={"model": "reranker"}).json
    assert told["capabilities"] == [] and "fake.embedding_length" not in told["model_info"]


def test_a_version_is_told_that_clients_can_compare(kinds: FlaskClient) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", kinds.get("/api/version").json["version"])
    assert kinds.head("/api/version").status_code == 200
    assert kinds.head("/").status_code == 200


def test_a_model_that_is_here_counts_as_pulled(kinds: FlaskClient) -> None:
    for name in ("dense", "dense:latest"):
        reply = kinds.post("/api/pull", json={"model": name, "stream": False})
        assert (reply.status_code, reply.json) == (200, {"status": "success"})


@pytest.mark.parametrize("path", ["generate", "chat", "create", "copy", "push"])
def test_what_this_service_does_not_do_is_said(kinds: FlaskClient, path: str) -> None:
    said = refused(kinds, 400, f"/api/{path}", prompt="a")
    assert f"/api/{path} is not here" in said and "/api/embed" in said
    assert kinds.delete("/api/delete", json={"model": "dense"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/none", 404), ("GET", "/api/embed", 405), ("POST", "/api/tags", 405)],
)
def test_every_error_is_ollamas(kinds: FlaskClient, method: str, path: str, status: int) -> None:
    reply = kinds.open(path, method=method)
    assert (reply.status_code, list(reply.json)) == (status, ["error"])
    reply = kinds.post("/api/embed", data="{", content_type="application/json")
    assert (reply.status_code, list(reply.json)) == (400, ["error"])


def test_an_error_without_a_key_is_ollamas_too(signed_in: FlaskClient) -> None:
    client = signed_in.application.test_client()
    reply = client.post("/api/embed", json={"input": "a"})
    assert (reply.status_code, list(reply.json)) == (401, ["error"])
    assert client.get("/api/tags").status_code == 401
    assert client.get("/api/version").status_code == 200
    assert signed_in.post("/api/embed", json={"input": "a"}).status_code == 200


# -- keep_alive --------------------------------------------------------------------------------

MODELS = {name: {"type": "fake", "model_name": f"tests/{name}"} for name in ("a", "b")}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "LOOK_EVERY_S", 0.02)


def loaded(app: Flask) -> list[str]:
    rows = app.test_client().get("/api/ps").json["models"]
    return [row["name"].removesuffix(":latest") for row in rows]


def test_keep_alive_says_when_an_idle_model_is_unloaded(
    config_of: Callable[..., Config],
) -> None:
    app = create_app(config_of(MODELS, idle_unload_s=300), wait=True)
    client = app.test_client()
    assert loaded(app) == ["a", "b"]
    left = [
        datetime.fromisoformat(row["expires_at"]).timestamp() - datetime.now().timestamp()
        for row in client.get("/api/ps").json["models"]
    ]
    assert all(290 < each <= 300 for each in left)
    vectors = embed(client, model="a", keep_alive=0)["embeddings"]
    until(lambda: loaded(app) == ["b"])
    assert embed(client, model="a")["embeddings"] == vectors, "it comes back, and stays as always"
    assert loaded(app) == ["a", "b"]
    embed(client, model="b", input=[], keep_alive=0)
    until(lambda: loaded(app) == ["a"])
    embed(client, model="a", keep_alive=-1)
    assert client.get("/api/ps").json["models"][0]["expires_at"].startswith("2300")
    body = {"model": "a", "prompt": "x", "keep_alive": "0s"}
    assert client.post("/api/embeddings", json=body).status_code == 200
    until(lambda: loaded(app) == [])


PAGES = ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"})


@pytest.mark.parametrize("keep_alive", [0, -1])
def test_only_an_admin_decides_when_a_model_is_unloaded(
    config_of: Callable[..., Config], keep_alive: int
) -> None:
    """It is for all callers: any other wish, also of a page of another origin, changes nothing."""
    token = "the-token-of-this-tests-admin"
    app = create_app(config_of(MODELS, idle_unload_s=300, admin_token=token), wait=True)
    local, other = app.test_client(), app.test_client()
    other.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    a = app.extensions["services"].engine.registry.models["a"]
    asked = [(local, headers) for headers in PAGES] + [(other, {}), (other, PAGES[0])]
    for client, headers in asked:
        for path, text in (("embed", "input"), ("embeddings", "prompt")):
            for given in ("a", None):
                body = {"model": "a", text: given, "keep_alive": keep_alive}
                reply = client.post(f"/api/{path}", json=body, headers=headers)
                assert (reply.status_code, a.idle_unload_s) == (200, 300)
    body = {"model": "a", "keep_alive": keep_alive}
    bearer = {"Authorization": f"Bearer {token}"}
    assert other.post("/api/embed", json=body, headers=bearer).status_code == 200
    assert a.idle_unload_s == (math.inf if keep_alive < 0 else 0)


def test_a_body_that_only_loads_a_model_counts_as_a_text(config_of: Callable[..., Config]) -> None:
    app = create_app(config_of(MODELS, texts_per_minute_anonymous=2), wait=True)
    client = app.test_client()
    client.environ_base["REMOTE_ADDR"] = "192.0.2.8"
    replies = [
        client.post(f"/api/{path}", json={"model": "a"}).status_code
        for path in ("embed", "embeddings", "embed")
    ]
    assert replies == [200, 200, 429]


@pytest.mark.parametrize("keep_alive", [1e12, 1e300, "9999999999h", 4e9])
def test_a_time_beyond_all_calendars_is_forever(
    config_of: Callable[..., Config], keep_alive: float | str
) -> None:
    app = create_app(config_of(MODELS, idle_unload_s=300), wait=True)
    client = app.test_client()
    embed(client, model="a", keep_alive=keep_alive)
    reply = client.get("/api/ps")
    assert reply.json["models"][0]["expires_at"] == "2300-01-01T00:00:00Z", reply.text


def test_a_caller_unloads_nothing_where_the_service_unloads_nothing(
    config_of: Callable[..., Config],
) -> None:
    app = create_app(config_of(MODELS), wait=True)
    embed(app.test_client(), model="a", keep_alive=0)
    assert app.extensions["services"].engine.registry.models["a"].idle_unload_s is None
    assert loaded(app) == ["a", "b"]


def test_a_model_that_was_never_loaded_is_listed_without_facts(
    config_of: Callable[..., Config],
) -> None:
    aliases = ["nomic-embed-text:latest", "nomic-embed-text", "late"]
    models = {"late": {"type": "fake", "model_name": "tests/late", "load": "first_use",
                       "aliases": aliases}}  # fmt: skip
    app = create_app(config_of(models), wait=True)
    client = app.test_client()
    rows = client.get("/api/tags").json["models"]
    assert [row["name"] for row in rows] == ["late:latest", "nomic-embed-text:latest"]
    assert rows[0]["digest"] == rows[1]["digest"] == "0" * 64
    assert rows[0]["details"]["embedding_length"] == 0
    assert rows[0]["capabilities"] == ["embedding"]
    assert loaded(app) == []
    for name in ("nomic-embed-text:latest", "nomic-embed-text"):
        assert len(embed(client, model=name)["embeddings"]) == 3
    assert loaded(app) == ["late"]


def test_unknown_names_may_mean_the_default(config_of: Callable[..., Config]) -> None:
    client = create_app(config_of(MODELS, unknown_model="default"), wait=True).test_client()
    got = embed(client, model="nomic-embed-text")
    assert got["embeddings"] == embed(client, model="a")["embeddings"]
    assert got["model"] == "a"
    assert embed(client, model="nomic-embed-text", input=[])["model"] == "a"
    assert client.post("/api/show", json={"model": "nomic-embed-text"}).status_code == 200
