"""Models of each kind, in folders laid out as real repositories are, served over HTTP."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flask.testing import FlaskClient
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder

from config import Config
from factory import create_app
from tests.conftest import write_models
from tests.embedders.rerankers import bge_reranker_v2_m3, ms_marco_minilm
from tests.embedders.test_m3 import formulas, with_heads
from tests.embedders.test_multi_vector import of_the_library
from tests.embedders.test_sparse import naver_distilbert
from tests.zoo.words import prose

QUERY = "which animal sleeps all day"
DOCUMENTS = ["a", "the cat sleeps all day", *(prose(n, n) for n in (12, 40, 90)), "", "naïve 猫"]
RERANKERS = {"minilm": ms_marco_minilm, "bge": bge_reranker_v2_m3}

FOLDERS = {**RERANKERS, "splade": naver_distilbert, "colbert": of_the_library}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    with_heads(root / "m3")
    for name, write in FOLDERS.items():
        write(root / name)
    return root


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[FlaskClient]:
    models = {
        name: {"model_name": str(folder / name), "dtype": "float32"} for name in ("m3", *FOLDERS)
    }
    models["splade"]["type"] = "sparse"  # which its files do not say
    given = {
        "model_config_file": write_models(folder / "models.json", models), "device": "cpu",
        "supported_models_file": folder / "none", "store_dir": folder / "store",
        "data_dir": folder / "data", "db_url": f"sqlite:///{folder}/service.db",
        "model_cache_dir": folder / "cache",
    }  # fmt: skip
    app = create_app(Config.model_validate(given), wait=True)
    yield app.test_client()
    app.extensions["services"].documents.store.close()


@pytest.mark.parametrize("name", RERANKERS)
def test_rerank_gives_the_scores_and_the_order_of_the_library(
    client: FlaskClient, folder: Path, name: str
) -> None:
    library = CrossEncoder(str(folder / name), device="cpu")
    sigmoid = torch.nn.Sigmoid()  # ms-marco's own gives logits
    theirs = np.array(
        [library.predict([(QUERY, text)], activation_fn=sigmoid)[0] for text in DOCUMENTS]
    )
    body = {"model": name, "query": QUERY, "documents": DOCUMENTS}
    results = client.post("/rerank", json=body).json["results"]
    ours = {row["index"]: row["relevance_score"] for row in results}
    np.testing.assert_allclose([ours[i] for i in range(len(DOCUMENTS))], theirs, atol=1e-4)
    assert [row["index"] for row in results] == np.argsort(-theirs, kind="stable").tolist()
    again = client.post("/rerank", json=body)
    assert again.json["results"] == results
    assert again.headers["X-Cache"] == f"hits={len(DOCUMENTS)}, misses=0"


def test_one_request_gives_the_three_outputs_of_bge_m3(client: FlaskClient, folder: Path) -> None:
    body = {"model": "m3", "texts": DOCUMENTS[:4], "outputs": ["dense", "sparse", "multi_vector"]}
    for _ in range(2):  # encoded, and then cached
        got = client.post("/embed", json=body).json
        for at, text in enumerate(DOCUMENTS[:4]):
            dense, terms, tokens = formulas(folder / "m3", text)
            np.testing.assert_allclose(got["embeddings"][at], dense, atol=1e-5)
            assert got["sparse"][at]["indices"] == sorted(terms)
            weights = [terms[index] for index in sorted(terms)]
            np.testing.assert_allclose(got["sparse"][at]["values"], weights, atol=1e-5)
            np.testing.assert_allclose(got["multi_vector"][at], tokens, atol=1e-5)
    named = client.post("/embed", json={**body, "outputs": "sparse", "sparse_format": "terms"})
    assert sorted(named.json["sparse"][1].values()) == sorted(got["sparse"][1]["values"])
    assert all(isinstance(term, str) and term for term in named.json["sparse"][1])


def test_a_text_has_the_sparse_vector_of_the_library(client: FlaskClient, folder: Path) -> None:
    library = SparseEncoder(str(folder / "splade"), device="cpu")
    body = {"model": "splade", "texts": DOCUMENTS[1:4], "outputs": ["sparse"]}
    reply = client.post("/embed", json={**body, "encoding_format": "base64"}).json
    for row, text in zip(reply["sparse"], DOCUMENTS[1:4], strict=True):
        theirs = library.encode([text]).to_dense()[0].numpy()
        indices = np.frombuffer(base64.b64decode(row["indices"]), "<i4")
        ours = np.zeros_like(theirs)
        ours[indices] = np.frombuffer(base64.b64decode(row["values"]), "<f4")
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert (np.diff(indices) > 0).all()
    cut = client.post("/embed", json={**body, "top_n": 3}).json["sparse"]
    assert [len(row["indices"]) for row in cut] == [3, 3, 3]


@pytest.mark.parametrize("role", ["query", "document"])
def test_each_side_has_the_token_vectors_of_the_library(
    client: FlaskClient, folder: Path, role: str
) -> None:
    library = MultiVectorEncoder(str(folder / "colbert"), device="cpu")
    encode = library.encode_query if role == "query" else library.encode_document
    body = {"model": "colbert", "texts": DOCUMENTS[1:4], "input_type": role,
            "outputs": ["multi_vector"], "encoding_format": "base64"}  # fmt: skip
    reply = client.post("/embed", json=body).json
    for text, given in zip(DOCUMENTS[1:4], reply["multi_vector"], strict=True):
        theirs = np.asarray(encode([text])[0])
        ours = np.frombuffer(base64.b64decode(given), "<f4").reshape(-1, reply["dimension"])
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_reranker_gives_no_vectors_and_an_embedding_model_no_scores(client: FlaskClient) -> None:
    reply = client.post("/embed", json={"texts": "a", "model": "bge"})
    assert (reply.status_code, reply.json["error_type"]) == (400, "wrong_kind")
    reply = client.post("/rerank", json={"model": "m3", "query": "a", "documents": ["b"]})
    assert (reply.status_code, reply.json["error"]["code"]) == (400, "wrong_kind")
    assert reply.json["message"].endswith("models that do this: minilm, bge")
    kinds = {row["id"]: (row["type"], row["kind"]) for row in client.get("/models").json["data"]}
    assert kinds["bge"] == ("reranker", "reranker")
    assert kinds["m3"] == ("sentence_transformer", "sentence_transformer")
