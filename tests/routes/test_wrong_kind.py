"""A model of another kind is refused with what it is, the route for it, and the models that do."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from factory import create_app
from tests.routes.conftest import KINDS

RERANK = {"query": "a", "documents": ["b"]}
# The request, its model, and what the refusal says.
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("/embed", {"texts": "a"}, "reranker", "POST /rerank"),
    ("/embed", {"texts": "a"}, "sparse", '"outputs": ["sparse"]'),
    ("/batch-embed", {"texts": ["a"]}, "tokens", '"outputs": ["multi_vector"]'),
    ("/embed", {"texts": "a", "outputs": "sparse"}, "dense", "no sparse vectors"),
    ("/embed", {"texts": "a", "outputs": "dense,sparse"}, "sparse", "no dense vectors"),
    ("/v1/embeddings", {"input": "a"}, "reranker", "POST /rerank"),
    ("/rerank", RERANK, "dense", "an embedding model and gives no scores of documents"),
    ("/rerank", RERANK, "all", '"outputs": ["dense", "sparse", "multi_vector"]'),
    ("/embed", {"texts": "a", "outputs": "sparse"}, "dense", 'with "outputs": ["dense"]'),
    ("/embed-and-store", {"collection": "c", "texts": ["a"]}, "reranker", "POST /rerank"),
    ("/embed-and-store", {"collection": "c", "texts": ["a"]}, "sparse", "no dense vectors"),
    ("/collections", {"name": "c"}, "reranker", "POST /rerank"),
]


@pytest.mark.parametrize(("path", "body", "model", "told"), WRONG)
@pytest.mark.fault("Malformed requests")
def test_a_wrong_kind_is_refused_with_what_would_do(
    kinds: FlaskClient, path: str, body: dict[str, Any], model: str, told: str
) -> None:
    """A model of another kind, such as a reranker that is asked for vectors -> 400 with its kind,
    the route for it and the models that would do.
    """
    reply = kinds.post(path, json={**body, "model": model})
    assert reply.status_code == 400, reply.text
    error = reply.json["error"]
    said = error["message"] if isinstance(error, dict) else error
    assert f"model '{model}' is a" in said and told in said
    param = error["param"] if isinstance(error, dict) else reply.json["param"]
    assert param == ("outputs" if "outputs" in body else "model")
    able = "reranker" if path == "/rerank" else "all"
    assert able in said.partition("; models that do this: ")[2].split(", ")
    assert kinds.get("/collections").json["collections"] == []


def test_a_service_without_such_a_model_says_so(fake_client: FlaskClient) -> None:
    reply = fake_client.post("/rerank", json=RERANK)
    error = reply.json["error"]
    assert (reply.status_code, error["code"]) == (400, "wrong_kind")
    assert "models that do this: none that is ready" in error["message"]
    assert error["param"] == "model"


def test_the_default_model_may_be_of_any_kind(config_of: Any) -> None:
    models = {name: KINDS[name] for name in ("reranker", "dense")}
    client = create_app(config_of(models), wait=True).test_client()
    assert client.get("/models").json["default"] == "reranker"
    assert client.post("/embed", json={"texts": "a"}).json["model"] == "tests/dense"
    assert client.post("/v1/embeddings", json={"input": "a"}).json["model"] == "dense"
    stored = client.post("/embed-and-store", json={"collection": "c", "texts": ["a"]})
    assert stored.json["model"] == "tests/dense"
    found = client.post("/collections/c/search", json={"text": "a", "prompt": ""}).json
    assert found["results"][0]["score"] == pytest.approx(1)
    assert client.post("/rerank", json=RERANK).json["model"] == "reranker"
    reply = client.post("/collections/c/reembed", json={"model": "reranker"})
    assert (reply.status_code, reply.json["error_type"]) == (400, "wrong_kind")


def test_a_model_that_still_loads_is_waited_for(config_of: Any) -> None:
    app = create_app(config_of({name: KINDS[name] for name in ("dense", "reranker")}), wait=True)
    registry = app.extensions["services"].engine.registry
    registry.models["reranker"].held = None
    reply = app.test_client().post("/rerank", json=RERANK)
    assert (reply.status_code, reply.json["error"]["code"]) == (503, "model_loading")
    assert reply.headers["Retry-After"] == "2"


def test_a_model_is_listed_with_its_kind_and_what_it_gives(kinds: FlaskClient) -> None:
    rows = {row["id"]: row for row in kinds.get("/models").json["data"]}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "dense": "sentence_transformer", "reranker": "reranker", "sparse": "sparse",
        "tokens": "multi_vector", "all": "sentence_transformer",
    }  # fmt: skip
    assert rows["all"]["outputs"] == ["dense", "sparse", "multi_vector"]
    assert (rows["reranker"]["outputs"], rows["reranker"]["labels"]) == (["score"], ["relevance"])
    assert kinds.get("/info").json["outputs"] == ["dense"]
