"""How often one may call: counted by caller and role, in memory or in Redis."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import circuit_breaker
from cache.redis import connect
from observability import metrics
from rate_limits import MARGIN_S, PERIOD_S, Tally
from tests.accounts.conftest import ADMIN, add_user, bearer, token_of
from tests.servers.redis import Redis

PROBES = ("/", "/health", "/health/live", "/health/ready", "/docs", "/static/style.css")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Redis more time than in service: on a busy machine what comes late is counted anew."""
    monkeypatch.setattr("rate_limits.REDIS_TIMEOUT_S", 2.0)


class Clock:
    """What `time.time()` says, from the start of a period on."""

    now = float(PERIOD_S * 30_000_000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still."""
    made = Clock()
    monkeypatch.setattr(time, "time", lambda: made.now)
    return made


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


@pytest.mark.fault("Accounts")
def test_requests_are_limited_by_role_and_counted_by_caller(limited: Callable[..., Flask]) -> None:
    """A rate limit is exceeded -> other callers are not affected."""
    client, admin, uma, rob = people(
        limited(requests_per_minute_user=3, requests_per_minute_reader=2)
    )
    assert [client.get("/models", headers=uma).status_code for _ in range(5)] == [200] * 3 + [
        429
    ] * 2
    assert [client.get("/models", headers=rob).status_code for _ in range(3)] == [200] * 2 + [429]
    assert [client.get("/models", headers=admin).status_code for _ in range(9)] == [200] * 9


@pytest.mark.fault("Accounts")
def test_a_refusal_says_when_to_come_back(limited: Callable[..., Flask]) -> None:
    """A rate limit is exceeded -> 429 with `Retry-After`."""
    client, _, uma, _ = people(limited(requests_per_minute_user=1))
    fine = client.get("/models", headers=uma)
    assert fine.headers["X-RateLimit-Limit"] == "1"
    assert fine.headers["X-RateLimit-Remaining"] == "0"
    assert "Retry-After" not in fine.headers
    refused = client.get("/models", headers=uma)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    assert refused.headers["RateLimit"].endswith(f"t={refused.headers['Retry-After']}")
    assert refused.headers["RateLimit-Policy"] == '"requests";q=1;w=60'
    assert "limit of 1 a minute for requests" in refused.json["error"]
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


@pytest.mark.fault("Accounts")
def test_texts_are_counted_as_texts(limited: Callable[..., Flask]) -> None:
    """Many texts in one request -> each text counts."""
    client, _, uma, rob = people(limited(texts_per_minute_user=10))

    def embed(count: int, who: dict = uma) -> int:
        body = {"texts": ["x"] * count}
        return client.post("/embed", json=body, headers=who).status_code

    assert [embed(4), embed(5), embed(3), embed(1), embed(1)] == [200, 200, 429, 200, 429]
    assert embed(4, rob) == 200


@pytest.mark.fault("Accounts")
def test_more_than_a_whole_minutes_worth_can_never_pass_and_says_so(
    limited: Callable[..., Flask],
) -> None:
    """More texts than a whole minute allows -> 413 with `X-Should-Retry: false`, not 429."""
    client, _, uma, _ = people(limited(texts_per_minute_user=10))
    reply = client.post("/embed", json={"texts": ["x"] * 11}, headers=uma)
    assert reply.status_code == 413
    assert reply.headers["X-Should-Retry"] == "false"
    assert client.post("/embed", json={"texts": ["x"] * 10}, headers=uma).status_code == 200


def test_a_refusal_for_texts_says_so_and_tells_no_limit_of_requests(
    limited: Callable[..., Flask],
) -> None:
    client, _, uma, _ = people(limited(texts_per_minute_user=10, requests_per_minute_user=50))
    body = {"model": "fake", "input": ["x"] * 6}
    fine = client.post("/v1/embeddings", json=body, headers=uma)
    assert fine.headers["x-ratelimit-limit-requests"] == "50"
    refused = client.post("/v1/embeddings", json=body, headers=uma)
    assert refused.status_code == 429
    assert "limit of 10 a minute for texts" in refused.json["error"]["message"]
    assert refused.headers["RateLimit-Policy"] == '"texts";q=10;w=60'
    assert refused.headers["x-ratelimit-limit-texts"] == "10"
    assert refused.headers["x-ratelimit-remaining-texts"] == "4"
    told = {name.lower() for name, _ in refused.headers}
    assert not told & {"x-ratelimit-limit", "x-ratelimit-limit-requests", "x-ratelimit-reset"}


@pytest.mark.fault("Accounts")
def test_who_comes_back_when_told_is_served_and_not_before(
    make_app: Callable[..., Flask], clock: Clock
) -> None:
    """A client retries when `Retry-After` says -> served then, and not before."""
    app = make_app(auth_enabled=False, texts_per_minute_anonymous=10)
    client, far = app.test_client(), {"REMOTE_ADDR": "203.0.113.1"}

    def embed(count: int) -> TestResponse:
        return client.post("/embed", json={"texts": ["x"] * count}, environ_overrides=far)

    for count in (7, 10, 1, 3):
        reply = embed(count)
        while reply.status_code == 429:
            wait = int(reply.headers["Retry-After"])
            clock.now += wait - 1.01
            assert embed(count).status_code == 429, "told to wait too long"
            clock.now += 1.01
            reply = embed(count)
            assert reply.status_code == 200, "told to come back too soon"


@pytest.mark.parametrize("offset", [0.0, 0.5, 29.7, 59.99])
@pytest.mark.parametrize("before", [0, 1, 6, 10])
@pytest.mark.parametrize("cost", [1, 4, 10])
def test_the_wait_is_the_least_after_which_there_is_room(
    clock: Clock, offset: float, before: int, cost: int
) -> None:
    tally, key = Tally(), "who/what/10/1/minute"

    def take(amount: int) -> bool:
        return tally.acquire_sliding_window_entry(key, 10, PERIOD_S, amount)

    assert before == 0 or take(before)
    clock.now += PERIOD_S + offset
    while take(1):
        pass
    wait = tally.window(key).wait_s(10, cost)
    assert 0 < wait <= 2 * PERIOD_S
    early = min(2 * MARGIN_S, wait)
    clock.now += wait - early
    assert not take(cost)
    clock.now += early
    assert take(cost)
    assert tally.window(key).wait_s(10, 10) > 0


def test_redis_has_room_when_it_was_told(redis_server: Redis) -> None:
    redis_server.flush()
    tally, key = Tally(address=redis_server.url()), "who/what/10/1/minute"
    assert tally.window(key).wait_s(10, 10) == 0
    assert tally.acquire_sliding_window_entry(key, 10, PERIOD_S, 10)
    window = tally.window(key)
    assert (window.last, window.this, window.left(10)) == (0, 10, 0)
    # as it is in the next period: the last one's 10 weigh 1.3 for the 8 s that this one has left
    client = connect(redis_server.url())
    [current] = client.keys("*")
    client.set(current + b"/-1", 10, px=8_000)
    client.set(current, 9, px=68_000)
    assert not tally.acquire_sliding_window_entry(key, 10, PERIOD_S, 1)
    wait = tally.window(key).wait_s(10, 1)
    assert wait < 2.1
    time.sleep(wait)
    assert tally.acquire_sliding_window_entry(key, 10, PERIOD_S, 1)
    client.close()


def test_a_users_keys_of_every_role_count_together(limited: Callable[..., Flask]) -> None:
    client, admin, uma, _ = people(
        limited(requests_per_minute_user=4, requests_per_minute_reader=3)
    )
    capped = client.post("/users/uma/api-key", json={"role": "reader"}, headers=admin).json
    key = bearer(capped["api_key"])
    statuses = [client.get("/models", headers=h).status_code for h in (uma, key, uma, key, uma)]
    assert statuses == [200, 200, 200, 429, 200]
    assert client.get("/models", headers=uma).status_code == 429


def test_strangers_are_limited_by_address_while_nobody_signs_in(
    limited: Callable[..., Flask],
) -> None:
    client = limited(auth_enabled=False, requests_per_minute_anonymous=2).test_client()
    here, there = ({"REMOTE_ADDR": a} for a in ("203.0.113.1", "203.0.113.2"))
    statuses = [client.get("/models", environ_overrides=here).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert client.get("/models", environ_overrides=there).status_code == 200


def test_probes_and_pages_are_not_counted_and_signing_in_is(make_app: Callable[..., Flask]) -> None:
    client = make_app(requests_per_minute_anonymous=2).test_client()
    for path in PROBES * 2:
        reply = client.get(path)
        assert reply.status_code == 200 and "RateLimit" not in reply.headers, path
    form = {"username": ADMIN[0], "password": ADMIN[1]}
    statuses = [client.post("/token", data=form).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


@pytest.mark.fault("Overload")
def test_while_every_permit_is_taken_only_work_is_refused(make_app: Callable[..., Flask]) -> None:
    """More requests than threads -> only work is refused: `/metrics` and `/models` still answer."""
    app = make_app(auth_enabled=False)
    client, permits = app.test_client(), app.extensions["throttle"].permits
    with ExitStack() as held:
        for _ in range(permits.most):
            held.enter_context(permits.one())
        for path in ("/metrics", "/models", "/models/fake", "/info", "/model/info", "/v1/models",
                     "/users/me", *PROBES):  # fmt: skip
            assert client.get(path).status_code == 200, path
        for path in ("/embed", "/batch-embed", "/embed/single", "/v1/embeddings",
                     "/embed-and-store", "/collections/x/search", "/collections"):  # fmt: skip
            reply = client.post(path, json={})
            assert reply.status_code == 429 and "Retry-After" in reply.headers, path
    assert client.post("/embed", json={"text": "x"}).status_code == 200


@pytest.mark.fault("Redis")
def test_a_dead_redis_costs_no_request(make_app: Callable[..., Flask]) -> None:
    """Redis refuses connections -> limits are counted in memory."""
    with Redis() as server:
        app = make_app(redis_enabled=True, redis_url=server.url(), requests_per_minute_user=3)
        client, _, uma, _ = people(app)
        assert client.get("/models", headers=uma).status_code == 200
        server.kill()
        statuses = [client.get("/models", headers=uma).status_code for _ in range(5)]
    assert statuses == [200] * 3 + [429] * 2, "counted anew in memory"


@pytest.mark.fault("Redis")
def test_a_frozen_redis_costs_no_request(make_app: Callable[..., Flask]) -> None:
    """Redis hangs -> limits are counted in memory."""
    with Redis() as server:
        app = make_app(redis_enabled=True, redis_url=server.url(), requests_per_minute_user=3)
        client, admin, uma, _ = people(app)
        server.pause()
        asked = count_calls(app.extensions["throttle"]._tally._shared)
        statuses = [client.get("/models", headers=uma).status_code for _ in range(5)]
        degraded = client.get("/health", headers=admin).json["degraded"]
        server.resume()
    assert statuses == [200] * 3 + [429] * 2
    assert "Redis for the limits failed (TimeoutError)" in degraded
    assert len(asked) == 1, "more than one request waited for it"


@pytest.mark.fault("Redis")
def test_a_redis_that_is_back_counts_again(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is back -> limits are counted in Redis again."""
    monkeypatch.setattr(circuit_breaker, "PAUSES_S", (0.05,))
    with Redis() as server:
        app = make_app(redis_enabled=True, redis_url=server.url(), requests_per_minute_user=2)
        client, _, uma, _ = people(app)
        server.pause()
        assert client.get("/models", headers=uma).status_code == 200
        assert app.extensions["throttle"].problem
        server.resume()
        end = time.monotonic() + 30
        while app.extensions["throttle"].problem:
            assert time.monotonic() < end
            time.sleep(0.02)
        statuses = [client.get("/models", headers=uma).status_code for _ in range(3)]
    assert statuses == [200, 200, 429], "not counted in Redis, which has counted nothing yet"


def count_calls(shared: object) -> list[str]:
    """Note what Redis is asked from now on."""
    asked: list[str] = []

    def noted(name: str, ask: Callable) -> Callable:
        return lambda *given: (asked.append(name), ask(*given))[1]

    for name in ("acquire_sliding_window_entry", "get_sliding_window"):
        setattr(shared, name, noted(name, getattr(shared, name)))
    return asked
