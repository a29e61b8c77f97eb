"""How often one may call: counted by caller and role, in memory or in Redis."""

from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

import metrics
from tests.accounts.conftest import ADMIN, add_user, bearer, token_of
from tests.servers.redis import Redis


@pytest.fixture(params=["memory", "redis"])
def limited(request: pytest.FixtureRequest, make_app: Callable[..., Flask]) -> Callable[..., Flask]:
    """Make an application whose limits are counted in each kind of storage."""

    def make(**settings: object) -> Flask:
        if request.param == "redis":
            server = request.getfixturevalue("redis_server")
            server.flush()
            settings |= {"redis_enabled": True, "redis_url": server.url()}
        return make_app(**settings)

    return make


def people(app: Flask) -> tuple[FlaskClient, dict, dict, dict]:
    client = app.test_client()
    admin = bearer(token_of(client, *ADMIN))
    return client, admin, add_user(client, admin, "uma"), add_user(client, admin, "rob", "reader")


def test_requests_are_limited_by_role_and_counted_by_caller(limited: Callable[..., Flask]) -> None:
    client, admin, uma, rob = people(
        limited(requests_per_minute_user=3, requests_per_minute_reader=2)
    )
    assert [client.get("/models", headers=uma).status_code for _ in range(5)] == [200] * 3 + [
        429
    ] * 2
    assert [client.get("/models", headers=rob).status_code for _ in range(3)] == [200] * 2 + [429]
    assert [client.get("/models", headers=admin).status_code for _ in range(9)] == [200] * 9


def test_a_refusal_says_when_to_come_back(limited: Callable[..., Flask]) -> None:
    client, _, uma, _ = people(limited(requests_per_minute_user=1))
    fine = client.get("/models", headers=uma)
    assert fine.headers["X-RateLimit-Limit"] == "1"
    assert fine.headers["X-RateLimit-Remaining"] == "0"
    assert "Retry-After" not in fine.headers
    refused = client.get("/models", headers=uma)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    assert refused.headers["RateLimit-Policy"] == '"requests";q=1;w=60'
    assert "limit of 1 a minute" in refused.json["error"]
    v1 = client.post("/v1/embeddings", json={"model": "fake", "input": "x"}, headers=uma)
    assert v1.json["error"]["code"] == "rate_limit_exceeded"
    assert v1.headers["x-ratelimit-limit-requests"] == "1"


def test_refusals_are_counted_by_role(make_app: Callable[..., Flask]) -> None:
    client, _, uma, _ = people(make_app(requests_per_minute_user=1))

    def refused(role: str) -> float:
        return metrics.RATE_LIMITED.labels(role)._value.get()

    before = [refused(role) for role in ("user", "anonymous", "reader")]
    for _ in range(3):
        client.get("/models", headers=uma)
    for _ in range(6):
        client.post("/token", json={"username": "uma", "password": "a wrong one"})
    after = [refused(role) for role in ("user", "anonymous", "reader")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 0]


def test_texts_are_counted_as_texts(limited: Callable[..., Flask]) -> None:
    client, _, uma, rob = people(limited(texts_per_minute_user=10))

    def embed(count: int, who: dict = uma) -> int:
        body = {"texts": ["x"] * count}
        return client.post("/embed", json=body, headers=who).status_code

    assert [embed(4), embed(5), embed(3), embed(1), embed(1)] == [200, 200, 429, 200, 429]
    assert embed(4, rob) == 200


def test_more_than_a_whole_minutes_worth_can_never_pass_and_says_so(
    limited: Callable[..., Flask],
) -> None:
    client, _, uma, _ = people(limited(texts_per_minute_user=10))
    reply = client.post("/embed", json={"texts": ["x"] * 11}, headers=uma)
    assert reply.status_code == 413
    assert reply.headers["X-Should-Retry"] == "false"
    assert client.post("/embed", json={"texts": ["x"] * 10}, headers=uma).status_code == 200


def test_strangers_are_limited_by_address_while_nobody_signs_in(
    limited: Callable[..., Flask],
) -> None:
    client = limited(auth_enabled=False, requests_per_minute_anonymous=2).test_client()
    here, there = ({"REMOTE_ADDR": a} for a in ("203.0.113.1", "203.0.113.2"))
    statuses = [client.get("/models", environ_overrides=here).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert client.get("/models", environ_overrides=there).status_code == 200


def test_a_dead_redis_costs_no_request(make_app: Callable[..., Flask]) -> None:
    with Redis() as server:
        app = make_app(redis_enabled=True, redis_url=server.url(), requests_per_minute_user=3)
        client, _, uma, _ = people(app)
        assert client.get("/models", headers=uma).status_code == 200
        server.kill()
        statuses = [client.get("/models", headers=uma).status_code for _ in range(5)]
    assert statuses == [200] * 3 + [429] * 2, "counted anew in memory"


def test_a_frozen_redis_costs_no_request(make_app: Callable[..., Flask]) -> None:
    with Redis() as server:
        app = make_app(redis_enabled=True, redis_url=server.url(), requests_per_minute_user=3)
        client, _, uma, _ = people(app)
        server.pause()
        statuses = [client.get("/models", headers=uma).status_code for _ in range(5)]
        server.resume()
    assert statuses == [200] * 3 + [429] * 2
