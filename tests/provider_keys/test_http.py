"""Providers and their keys over HTTP: what is told, what is refused, and that it works at once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from tests.provider_keys.conftest import OTHER, SECRET, A
from tests.providers.server import FakeProvider

NETWORK = {"provider_networks": "127.0.0.0/8", "provider_http_hosts": "127.0.0.1"}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    server = FakeProvider()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(provider: FakeProvider) -> dict[str, dict[str, str]]:
    return {
        "m": {
            **{"type": "openai", "model_name": "m"},
            **{"base_url": f"{provider.url}/v1", "provider": "openai"},
        }
    }


@pytest.fixture
def client(config_of: Callable[..., Config], models: dict) -> Iterator[FlaskClient]:
    app = create_app(config_of(models, encryption_key=A, cache="none", **NETWORK), wait=True)
    yield app.test_client()
    app.extensions["services"].provider_keys.close()
    app.extensions["services"].providers.close()


def openai(client: FlaskClient) -> dict:
    rows = client.get("/providers").json["providers"]
    return next(row for row in rows if row["provider"] == "openai")


def test_it_works(client: FlaskClient, provider: FakeProvider) -> None:
    assert client.post("/embed", json={"text": "t"}).status_code == 503
    reply = client.post("/providers/openai/api-key", json={"api_key": SECRET})
    assert reply.status_code == 200
    assert reply.headers["Cache-Control"] == "no-store"
    assert client.post("/embed", json={"text": "t"}).status_code == 200
    assert provider.seen[-1][1]["Authorization"] == f"Bearer {SECRET}"
    row = openai(client)
    assert reply.json["last_four"] == row["last_four"] == "QWER"
    assert (row["configured"], row["key_source"], row["problem"]) == (True, "stored", None)
    assert row["last_used"] is not None
    assert list(row["breaker"].values()) == ["closed"]


def test_all_providers_are_listed(client: FlaskClient) -> None:
    reply = client.get("/providers")
    names = {row["provider"] for row in reply.json["providers"]}
    assert names >= {"openai", "azure", "cohere", "huggingface"}
    assert all(not row["configured"] for row in reply.json["providers"])


def test_a_key_never_comes_out(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    answers = [
        client.post("/providers/openai/api-key", json={"api_key": SECRET}),
        client.get("/providers"),
        client.post("/providers/openai/api-key", json={"api_key": SECRET, "more": 1}),
        client.post("/providers/openai/api-key", json={"api_key": [SECRET]}),
        client.post("/providers/openai/api-key", json={"api_key": f"{SECRET} x"}),
        client.post(f"/providers/{SECRET}/api-key", json={"api_key": SECRET}),
        client.post("/providers/openai/test"),
        client.delete("/providers/openai/api-key"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 422, 422, 422, 404, 200, 200]
    for answer in answers:
        assert SECRET not in answer.text and SECRET not in str(answer.headers)


def test_a_key_can_be_tried(client: FlaskClient, provider: FakeProvider) -> None:
    assert client.post("/providers/openai/test").status_code == 503
    client.post("/providers/openai/api-key", json={"api_key": SECRET})
    tried = client.post("/providers/openai/test")
    assert tried.status_code == 200
    assert (tried.json["ok"], tried.json["model"], tried.json["dimension"]) == (True, "m", 8)
    provider.always = (401, {})
    refused = client.post("/providers/openai/test")
    assert refused.status_code in (502, 503)
    assert client.post("/providers/nonsense/test").status_code == 404


def test_a_key_can_be_taken_away(client: FlaskClient) -> None:
    assert client.delete("/providers/openai/api-key").status_code == 404
    client.post("/providers/openai/api-key", json={"api_key": SECRET})
    gone = client.delete("/providers/openai/api-key")
    assert (gone.status_code, gone.json["key_source"]) == (200, "none")
    assert client.post("/embed", json={"text": "t"}).status_code == 503


def test_without_an_encryption_key_nothing_is_kept(
    config_of: Callable[..., Config], tmp_path: Path
) -> None:
    client = create_app(config_of(), wait=True).test_client()
    reply = client.post("/providers/openai/api-key", json={"api_key": SECRET})
    assert reply.status_code == 409
    assert "Fernet.generate_key()" in reply.json["error"]
    assert not list(tmp_path.glob("service.db*"))


def test_health_tells_when_the_keys_cannot_be_read(config_of: Callable[..., Config]) -> None:
    away = "postgresql://nobody@127.0.0.1:1/none"
    app = create_app(config_of(encryption_key=A, db_url=away), wait=True)
    told = app.test_client().get("/health").json["degraded"]
    assert told == "the providers' keys: the SQL database failed (Unavailable)"
    app.extensions["services"].provider_keys.close()


def test_only_an_admin_may_look_or_change(client: FlaskClient) -> None:
    """Without sign-in that is whoever calls from this machine."""
    elsewhere = {"REMOTE_ADDR": "203.0.113.7"}
    body = {"api_key": SECRET}
    assert client.get("/providers", environ_base=elsewhere).status_code == 401
    for path in ("/providers/openai/api-key", "/providers/openai/test"):
        assert client.post(path, json=body, environ_base=elsewhere).status_code == 401
    assert client.delete("/providers/openai/api-key", environ_base=elsewhere).status_code == 401


def test_every_worker_uses_a_new_key_from_the_next_request(
    serve: Callable[..., str],
    config_of: Callable[..., Config],
    models: dict,
    provider: FakeProvider,
    tmp_path: Path,
) -> None:
    """Two services with one database; the cache is off, so that every request goes out."""
    file = config_of(models).model_config_file
    env = {"MODEL_CONFIG": str(file), "SUPPORTED_MODELS_FILE": "none", "CACHE": "none"}
    env |= {"PROVIDER_NETWORKS": "127.0.0.0/8", "PROVIDER_HTTP_HOSTS": "127.0.0.1"}
    env |= {"ENCRYPTION_KEY": A, "EMBEDDING_DB_URL": f"sqlite:///{tmp_path}/keys.db"}
    env |= {"OPENAI_API_KEY": "sk-of-the-environment"}
    services = [serve(**env), serve(**env)]
    for service in services:
        for key in (SECRET, OTHER):
            stored = requests.post(
                f"{service}/providers/openai/api-key", json={"api_key": key}, timeout=60
            )
            assert stored.status_code == 200
            for each in services:
                reply = requests.post(f"{each}/embed", json={"texts": ["t"]}, timeout=60)
                assert reply.status_code == 200
                assert provider.seen[-1][1]["Authorization"] == f"Bearer {key}"
