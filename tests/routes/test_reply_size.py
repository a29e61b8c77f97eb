"""More vectors than MAX_REPLY_BYTES holds are refused, before they are made where that can be."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from embedders.base import Encoded
from embedders.fake import FakeEmbedder
from factory import create_app

WIDE = 1000  # numbers of a vector
LIMIT = 100_000
# How many vectors a reply holds, by how they are written: LIMIT / (WIDE * bytes a number + 64).
HOLDS = {
    ("float", "float"): 7, ("base64", "float"): 18, ("float", "int8"): 24, ("base64", "int8"): 71,
    ("float", "ubinary"): 177, ("base64", "binary"): 433,
}  # fmt: skip


class Counting(FakeEmbedder):
    """An embedder that counts its passes, whose vectors are WIDE whatever is known of it."""

    passes = 0

    def encode(self, items, deadline=None):
        self.passes += 1
        vectors = np.random.default_rng(0).normal(size=(len(items), WIDE)).astype(np.float32)
        return Encoded.dense(vectors, [item.tokens for item in items])


@pytest.fixture
def embedder() -> Counting:
    return Counting(dimension=WIDE)


@pytest.fixture
def client(config_of: Callable[..., Config], embedder: Counting) -> FlaskClient:
    app = create_app(
        config_of(max_reply_bytes=LIMIT), build=lambda spec, settings: embedder, wait=True
    )
    embedder.passes = 0
    return app.test_client()


@pytest.mark.parametrize("path", ["/embed", "/batch-embed"])
@pytest.mark.fault("Hostile clients")
def test_more_vectors_than_a_reply_holds_are_refused_unmade(
    client: FlaskClient, embedder: Counting, path: str
) -> None:
    """Texts whose vectors exceed `MAX_REPLY_BYTES` -> 413 that says how many are allowed, as
    numbers and in base64; no text is encoded.
    """
    reply = client.post(path, json={"texts": ["a"] * 8})
    assert (reply.status_code, embedder.passes) == (413, 0)
    assert "at most 7 texts, or 18 in base64" in reply.json["error"]
    reply = client.post(path, json={"texts": ["a"] * 7})
    assert reply.status_code == 200
    assert len(reply.data) < LIMIT


@pytest.mark.parametrize(("form", "most"), HOLDS.items())
def test_each_form_has_its_own_most(
    client: FlaskClient, embedder: Counting, form: tuple[str, str], most: int
) -> None:
    body = {"encoding_format": form[0], "output_dtype": form[1]}
    reply = client.post("/v1/embeddings", json={"input": ["a"] * (most + 1), **body})
    assert (reply.status_code, embedder.passes) == (413, 0)
    assert f"at most {most} texts" in reply.json["error"]["message"]
    assert ("in base64" in reply.text) == (form[0] == "float")
    reply = client.post("/v1/embeddings", json={"input": ["a"] * most, **body})
    assert reply.status_code == 200
    assert len(reply.data) < LIMIT
    assert len(reply.data) > LIMIT / 2


def test_shorter_vectors_are_counted_as_short(client: FlaskClient) -> None:
    body = {"input": ["a"] * 100, "dimensions": 50}
    assert client.post("/v1/embeddings", json=body).status_code == 200
    reply = client.post("/v1/embeddings", json={"input": "a", "dimensions": 10**9})
    assert reply.status_code == 400
    assert "more than the 1000" in reply.text


def test_a_dimension_that_is_known_late_is_held_to_the_limit_too(
    client: FlaskClient, embedder: Counting
) -> None:
    embedder.facts = dataclasses.replace(embedder.facts, dimension=0)
    reply = client.post("/embed", json={"texts": ["a"] * 8})
    assert (reply.status_code, embedder.passes) == (413, 1)


def test_a_history_that_is_too_long_for_a_reply_is_refused(
    config_of: Callable[..., Config],
) -> None:
    client = create_app(config_of(max_reply_bytes=1024), wait=True).test_client()
    origins = [f"https://{i}.example" for i in range(20)]
    for some in (origins, origins[:-1], origins):
        body = {"key": "cors_origins", "value": some}
        assert client.post("/settings", json=body).status_code == 200
    reply = client.get("/settings/history")
    assert reply.status_code == 413
    assert "ask for fewer" in reply.json["error"]
    assert client.get("/settings/history?limit=1").status_code == 200
