"""The names of models: aliases, Ollama's `:latest`, and what a name that no model has gets."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config, ConfigError
from factory import create_app
from tests.conftest import write_models

MODELS = {
    "small": {"type": "fake", "model_name": "tests/small",
              "aliases": ["text-embedding-3-small", "tei", "org/other:v2"]},
    "large": {"type": "fake", "model_name": "tests/large", "aliases": ["text-embedding-3-large"]},
    "ranker": {"type": "fake", "model_name": "tests/ranker+score"},
    "terms": {"type": "fake", "model_name": "tests/terms+sparse"},
}  # fmt: skip
NAMES = {
    "small": "small", "tests/small": "small", "text-embedding-3-small": "small", "tei": "small",
    "org/other:v2": "small", "large": "large", "text-embedding-3-large": "large",
    "small:latest": "small", "tests/large:latest": "large", "tei:latest": "small",
}  # fmt: skip
UNKNOWN = ["ada", "small:v2", "small:", "latest", ":latest", "small:latest:latest", "Small", ""]


def client_of(folder: Path, **settings: object) -> Iterator[FlaskClient]:
    given = {
        "model_config_file": write_models(folder / "models.json", MODELS),
        "supported_models_file": folder / "none", "store_dir": folder / "store",
        "data_dir": folder / "data", "db_url": f"sqlite:///{folder}/service.db", **settings,
    }  # fmt: skip
    app = create_app(Config.model_validate(given), wait=True)
    yield app.test_client()
    app.extensions["services"].documents.store.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    yield from client_of(tmp_path_factory.mktemp("names"))


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A client of a service that takes every name."""
    yield from client_of(tmp_path_factory.mktemp("lenient"), unknown_model="default")


def vector(client: FlaskClient, **fields: object) -> list[float]:
    reply = client.post("/v1/embeddings", json={"input": "a text", **fields})
    assert reply.status_code == 200, reply.text
    return reply.json["data"][0]["embedding"]


@pytest.mark.parametrize(("name", "model"), NAMES.items())
def test_every_name_of_a_model_is_served_by_it(client: FlaskClient, name: str, model: str) -> None:
    assert vector(client, model=name) == vector(client, model=model)
    native = client.post("/embed", json={"texts": ["a text"], "model": name})
    assert native.json["model"] == f"tests/{model}"
    reply = client.post("/v1/embeddings", json={"input": "a", "model": name})
    assert reply.json["model"] == name, "as it was asked for"
    assert client.get(f"/v1/models/{name}").json["id"] == model
    assert client.get(f"/models/{name}").json["id"] == model


@pytest.mark.parametrize("name", UNKNOWN)
def test_any_other_name_is_an_error_that_lists_the_models(client: FlaskClient, name: str) -> None:
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/embed", {"texts": ["a"]})):
        reply = client.post(path, json={**body, "model": name})
        assert reply.status_code == 400
        assert "small, large, ranker, terms" in reply.text


@pytest.mark.parametrize("name", UNKNOWN)
def test_it_is_served_by_the_default_model_where_that_is_set(
    lenient: FlaskClient, name: str
) -> None:
    assert vector(lenient, model=name) == vector(lenient)
    reply = lenient.post("/v1/embeddings", json={"input": "a", "model": name})
    assert reply.json["model"] == "small", "who served, not who was asked for"
    native = lenient.post("/embed", json={"texts": ["a"], "model": name})
    assert native.json["model"] == "tests/small"


def test_each_kind_of_output_has_a_default_of_its_own(lenient: FlaskClient) -> None:
    body = {"model": "rerank-v3.5", "query": "a", "documents": ["a", "b"]}
    reply = lenient.post("/rerank", json=body)
    assert (reply.status_code, reply.json["model"]) == (200, "ranker"), reply.text


def test_a_known_name_of_the_wrong_kind_stays_an_error(lenient: FlaskClient) -> None:
    reply = lenient.post("/v1/embeddings", json={"input": "a", "model": "ranker"})
    assert (reply.status_code, reply.json["error"]["code"]) == (400, "wrong_kind")


def test_only_requests_that_compute_take_any_name(lenient: FlaskClient) -> None:
    """What is stored keeps the model that it names, so there a wrong name stays an error."""
    assert lenient.get("/v1/models/ada").status_code == 404
    made = lenient.post("/collections", json={"name": "c", "model": "ada"})
    assert made.status_code == 400
    stored = lenient.post("/embed-and-store", json={"collection": "c", "texts": ["a"]})
    assert stored.status_code == 201
    assert lenient.delete("/collections/c").status_code == 200


def test_it_may_be_set_while_the_service_runs(fake_client: FlaskClient) -> None:
    body = {"input": "a", "model": "ada"}
    assert fake_client.post("/v1/embeddings", json=body).status_code == 400
    for value, status in (("default", 200), ("error", 400)):
        fake_client.post("/settings", json={"key": "unknown_model", "value": value})
        assert fake_client.post("/v1/embeddings", json=body).status_code == status
    wrong = fake_client.post("/settings", json={"key": "unknown_model", "value": "any"})
    assert wrong.status_code == 422


def test_models_are_listed_with_their_aliases(client: FlaskClient) -> None:
    row = client.get("/v1/models").json["data"][0]
    assert (row["id"], row["aliases"]) == ("small", MODELS["small"]["aliases"])
    assert client.get("/models").json["data"][0]["aliases"] == MODELS["small"]["aliases"]


def test_coheres_clients_find_the_models_by_what_they_are_for(client: FlaskClient) -> None:
    for path in ("/v1/models", "/models"):
        rows = client.get(path).json["models"]
        assert {row["name"]: row["endpoints"] for row in rows} == {
            "small": ["embed"], "large": ["embed"], "ranker": ["rerank"], "terms": []
        }  # fmt: skip
        assert all(row["context_length"] == 16 and row["finetuned"] is False for row in rows)
    query = {"endpoint": "rerank", "page_size": "20"}
    assert [r["name"] for r in client.get("/v1/models", query_string=query).json["models"]] == [
        "ranker"
    ]


@pytest.mark.parametrize(
    ("aliases", "told"),
    [
        ({"a": ["b"]}, "models.a.aliases: 'b' also names b"),
        ({"a": ["tests/b"]}, "models.a.aliases: 'tests/b' also names b"),
        ({"a": ["x"], "b": ["x"]}, "models.b.aliases: 'x' also names a"),
        ({"b": ["a:latest"]}, "models.b.aliases: 'a' also names a"),
        ({"a": ["x:latest"], "b": ["x"]}, "models.b.aliases: 'x' also names a"),
        ({"a": [""]}, "models.a.aliases"),
        ({"a": ["x\n"]}, "models.a.aliases"),
        ({"a": "x"}, "models.a.aliases"),
    ],
    ids=str,
)
def test_an_alias_names_one_model_only(
    config_of: Callable[..., Config], aliases: dict, told: str
) -> None:
    models = {
        name: {"type": "fake", "model_name": f"tests/{name}", "aliases": aliases.get(name, [])}
        for name in "ab"
    }
    with pytest.raises(ConfigError) as wrong:
        config_of(models).catalogue()
    assert told in "; ".join(wrong.value.problems)


def test_latest_tells_no_two_models_apart(config_of: Callable[..., Config]) -> None:
    models = {name: {"type": "fake", "model_name": f"tests/{name}"} for name in ("a", "a:latest")}
    with pytest.raises(ConfigError, match="models.a:latest: it also names a"):
        config_of(models).catalogue()
    models = {"b": {"type": "fake", "model_name": "tests/b", "aliases": ["a"]},
              "a:latest": {"type": "fake", "model_name": "tests/a"}}  # fmt: skip
    with pytest.raises(ConfigError, match="models.b.aliases: 'a' also names a:latest"):
        config_of(models).catalogue()
    models = {"a": {"type": "fake", "model_name": "tests/a", "aliases": ["x:latest"]}}
    for wanted in ("x", "x:latest", "a:latest"):
        specs, default = config_of(models, model=wanted).catalogue()
        assert (len(specs), default) == (1, "a")


def test_an_alias_may_repeat_the_models_own_name(config_of: Callable[..., Config]) -> None:
    models = {"a": {"type": "fake", "model_name": "tests/a", "aliases": ["a", "tests/a", "x"]}}
    (spec,), _ = config_of(models).catalogue()
    assert spec.names == ("a", "tests/a", "x")


def test_new_aliases_need_no_new_load(config_of: Callable[..., Config]) -> None:
    """An alias that is added to the file answers once the models are changed, on the same load."""
    config = config_of({"a": {"type": "fake", "model_name": "tests/a"}})
    app: Flask = create_app(config, wait=True)
    client = app.test_client()
    registry = app.extensions["services"].engine.registry
    before = registry.get("a").loaded
    file = config.model_config_file
    content = json.loads(file.read_text())
    content["models"]["a"]["aliases"] = ["new"]
    content["models"]["b"] = {"type": "fake", "model_name": "tests/b"}
    file.write_text(json.dumps(content))
    reply = client.post("/settings", json={"key": "max_queue_tokens", "value": 5000})
    assert reply.status_code == 200, reply.text
    assert vector(client, model="new") == vector(client, model="a")
    assert registry.get("new").loaded is before
