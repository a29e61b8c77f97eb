"""Wrong passwords are counted by all workers together where there is Redis, by each where not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from accounts.login_throttle import Tries
from errors import RateLimited, Unauthorized
from tests.accounts.conftest import ADMIN, SECRET
from tests.conftest import write_models
from tests.servers.redis import Redis


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Redis more time than in service: on a busy machine what comes late is not counted."""
    monkeypatch.setattr("cache.redis.connect.__defaults__", (5.0,))


@pytest.fixture
def workers(redis_server: Redis) -> Iterator[list[Tries]]:
    """The counts of three workers on one Redis."""
    redis_server.flush()
    made = [Tries(redis_server.url()) for _ in range(3)]
    yield made
    for each in made:
        each.close()


def wrong(tries: Tries, name: str = "ana", most: int = 5) -> int:
    """Try a wrong password; return the status."""
    try:
        with tries.one([(("user", name), most), (("address", "::1"), 100)]):
            raise Unauthorized("wrong")
    except Unauthorized:
        return 401
    except RateLimited as refused:
        assert 1 <= (refused.retry_after_s or 0) <= 60
        return 429


def right(tries: Tries, name: str = "ana") -> None:
    """Try the right password."""
    with tries.one([(("user", name), 5), (("address", "::1"), 100)]):
        pass


def test_tries_at_several_workers_are_one_count(workers: list[Tries]) -> None:
    statuses = [wrong(workers[i % 3]) for i in range(9)]
    assert statuses == [401] * 5 + [429] * 4
    assert wrong(workers[1], "bob") == 401


def test_a_right_password_is_taken_back_everywhere(workers: list[Tries]) -> None:
    for i in range(12):
        right(workers[i % 3])
    assert [wrong(workers[i % 3]) for i in range(6)] == [401] * 5 + [429]
    with pytest.raises(RateLimited):
        right(workers[2])


def test_a_try_under_way_at_one_worker_counts_at_another(workers: list[Tries]) -> None:
    with workers[0].one([(("user", "ana"), 2)]), workers[1].one([(("user", "ana"), 2)]):
        assert wrong(workers[2], most=2) == 429
    assert wrong(workers[2], most=2) == 401


def test_a_refused_try_does_not_count(workers: list[Tries]) -> None:
    for _ in range(10):
        wrong(workers[0], most=1)
        wrong(workers[1], most=1)
    assert [wrong(workers[2], most=2) for _ in range(2)] == [401, 429]


def test_names_are_not_kept_in_redis(workers: list[Tries], redis_server: Redis) -> None:
    wrong(workers[0], "a secret that was typed as a name")
    client = workers[0]._shared._client  # type: ignore[union-attr]
    keys = client.keys("*")
    assert len(keys) == 2 and b"secret" not in b"".join(keys)
    assert all(0 < client.ttl(key) <= 60 for key in keys)


@pytest.mark.fault("Redis")
def test_without_its_redis_each_worker_counts_for_itself() -> None:
    """Redis stops while passwords are guessed -> each worker counts for itself, and says so."""
    with Redis() as server:
        tries = Tries(server.url())
        assert [wrong(tries) for _ in range(3)] == [401] * 3
        server.kill()
        assert [wrong(tries) for _ in range(4)] == [401, 401, 429, 429]
    assert [wrong(tries, "bob") for _ in range(6)] == [401] * 5 + [429]
    assert tries.problem is not None and "redis for the sign-ins" in tries.problem
    tries.close()


@pytest.mark.fault("Accounts")
def test_guesses_at_all_workers_are_slowed_as_one(
    serve: Callable[..., str], redis_server: Redis, tmp_path: Path
) -> None:
    """Passwords are guessed at several workers -> with Redis they count together."""
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
