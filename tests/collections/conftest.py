"""Fixtures of the collections' tests: an application on each kind of store, and four points."""

from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

from config import Config
from factory import create_app

MODELS = {
    "small": {"type": "fake", "model_name": "tests/small", "dimensions": 8},
    "other": {"type": "fake", "model_name": "tests/other", "dimensions": 8},
    "wide": {"type": "fake", "model_name": "tests/wide", "dimensions": 12},
}


@pytest.fixture(params=["file", "postgres"])
def store_settings(request: pytest.FixtureRequest, tmp_path) -> Iterator[dict]:
    """Settings of each kind of store, empty."""
    settings = {"store_dir": tmp_path / "store"}
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        settings["store_url"] = server.database()
    yield settings


@pytest.fixture
def app(config_of: Callable[..., Config], store_settings: dict):
    app = create_app(config_of(MODELS, **store_settings), wait=True)
    yield app
    app.extensions["services"].documents.store.close()


@pytest.fixture
def client(app) -> FlaskClient:
    return app.test_client()


def unit(*numbers: float) -> list[float]:
    return [*numbers, *[0.0] * (4 - len(numbers))]


@pytest.fixture
def points(client: FlaskClient) -> FlaskClient:
    """A collection `points` of four vectors."""
    assert client.post("/collections", json={"name": "points", "dimension": 4}).status_code == 201
    rows = [
        {"id": "x", "vector": unit(1), "metadata": {"n": 1, "tag": "a"}},
        {"id": "y", "vector": unit(0, 1), "metadata": {"n": 2, "tag": "a"}},
        {"id": "xy", "vector": unit(3, 3), "text": "both", "metadata": {"n": 3, "tag": "b"}},
        {"id": "z", "vector": unit(0, 0, 1), "metadata": {"n": 4}},
    ]
    reply = client.post("/collections/points/vectors", json={"vectors": rows})
    assert reply.status_code == 201
    assert (reply.json["inserted"], reply.json["updated"]) == (4, 0)
    return client
