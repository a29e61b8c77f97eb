"""What is missing although requests are served, and how much room is left, as metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from config import Config
from factory import create_app
from observability import metrics
from routes import health
from tests.ops.test_metrics import value
from tests.servers.redis import Redis

PARTS = ("settings", "database", "cache", "provider_keys", "store", "limits")


@pytest.fixture
def make(config_of: Callable[..., Config]) -> Iterator[Callable[..., Flask]]:
    """Make an application; what it started is ended."""
    made: list[Flask] = []

    def app(**settings: object) -> Flask:
        made.append(create_app(config_of(**settings), wait=True))
        return made[-1]

    yield app
    for each in made:
        each.extensions["throttle"].close()
        each.extensions["services"].accounts.close()


def shown(app: Flask) -> str:
    """The metrics after a look at the application."""
    health.show(app.extensions["services"], app.extensions["throttle"])
    return metrics.exposition().decode()


def degraded(text: str) -> set[str]:
    """The parts that are shown to be away."""
    return {p for p in PARTS if value(text, f'embedding_degraded{{part="{p}"}}')}


@pytest.mark.fault("Redis")
def test_a_redis_that_is_away_is_a_metric(make: Callable[..., Flask]) -> None:
    """Redis is down -> `embedding_degraded` is 1 for the cache and the limits, for an alert."""
    with Redis() as server:
        app = make(
            redis_enabled=True, redis_url=server.url(), cache="redis",
            requests_per_minute_anonymous=1000, auth_enabled=True,
            jwt_secret_key="a-secret-that-is-long-enough-for-this", admin_password="a-password-1",
            api_key_secret="fixed-key-fixed-key",
        )  # fmt: skip
        client, key = app.test_client(), {"X-API-Key": "fixed-key-fixed-key"}
        assert degraded(shown(app)) == set()
        server.kill()
        for i in range(3):
            assert client.post("/embed", json={"text": f"{i}"}, headers=key).status_code == 200
    assert degraded(shown(app)) == {"cache", "limits"}
    assert client.get("/health").json["degraded"] == "cache; limits"


def test_a_store_and_settings_that_cannot_be_opened_are_metrics(
    make: Callable[..., Flask], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    app = make(
        store_dir=tmp_path / "file" / "store", use_db_settings=True,
        db_url="postgresql://nobody@127.0.0.1:1/none",
    )  # fmt: skip
    assert degraded(shown(app)) >= {"store", "settings"}


def test_a_provider_that_is_left_alone_is_a_metric(make: Callable[..., Flask]) -> None:
    app = make(models={"m": {"type": "openai", "model_name": "m"}})
    series = 'embedding_provider_open{host="api.openai.com",provider="openai"}'
    assert f"{series} 0.0" in shown(app)
    link = app.extensions["services"].providers.get("openai").hosts["api.openai.com"]
    for _ in range(5):
        link.breaker.failed(OSError())
    assert f"{series} 1.0" in shown(app)
    link.breaker.succeeded()
    assert f"{series} 0.0" in shown(app)
