"""Wrong passwords are counted by all workers together where there is Redis, by each where not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from accounts.login_throttle import Limit, LoginThrottle
from errors import RateLimited, Unauthorized
from tests.accounts.conftest import ADMIN, SECRET
from tests.conftest import write_models
from tests.servers.redis import Redis


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Redis more time than in service: on a busy machine what comes late is not counted."""
    monkeypatch.setattr("cache.redis.connect.__defaults__", (5.0,))


@pytest.fixture
def workers(redis_server: Redis) -> Iterator[list[LoginThrottle]]:
    """Three workers on one Redis."""
    redis_server.flush()
    made = [LoginThrottle(redis_server.url()) for _ in range(3)]
    yield made
    for each in made:
        each.close()


def limits(name: str = "ana", most: int = 5) -> list[Limit]:
    return [(("user", name), most), (("address", "::1"), 8)]


def wrong(throttle: LoginThrottle, name: str = "ana", most: int = 5) -> int:
    """Send a wrong password; return the status."""
    try:
        with throttle.attempt(limits(name, most)):
            raise Unauthorized("wrong")
    except Unauthorized:
        return 401
    except RateLimited as refused:
        assert 1 <= (refused.retry_after_s or 0) <= 60
        return 429


def right(throttle: LoginThrottle, name: str = "ana") -> None:
    """Send the right password."""
    with throttle.attempt(limits(name)):
        pass


def test_wrong_passwords_at_several_workers_are_one_count(workers: list[LoginThrottle]) -> None:
    statuses = [wrong(workers[i % 3]) for i in range(9)]
    assert statuses == [401] * 5 + [429] * 4
    assert wrong(workers[1], "bob") == 401


def test_a_right_password_does_not_count(workers: list[LoginThrottle]) -> None:
    for i in range(12):
        right(workers[i % 3])
    assert [wrong(workers[i % 3]) for i in range(6)] == [401] * 5 + [429]
    with pytest.raises(RateLimited):
        right(workers[2])


@pytest.mark.parametrize("right", [True, False])
def test_of_guesses_at_once_at_several_workers_no_more_are_answered_than_allowed(
    workers: list[LoginThrottle], right: bool
) -> None:
    """All begin before one is counted; whether the last is right cannot be told from its reply."""
    guesses = [worker.attempt(limits(most=2)) for worker in workers]
    for guess in guesses:
        guess.__enter__()
    for guess in guesses[:2]:
        wrong_one = Unauthorized("wrong")
        assert not guess.__exit__(Unauthorized, wrong_one, None), "it is answered"
    with pytest.raises(RateLimited) as refused:
        error = None if right else Unauthorized("wrong")
        guesses[2].__exit__(type(error) if error else None, error, None)
    assert 50 < (refused.value.retry_after_s or 0) <= 60


def test_a_refused_guess_does_not_count(workers: list[LoginThrottle]) -> None:
    assert [wrong(workers[i % 3]) for i in range(20)].count(401) == 5
    assert [wrong(workers[i % 3], "bob") for i in range(4)] == [401] * 3 + [429]


def test_names_are_not_kept_in_redis(workers: list[LoginThrottle], redis_server: Redis) -> None:
    wrong(workers[0], "a secret that was typed as a name")
    client = workers[0]._client
    keys = client.keys("*")
    assert len(keys) == 2 and b"secret" not in b"".join(keys)
    assert all(0 < client.ttl(key) <= 60 for key in keys)


@pytest.mark.fault("Redis")
def test_without_its_redis_each_worker_counts_for_itself() -> None:
    """Redis stops while passwords are guessed -> each worker counts for itself, and the log says
    so.
    """
    with Redis() as server:
        throttle = LoginThrottle(server.url())
        assert [wrong(throttle) for _ in range(3)] == [401] * 3
        server.kill()
        assert [wrong(throttle) for _ in range(4)] == [401, 401, 429, 429]
    assert [wrong(throttle, "bob") for _ in range(4)] == [401] * 3 + [429]
    assert throttle.problem is not None and "Redis for sign-ins" in throttle.problem
    throttle.close()


@pytest.mark.fault("Accounts")
def test_guesses_at_all_workers_are_slowed_as_one(
    serve: Callable[..., str], redis_server: Redis, tmp_path: Path
) -> None:
    """Passwords are guessed at several workers -> with Redis all workers count together."""
    redis_server.flush()
    models = {"fake": {"type": "fake", "model_name": "tests/fake"}}
    url = serve(
        "-w", "2", AUTH_ENABLED="true", JWT_SECRET_KEY=SECRET, ADMIN_PASSWORD=ADMIN[1],
        EMBEDDING_DB_URL=f"sqlite:///{tmp_path}/a.db", DATA_DIR=str(tmp_path / "data"),
        MODEL_CONFIG=str(write_models(tmp_path / "m.json", models)),
        SUPPORTED_MODELS_FILE=str(tmp_path / "none"), CACHE="none",
        REDIS_ENABLED="true", REDIS_URL=redis_server.url(),
    )  # fmt: skip
    body = {"username": "admin", "password": "a wrong one"}
    statuses = [requests.post(f"{url}/token", json=body, timeout=30).status_code for _ in range(16)]
    assert statuses.count(401) == 5 and statuses.count(429) == 11
